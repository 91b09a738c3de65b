#!/usr/bin/env bash
# The scenarios normal, heavy and bursty on the same node at the same load, side by side.
# usage: bash scripts/run_scenarios.sh [FOLDER [OPTIONS of fluidserve simulate]]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_help.sh"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${1:-}"
[ -n "$out" ] && [[ "$out" != /* ]] && out="$PWD/$out"
source "$here/_env.sh" requirements.lock
out="${out:-data/experiments/scenarios}"
[ $# -gt 0 ] && shift
for scenario in normal heavy bursty; do
  echo "== $scenario" >&2
  fluidserve simulate --scenario "$scenario" --load 0.8 --num-requests 5000 --no-events "$@" \
    --out "$out/$scenario" > /dev/null
done
fluidserve experiments compare "$out/normal" "$out/heavy" "$out/bursty" | tee "$out/compare.json"
