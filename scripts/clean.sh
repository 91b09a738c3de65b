#!/usr/bin/env bash
# Remove what can be made again: caches, builds, experiments. --all removes the environment too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
rm -rf data/experiments data/cache
for room in benchmarks calibration discrete fluid fluidserve notebooks ode scheduling serving \
  tests workload; do
  [ -d "$room" ] && find "$room" \( -name __pycache__ -o -name .ipynb_checkpoints \) \
    -prune -exec rm -rf {} +
done
if [ "${1:-}" = "--all" ]; then
  rm -rf "${FLUIDSERVE_VENV:-.venv}"
fi
