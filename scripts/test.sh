#!/usr/bin/env bash
# Set up the environment if needed and run every test, the slow ones too.
# Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" requirements-dev.lock

ruff check .
ruff format --check .
if command -v node > /dev/null; then
  pyright
else
  echo "no node on this machine: types are not checked" >&2
fi
exec python -m pytest -n 2 --dist worksteal "$@"
