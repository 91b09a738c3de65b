#!/usr/bin/env bash
# Looks after experiment folders.
# usage: bash scripts/manage_experiments.sh list|details|compare|archive|export|stats [ARGUMENTS]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" requirements.lock
exec fluidserve experiments "$@"
