#!/usr/bin/env bash
# Set up the environment if needed, check style and types, and meanwhile compile what tests use.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" requirements-dev.lock

ruff check .
ruff format --check .
python scripts/compile_ahead.py & # tests that run side by side would each compile it
compiling=$!
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
if command -v node > /dev/null; then
  pyright
else
  echo "no node on this machine: types are not checked" >&2
fi
wait "$compiling"
