# Sourced by the other scripts: goes to the repository root and puts a Python environment with
# FluidServe on PATH. It is made when missing and brought up to date when a lock file or
# pyproject.toml has changed. usage: source _env.sh [requirements.lock | requirements-dev.lock]

cd "$(dirname "${BASH_SOURCE[0]}")/.."
lock="${1:-requirements.lock}"
environment="${FLUIDSERVE_VENV:-.venv}"
stamp="$environment/.fluidserve-$lock"

find_python() {
  local name
  for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then
      echo "$name"
      return
    fi
  done
  echo "FluidServe needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2
  return 1
}

wanted="$(cat pyproject.toml "$lock" | cksum)"
if [ ! -x "$environment/bin/python" ]; then
  python="$(find_python)"
  echo "setting up a Python environment in $environment (once, a minute or two)" >&2
  "$python" -m venv "$environment"
fi
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  echo "installing the packages of $lock" >&2
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --requirement "$lock" >&2
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --no-build-isolation --editable . >&2
  echo "$wanted" > "$stamp"
fi
export PATH="$PWD/$environment/bin:$PATH"
[[ "$environment" = /* ]] && export PATH="$environment/bin:$PATH"
return 0
