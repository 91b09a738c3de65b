"""Means and tails of one node: the node-work process against the engine, every cell, worst first.

    python benchmarks/one_node_accuracy.py                       # the normal mix, two budgets
    python benchmarks/one_node_accuracy.py --lengths FILE        # lengths of a trace, its own node
    python benchmarks/one_node_accuracy.py --lengths FILE --server seats   # vLLM with 64 seats
    python benchmarks/one_node_accuracy.py --lengths FILE --server kv      # or 3,000 blocks of KV
    python benchmarks/one_node_accuracy.py --quick               # fewer loads and replications

Prints a Markdown table; ``--json FILE`` writes the rows besides.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fluid import capacity
from serving import BatchTimeLaw, DecodeNode, VllmV1
from studies import Question
from studies.one_node import Cell, node_sized_for, one_node_cells, table_of, to_json
from workload import describe

LOADS = (0.3, 0.6, 0.8, 0.9, 0.95, 1.1, 1.5)
TRACE_LOADS = (0.6, 0.9, 1.1)
HORIZON = 6000.0
REQUESTS = 800.0
"""Requests that arrive at load 1 in the horizon of a trace's node."""


SERVER_ERROR = 0.03
"""Standard error that replications of a server aim at: its engine takes longer."""

LAW = BatchTimeLaw(d_0=0.017, d_decode=3.9e-5, d_prefill=1e-4, d_kv=1.5e-7)
"""Steps [s] about as long as those of a model of 8 billion parameters on a card of 24 GB."""

SERVERS = {
    "seats": VllmV1(batch_time=LAW, num_gpu_blocks=100_000, max_num_seqs=64),
    "kv": VllmV1(batch_time=LAW, num_gpu_blocks=3000),
}
"""Servers in vLLM's default mode, by the limit that they meet first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", help="a trace or lengths-only file")
    parser.add_argument("--server", choices=list(SERVERS), help="a server with its own prefill")
    parser.add_argument("--mode", default="swapping")
    parser.add_argument("--method", default="node_work")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    def told(text: str) -> None:
        print(text, file=sys.stderr)

    options = {"method": chosen.method, "progress": told}
    if chosen.quick:
        options |= {"error": 0.1, "fewest": 80, "most": 400}
    cells: list[Cell] = []
    if chosen.server and not chosen.lengths:
        parser.error("--server needs --lengths")
    if chosen.lengths:
        workload = describe(lengths=chosen.lengths)
        node = node_sized_for(workload.mix)
        if chosen.server:
            node = SERVERS[chosen.server]
            options = {"error": SERVER_ERROR, "fewest": 400, "most": 6000} | options
        horizon = REQUESTS / capacity(workload.mix, node)
        name = Path(chosen.lengths).name.split(".")[0]
        loads = TRACE_LOADS[:1] if chosen.quick else TRACE_LOADS
        question = Question(workload, node, horizon=horizon, seed=1)
        cells += one_node_cells(name, question, loads, **options)
    else:
        loads = LOADS[1:2] if chosen.quick else LOADS
        for budget in (2000, None):
            node = DecodeNode(B=budget, mode=chosen.mode)
            name = f"normal, B {budget or 'unlimited'}"
            question = Question(describe("normal"), node, horizon=HORIZON, seed=1)
            cells += one_node_cells(name, question, loads, **options)
    print(table_of(cells))
    missed = [cell for cell in cells if cell.met is False]
    judged = [cell for cell in cells if cell.met is not None]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} cells meet their goal.")
    if chosen.json:
        chosen.json.write_text(json.dumps(to_json(cells), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
