"""Calibrate on the runs of one real server, and predict each run by the law of another.

A folder has runs ``NAME.bench.json.gz`` (``vllm bench serve --save-detailed``), each with what the
server said of it: ``NAME.iterations.txt.gz`` (its log with iterations), ``NAME.metrics.txt.gz``
(scrapes of ``/metrics``) and ``NAME.config.json.gz`` (settings); and, if known, what its prompts
consist of, ``NAME.requests.csv.gz``. ``scripts/validate_real.sh`` makes such a folder.

    python benchmarks/real_server.py ../shared/data/runs/vllm032_cpu --law overload
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration import fit_step_times, read_step_times
from calibration.measured_runs import MeasuredRun, read_measured_run
from calibration.server_runs import COEFFICIENTS, MetricsLog, RunCalibration, calibrate_run
from calibration.server_runs import read_server_log as read
from discrete import Run, engine_for
from fluidserve.measured_server import server_of_run
from serving import BatchTimeLaw, RequestTable, VllmV1, WorkloadError
from studies.replay import replay_of
from studies.validation import replayed
from workload import read_trace

KINDS = {"log": "iterations.txt", "result": "bench.json", "scrape": "metrics.txt"}


@dataclass(frozen=True)
class Measured:
    """A run of the server: its requests, its settings, and its laws by the file they come from."""

    name: str
    run: MeasuredRun
    table: RequestTable
    node: VllmV1
    laws: dict[str, RunCalibration]
    preemptions: float
    hit_share: float


def measured(folder: Path, name: str) -> Measured:
    run = read_measured_run(folder / f"{name}.bench.json.gz")
    table, known = replayed(run).table, folder / f"{name}.requests.csv.gz"
    if known.exists():
        table = replace(table, contents=read_trace(known).requests.contents)
    start = BatchTimeLaw(d_0=0.01, d_decode=5e-4, d_kv=1e-6, d_prefill=2e-4)
    node: Any = server_of_run(run, {}, start).instance
    size = dict(kv_capacity_tokens=float((node.num_gpu_blocks - 1) * node.block_size),
                block_size=node.block_size, token_budget=node.max_num_batched_tokens)  # fmt: skip
    log = read(folder / f"{name}.bench.json.gz")
    laws = {}
    for kind, ending in KINDS.items():
        replay = replay_of(log, node, table.contents) if kind == "result" else None
        try:
            found = calibrate_run(read(folder / f"{name}.{ending}.gz"), replay=replay, **size)
        except WorkloadError as wrong:
            print(f"{name}, {kind}: {wrong}", file=sys.stderr)
            continue
        laws[kind] = found
    scrape = read(folder / f"{name}.metrics.txt.gz")
    assert isinstance(scrape, MetricsLog)
    return Measured(name, run, table, node, laws, *_counted(scrape))


def _counted(scrape: MetricsLog) -> tuple[float, float]:
    """Return the preemptions and the share of prompt tokens that the prefix cache had."""

    def grown(name: str) -> float:
        values = getattr(scrape, name)
        return 0.0 if values is None else float(values[-1] - values[0])

    prompts = max(grown("prompt_tokens"), 1.0)
    return grown("preemptions"), 1 - grown("computed_prompt_tokens") / prompts


def tabulated(folder: Path, of: Measured) -> BatchTimeLaw:
    """Return the law of a run's log with a table over the requests, long enough for its stalls."""
    rows = read_step_times(
        folder / f"{of.name}.iterations.txt.gz", block_size=of.node.block_size,
        kv_capacity=(of.node.num_gpu_blocks - 1) * of.node.block_size,
    )  # fmt: skip
    law = fit_step_times(rows, law="tabulated", compare=False).law.for_whole_context()
    return law.in_unit(1 + of.laws["log"].beyond_law)


