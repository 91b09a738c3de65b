#!/usr/bin/env bash
# Fetch the real vLLM schedulers that the differential tests compare with: the Python files of the
# wheels named in tests/oracle/vllm.txt, and a small environment of their own that runs them. No
# torch, no card; about 200 MB. A second call does nothing. usage: oracle.sh [DIR]
# DIR is $FLUIDSERVE_ORACLE_DIR where it is not given, or else a folder of the user's cache.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
dir="${1:-${FLUIDSERVE_ORACLE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/fluidserve/oracle}}"
packages="$root/tests/oracle/requirements.txt"
pip_options=(--quiet --disable-pip-version-check --timeout 15 --retries 1)
mkdir -p "$dir"

find_python() {
  local name
  for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then
      echo "$name"
      return
    fi
  done
  echo "the real schedulers need Python 3.11 or newer; set PYTHON=/path/to/python" >&2
  return 1
}

if ! cmp -s "$packages" "$dir/requirements.txt"; then
  "$(find_python)" -m venv --clear "$dir/venv"
  "$dir/venv/bin/python" -m pip install "${pip_options[@]}" --requirement "$packages"
  cp "$packages" "$dir/requirements.txt"
fi

unpack() {
  "$dir/venv/bin/python" - "$1" "$2" <<'PYTHON'
import sys, zipfile

wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    names = [n for n in archive.namelist() if n.endswith(".py") or ".dist-info/" in n]
    archive.extractall(folder, names)
PYTHON
}

while read -r wanted; do
  case "$wanted" in '' | '#'*) continue ;; esac
  version="${wanted#vllm==}"
  [ -d "$dir/vllm-$version" ] && continue
  fetched="$(mktemp -d "$dir/fetched.XXXXXX")"
  trap 'rm -rf "$fetched"' EXIT
  # Any platform's wheel will do: only its Python files are used.
  "$dir/venv/bin/python" -m pip download "${pip_options[@]}" --no-deps --only-binary=:all: \
    --platform manylinux1_x86_64 --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_31_x86_64 --platform manylinux_2_35_x86_64 \
    --dest "$fetched" "$wanted"
  unpack "$fetched"/vllm-*.whl "$fetched/unpacked"
  mv "$fetched/unpacked" "$dir/vllm-$version"
  rm -rf "$fetched"
done < "$root/tests/oracle/vllm.txt"
echo "$dir"
