#!/usr/bin/env bash
# From a workload to a decision: scenarios side by side, capacity at an objective, a sweep around
# it, fluid next to discrete at the rate found, and one table of it all.
# usage: bash scripts/run_full_pipeline.sh [FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_help.sh"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${1:-}"
[ -n "$out" ] && [[ "$out" != /* ]] && out="$PWD/$out"
source "$here/_env.sh" requirements.lock
out="${out:-data/experiments/pipeline}"
slo="${SLO:-p99_ttft<200}"
mkdir -p "$out"

bash scripts/run_scenarios.sh "$out/scenarios" > /dev/null
echo "== capacity at $slo" >&2
fluidserve tune max-rate --slo "$slo" --tolerance 0.02 --max-run-length 200000 > "$out/capacity.json"
rate="$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["value"])' \
  "$out/capacity.json")"
echo "== sweep" >&2
fluidserve sweep config/grid.yaml --output "$out/sweep.csv" > /dev/null
echo "== fluid next to discrete at $rate requests per unit of time" >&2
fluidserve compare --arrival-rate "$rate" --horizon 3000 --replications 16 \
  --out "$out/compare" > /dev/null
fluidserve experiments export --home "$out" --output "$out/experiments.csv"
