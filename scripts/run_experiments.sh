#!/usr/bin/env bash
# Runs every point of a grid; the same command goes on where it was stopped.
# usage: bash scripts/run_experiments.sh [GRID.yaml [OPTIONS of fluidserve sweep]]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_help.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" requirements.lock
grid="${1:-config/grid.yaml}"
[ $# -gt 0 ] && shift
mkdir -p data/experiments
exec fluidserve sweep "$grid" --output "data/experiments/$(basename "${grid%.*}").csv" "$@"
