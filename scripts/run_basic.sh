#!/usr/bin/env bash
# From nothing to a report: sets up an environment if there is none, then generates requests,
# simulates them, solves the fluid model, compares both and writes a report.
# usage: bash scripts/run_basic.sh [FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_help.sh"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${1:-}"
[ -n "$out" ] && [[ "$out" != /* ]] && out="$PWD/$out"
source "$here/_env.sh" requirements.lock

out="${out:-data/experiments/basic}"
node=(--config config/basic.yaml)
workload=(
  --types "(20,80,1);(20,100,1);(20,120,1)" --load 1
  --rate-shape "steps(0:0.5,800:8,840:0.5)" --horizon 2000 --seed 7
)
mkdir -p "$out"

step() { echo "== $1" >&2; }
quietly() { "$@" > /dev/null; }

step "generate: requests with one burst"
quietly fluidserve generate "${node[@]}" "${workload[@]}" --output "$out/requests.csv"
step "simulate: the discrete engine, batch by batch"
quietly fluidserve simulate "${node[@]}" --requests "$out/requests.csv" --out "$out/simulate"
step "solve: the fluid model of the same requests"
quietly fluidserve solve --method lagrangian "${node[@]}" --requests "$out/requests.csv" --out "$out/solve"
step "plot: the two alone"
quietly fluidserve plot "$out/simulate"
quietly fluidserve plot "$out/solve"
step "compare: replications of the engine next to the fluid model"
fluidserve compare "${node[@]}" "${workload[@]}" --out "$out/compare" > "$out/compare.json"

cat >&2 <<EOF

Done. Look at
  $out/compare/report.html    the report: pictures, accuracy, metrics (open it in a browser)
  $out/compare.json           the same as JSON
  $out/simulate               every batch, request and event of one run, with pictures
  $out/solve                  the fluid solution, with a picture
EOF
