"""This project's engines on a case of the differential tests: the one place that translates."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from case import DEFAULTS, Case
from real_side import Answer

import discrete
import serving

ONLY_V0 = {"num_cpu_blocks", "preemption_mode"}
"""Settings that the present engine does not have."""

V0 = ONLY_V0 | {
    *("block_size", "num_gpu_blocks", "max_num_seqs", "max_num_batched_tokens", "max_model_len"),
    *("enable_chunked_prefill", "watermark", "remote_prefill", "free_recompute"),
    "cpu_gap",
}
"""Settings of the first engine."""


KINDS = {"vllm_v0": "VllmV0", "vllm_v1": "VllmV1"}
"""Settings of each engine, by their name in ``serving``."""


def settings_of(case: Case) -> dict[str, Any]:
    """Return the settings of a case by our names; one of None is left to the kind's default."""
    of_kind = V0 if case.engine == "vllm_v0" else DEFAULTS.keys() - ONLY_V0
    settings = {key: case.get(key) for key in sorted(of_kind) if case.get(key) is not None}
    if not settings.get("speculative_accept"):
        settings.pop("speculative_accept", None)
    return {"vllm_version": case.version, "strict": True, **settings}


def _kind(engine: str) -> Any:
    return getattr(serving, KINDS[engine])


def instance_of(case: Case) -> Any:
    """Return the instance that a case describes."""
    law = serving.BatchTimeLaw(**case.batch_time)
    return _kind(case.engine)(batch_time=law, **settings_of(case))


def engine_of(case: Case, **options: Any) -> Any:
    """Return the engine of a case; what can never finish is left to it, as vLLM does."""
    return discrete.engine_for(table_of(case), instance_of(case), **options)


def table_of(case: Case) -> serving.RequestTable:
    """Return the requests of a case."""
    asked = case.requests
    columns: dict[str, Any] = {"priority": [one.priority for one in asked]}
    if any(one.abort is not None for one in asked):
        never = float("inf")
        columns["abort_time"] = [never if one.abort is None else one.abort for one in asked]
    if any(one.content or one.answer for one in asked):
        columns["contents"] = _contents_of(case)
    return serving.RequestTable.validated(
        [one.arrival for one in asked],
        [one.prompt for one in asked],
        [one.output for one in asked],
        **columns,
    )


def _contents_of(case: Case) -> Any:
    first, ids, lengths = [0], [], []
    for one in case.requests:
        for part in one.content.split():
            content, length = part.split(":")
            ids.append(int(content))
            lengths.append(int(length))
        first.append(len(ids))
    answers = [one.answer or 0 for one in case.requests]
    return serving.Contents.validated(first, ids, lengths, answers)


BEYOND = 8
"""Steps that ours may go further: some are in flight when the last one of the real run ends."""


def run(case: Case) -> Answer:
    """Run a case on our engine and return its two logs."""
    with tempfile.TemporaryDirectory() as name:
        decisions, requests = Path(name) / "decisions.csv", Path(name) / "requests.csv"
        engine = engine_of(
            case, decision_log=decisions, request_log=requests, log_extended=case.extended
        )
        stop = engine.advance(batches=case.most_steps + BEYOND)
        engine.run()
        return Answer(stop.name.lower(), decisions.read_text(), requests.read_text())


def seconds_of(case: Case) -> float:
    """Return the CPU time [s] of a whole run without logs: the clock and every decision."""
    engine = engine_of(case, record_batches=False)
    before = time.thread_time()
    engine.advance(batches=case.most_steps)
    return time.thread_time() - before