def linear(of: Measured, kind: str) -> BatchTimeLaw:
    """Return the law of a run's file of one kind, with the stalls; its log's where it has none."""
    found = of.laws.get(kind, of.laws["log"])
    law = found.batch_time() if found.of_everyone else found.batch_time().for_whole_context()
    return law.in_unit(1 + found.beyond_law)


def predicted(of: Measured, law: BatchTimeLaw) -> Run:
    """Let the engine serve the requests of a run under a law; a closed loop is closed."""
    table, most = of.table, of.run.max_concurrency
    own = {}
    if most is not None:
        table, own = replace(table, arrival_time=np.zeros(len(table))), {"max_concurrency": most}
    engine = engine_for(table, replace(of.node, batch_time=law), **own)
    engine.advance()
    return engine.run()


def laws_table(runs: list[Measured]) -> str:
    lines = ["| run | law from | " + " | ".join(COEFFICIENTS) + " | whole run |", "|" + "---|" * 7]
    for each in runs:
        log = each.laws["log"]
        whole = (1 + log.beyond_law) * log.law.predict(log.rows).sum()
        for kind, found in each.laws.items():
            told = [
                "-" if not np.isfinite(half) else f"{1e3 * value:.3g} ± {1e3 * half:.2g}"
                if name == "d_0" else f"{1e6 * value:.3g} ± {1e6 * half:.2g}"
                for name, value, half in zip(COEFFICIENTS, found.law.value, found.law.half_width,
                                             strict=True)
            ]  # fmt: skip
            own = (1 + found.beyond_law) * found.law.predict(log.rows).sum() / whole - 1
            lines.append(f"| {each.name} | {kind} | {' | '.join(told)} | {100 * own:+.1f} % |")
    return "\n".join(lines)


def predictions_table(
    runs: list[Measured], law_of: Callable[[Measured], BatchTimeLaw], words: str, sources: list[str]
) -> str:
    head = ("law of", "run", "TTFT", "TPOT", "E2EL", "preemptions", "hit share")
    lines = [f"{words}:", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for source in (each for each in runs if each.name in sources):
        law, result = law_of(source), source.laws.get("result")
        offset = None if result is None else result.frontend_offset
        front = 0.0 if offset is None else max(offset.value, 0.0)
        for each in runs:
            run = predicted(each, law)
            client, totals = run.client_records(), run.totals()
            tpot = (client.latency - client.ttft) / np.maximum(client.output_tokens - 1, 1)
            own = each.run
            pairs = (
                (client.ttft.mean() + front, own.ttft.mean()),
                (
                    tpot.mean(),
                    ((own.e2el - own.ttft) / np.maximum(own.output_tokens - 1, 1)).mean(),
                ),
                (client.latency.mean() + front, own.e2el.mean()),
            )
            cells = [f"{_ms(b)} -> {_ms(a)} ms ({100 * (a / b - 1):+.0f} %)" for a, b in pairs]
            cells += [f"{each.preemptions:.0f} -> {totals['evictions']:.0f}",
                      f"{each.hit_share:.1%} -> {totals['prefix_cache_hit_rate']:.1%}"]  # fmt: skip
            mark = " (itself)" if each is source else ""
            lines.append(f"| {source.name} | {each.name}{mark} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds > 0.1 else f"{1e3 * seconds:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--law", action="append", help="run whose law predicts the others; all")
    given = parser.parse_args()
    names = sorted(each.name.split(".")[0] for each in given.folder.glob("*.bench.json.gz"))
    runs = [measured(given.folder, name) for name in names]
    print(laws_table(runs))
    chosen = given.law or names
    for words, law_of in (
        ("Law of the server's log, decode tabulated", lambda of: tabulated(given.folder, of)),
        ("Law of the client's result, linear", lambda of: linear(of, "result")),
        ("Law of the scrape, linear", lambda of: linear(of, "scrape")),
    ):
        print("\n" + predictions_table(runs, law_of, words, chosen))


if __name__ == "__main__":
    main()
