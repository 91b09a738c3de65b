"""A run as the result that ``vllm bench serve --save-result`` would have written of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fluidserve.flags import FlagError
from fluidserve.plain import plain
from serving import (
    BENCH_GOODPUT,
    BENCH_LATENCIES,
    SECONDS,
    ClientRecords,
    FluidServeError,
    bench_serve_metrics,
)
from serving.files import atomic_write
from workload.rate_shape import Constant

if TYPE_CHECKING:
    from fluidserve.inputs import Inputs
    from studies import Question

BACKEND = "fluidserve"
"""Stands where a result names the server that was measured: nobody takes this for a measurement."""

AT_ONCE = 4096
"""Requests whose lists become text at once."""

DETAILS = (
    "input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times",
    "generated_texts", "errors",
)  # fmt: skip
"""Lists with one entry per request, in the order of the file."""

ALWAYS = ("latencies", "queue_times")
"""Those that vLLM 0.33 leaves in a result without ``--save-detailed`` too."""


def parse_percentile_metrics(text: str | None) -> tuple[str, ...]:
    """Return the latencies of ``--percentile-metrics``, such as ``ttft,tpot``; all without it."""
    if text is None:
        return BENCH_LATENCIES
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(BENCH_LATENCIES):
        allowed = f"one or more of {','.join(BENCH_LATENCIES)}"
        raise FlagError("--percentile-metrics", text, allowed)
    return names


def parse_percentiles(text: str | None) -> tuple[float, ...]:
    """Return the percentiles of ``--metric-percentiles``, such as ``50,99.9``; 99 without it."""
    if text is None:
        return (99.0,)
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (float("nan"),)
    if not all(0 <= each <= 100 for each in found):
        raise FlagError("--metric-percentiles", text, "numbers from 0 to 100, such as 50,90,99")
    return found


def check_thresholds(goodput: Mapping[str, float] | None) -> None:
    """Refuse a threshold that the benchmark does not know.

    Raises
    ------
    FluidServeError
        For one on what a client cannot see.
    """
    for name in goodput or ():
        if name not in BENCH_GOODPUT:
            known = ", ".join(BENCH_GOODPUT)
            raise FluidServeError(
                f"--goodput {name}: --bench-json has thresholds on what a client sees: {known}"
            )


def write_bench_json(
    path: str | Path,
    records: ClientRecords,
    duration: float,
    head: Mapping[str, Any],
    *,
    detailed: bool = False,
    **options: Any,
) -> None:
    """Write the result; the file appears whole or not at all.

    Parameters
    ----------
    path
        Name of the file.
    records
        Of every request that was sent.
    duration : [s]
        Of the run.
    head
        What was run; see :func:`head_of`.
    detailed
        Whether to write each of :data:`DETAILS`.
    **options
        Of :func:`serving.bench_serve_metrics`.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """
    numbers = bench_serve_metrics(records, duration, **options)
    names = list(numbers)
    before = names.index("max_output_tokens_per_s")  # the lists stand before it
    with atomic_write(path, "wb") as file:
        file.write(b"{")
        first = {**head, **{name: numbers[name] for name in names[:before]}}
        file.write(_members(first))
        for key in DETAILS if detailed else ALWAYS:
            file.write(b', "%b": [' % key.encode())
            file.writelines(_pieces(_column(records, key)))
            file.write(b"]")
        file.write(b", " + _members({name: numbers[name] for name in names[before:]}))
        file.write(b"}\n")


def rate_of(question: Question) -> float | None:
    """Return the rate that was asked for [requests/s], its mean if it changes; None without one."""
    if question.is_file or question.waits:
        return None
    is_constant = isinstance(question.stream.shape, Constant)
    rate = question.stream.rate if is_constant else question.mean_rate
    return rate / SECONDS[question.instance.time_unit]


def head_of(
    inputs: Inputs, model: str | None, max_concurrency: int | None = None
) -> dict[str, Any]:
    """Return what a result says of the benchmark: when, what, how many, how fast.

    Requests that come from a file have no rate that was asked for; a benchmark that replays a trace
    calls it ``inf``.

    Parameters
    ----------
    inputs
        What ran.
    model
        Name of the model; None where nobody named one.
    max_concurrency
        Most requests that were sent and not yet answered; None without a limit.
    """
    question = inputs.question
    rate = rate_of(question)
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": BACKEND,
        "backend": BACKEND,
        "label": None,
        "model_id": model,
        "tokenizer_id": model,
        "num_prompts": len(question.requests),
        "request_rate": "inf" if rate is None else rate,
        "burstiness": 1.0 if question.is_file else question.stream.burstiness,
        "max_concurrency": max_concurrency,
    }


def _members(content: Mapping[str, Any]) -> bytes:
    """Return an object as JSON without its braces."""
    text = b", ".join(
        orjson.dumps(key) + b": " + orjson.dumps(plain(value)) for key, value in content.items()
    )
    return text


def _column(records: ClientRecords, key: str) -> Iterable[Any]:
    """Return what a list holds of each request, in order."""
    requests = len(records.errors)
    columns: dict[str, Iterable[Any]] = {
        "input_lens": records.prompt_tokens,
        "output_lens": records.output_tokens,
        "ttfts": records.ttft,
        "itls": records.gaps_by_request(),
        "latencies": records.latency,
        "start_times": records.start,
        # the client sends each request when it comes, and nobody has written a text
        "queue_times": (0.0 for _ in range(requests)),
        "generated_texts": ("" for _ in range(requests)),
        "errors": records.errors,
    }
    return columns[key]


def _pieces(values: Iterable[Any]) -> Iterator[bytes]:
    """Yield the entries of a list as JSON, piece by piece."""
    rest, between = iter(values), b""
    while piece := _some(rest):
        yield between + orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        between = b","


def _some(rest: Iterator[Any]) -> Sequence[Any]:
    return list(islice(rest, AT_ONCE))
