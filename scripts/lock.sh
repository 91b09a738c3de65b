#!/usr/bin/env bash
# Resolve the dependencies of pyproject.toml anew into the two lock files (names, versions and
# hashes for every platform). Needs uv: pip install uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock() {
  local target="$1"
  shift
  {
    echo "# Made by scripts/lock.sh from pyproject.toml; do not edit."
    echo "setuptools>=77" | uv pip compile pyproject.toml - --quiet --universal \
      --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"
  } > "$target.partial"
  mv "$target.partial" "$target"
}

lock requirements.lock
lock requirements-dev.lock --extra dev
