"""The metrics of ``vllm bench serve``, by its names and definitions.

They were read off ``calculate_metrics`` of vLLM 0.33. Each of them is of the requests that
completed; only ``failed`` counts the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client_records import ClientRecords
from serving.errors import FluidServeError

BENCH_LATENCIES = ("ttft", "tpot", "itl", "e2el")
"""Latencies that the result can hold, in its order."""

BENCH_GOODPUT = ("ttft", "tpot", "e2el")
"""Latencies that a request can meet a threshold on."""

MS = 1000


def bench_serve_metrics(
    records: ClientRecords,
    duration: float,
    *,
    latencies: Sequence[str] = BENCH_LATENCIES,
    percentiles: Sequence[float] = (99.0,),
    goodput: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the numbers of a result of ``vllm bench serve``, in its order.

    Parameters
    ----------
    records
        Of every request that was sent.
    duration : [s]
        From the begin of the benchmark to the last answer.
    latencies
        Those of :data:`BENCH_LATENCIES` whose statistics are wanted.
    percentiles
        From 0 to 100.
    goodput
        Threshold [s] by one of :data:`BENCH_GOODPUT`.

    Raises
    ------
    FluidServeError
        For a latency that the benchmark does not know.
    """
    _refuse_unknown("latencies", latencies, BENCH_LATENCIES)
    _refuse_unknown("goodput", goodput or (), BENCH_GOODPUT)
    done = records.completed_only()
    outputs, in_flight = bench_serve_peaks(records)
    completed = len(done.errors)
    prompt, answer = int(done.prompt_tokens.sum()), int(done.output_tokens.sum())
    out: dict[str, Any] = {
        "duration": duration,
        "completed": completed,
        "failed": len(records.errors) - completed,
        "total_input_tokens": prompt,
        "total_output_tokens": answer,
        "request_throughput": _per(completed, duration),
        "request_goodput": _per(_good(done, goodput), duration) if goodput else None,
        "output_throughput": _per(answer, duration),
        "total_token_throughput": _per(prompt + answer, duration),
        "max_output_tokens_per_s": float(outputs),
        "max_concurrent_requests": in_flight,
        "rtfx": 0.0,  # seconds of sound per second: there is no sound
    }
    for name in BENCH_LATENCIES:
        if name in latencies:
            out |= _statistics(name, bench_samples(done, name), percentiles)
    return out


def bench_samples(done: ClientRecords, latency: str) -> NDArray[np.float64]:
    """Return the samples [s] of a latency, of requests that completed.

    TTFT and E2EL have one per request. TPOT has one per request of two tokens or more: an answer
    of one token is left out, not counted as 0. ITL has one per gap between two outputs, those of
    all requests together, so that a long answer counts for more than a short one.
    """
    if latency == "tpot":
        return done.tpot[done.output_tokens > 1]
    return {"ttft": done.ttft, "itl": done.gaps, "e2el": done.latency}[latency]


def percentile_word(percentile: float) -> str:
    """Return a percentile as keys name it: ``99`` for 99.0, ``99.9`` for 99.9."""
    return str(int(percentile)) if int(percentile) == percentile else str(percentile)


def _refuse_unknown(what: str, given: Any, known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise FluidServeError(f"{what}: {name!r} is not one of {', '.join(known)}")


def _per(count: float, duration: float) -> float:
    return count / duration if duration > 0 else float("nan")


def _statistics(
    name: str, samples: NDArray[np.float64], percentiles: Sequence[float]
) -> dict[str, float]:
    """Return mean, median, deviation and percentiles [ms].

    The deviation divides by the number of samples, not by one less. Percentiles lie linearly
    between samples. Without samples all are 0, as the benchmark writes them.
    """
    values = samples if samples.size else np.zeros(1)
    out = {
        f"mean_{name}_ms": float(np.mean(values) * MS),
        f"median_{name}_ms": float(np.median(values) * MS),
        f"std_{name}_ms": float(np.std(values) * MS),
    }
    at = np.percentile(values, list(percentiles)) if percentiles else np.empty(0)
    words = map(percentile_word, percentiles)
    return out | {f"p{w}_{name}_ms": float(v * MS) for w, v in zip(words, at, strict=True)}


def _good(done: ClientRecords, goodput: Mapping[str, float] | None) -> int:
    """Return how many requests are within every threshold; one token has a TPOT of 0 here."""
    of = {"ttft": done.ttft, "tpot": done.tpot, "e2el": done.latency}
    good = np.ones(len(done.errors), bool)
    for name, threshold in (goodput or {}).items():
        good &= of[name] <= threshold
    return int(good.sum())


def bench_serve_peaks(records: ClientRecords) -> tuple[int, int]:
    """Return the most outputs, and the most requests, in one second, of who completed.

    Seconds begin at the first start, not at time 0. Outputs are chunks: several tokens that come
    at once count once.
    """
    done = records.completed_only()
    if not done.errors:
        return 0, 0
    lasts = float((done.start + done.latency).max() - done.start.min())
    seconds = int(np.ceil(lasts)) + 1
    return (
        int(done.outputs_per_second(seconds).max()),
        int(done.in_flight_per_second(seconds).max()),
    )
