#!/usr/bin/env bash
# Set up the environment if needed and run every check and test, the slow ones too.
# Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/check.sh
source scripts/_env.sh requirements-dev.lock
exec python -m pytest -n 2 --dist worksteal "$@"
