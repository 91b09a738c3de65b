"""Load generators write one record per request; each writer has keys of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.documents import choose, number, numbers
from calibration.server_runs.requests import RequestLog, checked_log
from serving import WorkloadError

UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of each unit that a record may name."""

FAILED_REQUESTS = "failed requests"
"""Why a record of a request that failed is left out."""

NO_OUTPUT = "requests without output"
"""Why a record without an output token is left out."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request, with times in seconds on the clock of its file.

    Parameters
    ----------
    arrival, first_token, finish : [s]
        Times of the request.
    prompt_tokens, output_tokens : [tokens]
        Its lengths.
    gaps : shape (C,) [s]
        Times between the chunks of its output; None where the file has none.
    """

    arrival: float
    first_token: float
    finish: float
    prompt_tokens: float
    output_tokens: float
    gaps: NDArray[np.float64] | None


def _log(
    records: Sequence[Any],
    read: Callable[[Mapping[str, Any], Path, int], Record | str],
    path: Path,
    notes: tuple[str, ...] = (),
) -> RequestLog:
    """Return the log of records; ``read`` returns one, or why a record is left out."""
    kept: list[Record] = []
    rows: list[int] = []
    dropped: dict[str, int] = {}
    for row, content in enumerate(records, start=1):
        if not isinstance(content, dict):
            raise WorkloadError("allowed: an object", path=path, row=row)
        found = read(content, path, row)
        if isinstance(found, str):
            dropped[found] = dropped.get(found, 0) + 1
        else:
            kept.append(found)
            rows.append(row)

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(each, name) for each in kept], dtype=float)

    gaps = [each.gaps for each in kept if each.gaps is not None]
    log = RequestLog(
        arrival=column("arrival"),
        first_token=column("first_token"),
        finish=column("finish"),
        prompt_tokens=column("prompt_tokens"),
        output_tokens=column("output_tokens"),
        inter_token=tuple(gaps) if gaps and len(gaps) == len(kept) else None,
        dropped=dropped,
        notes=notes,
    )
    return checked_log(log, path, rows=np.array(rows, dtype=np.int64))


def _under(content: Mapping[str, Any], key: str, path: Path, row: int) -> Mapping[str, Any]:
    """Return the object under a key."""
    found = content.get(key)
    if not isinstance(found, dict):
        raise WorkloadError("allowed: an object", path=path, row=row, column=key, value=found)
    return found


def _first(content: Mapping[str, Any], keys: Sequence[str], path: Path, row: int) -> float:
    """Return the number under the first of some keys that is there."""
    for key in keys:
        if content.get(key) is not None:
            return number(content[key], path, row, key)
    raise WorkloadError(f"a key is missing: one of {' | '.join(keys)}", path=path, row=row)


# --- inference-perf -------------------------------------------------------------------------------


def from_inference_perf(records: Sequence[Any], path: Path) -> RequestLog:
    """Return the log in ``per_request_lifecycle_metrics.json`` of inference-perf.

    Raises
    ------
    WorkloadError
        Naming record, key and value of the first that is wrong.
    """
    return _log(records, _inference_perf, path)


def _inference_perf(record: Mapping[str, Any], path: Path, row: int) -> Record | str:
    if record.get("error"):
        return FAILED_REQUESTS
    info = _under(record, "info", path, row)
    response = info["response_metrics"] if "response_metrics" in info else info
    prompt = info
    if "request_metrics" in info:
        prompt = _under(_under(info, "request_metrics", path, row), "text", path, row)
    if not isinstance(response, dict):
        raise WorkloadError("allowed: an object", path=path, row=row, column="response_metrics",
                            value=response)  # fmt: skip
    output = _first(response, ("output_tokens",), path, row)
    times = numbers(response.get("output_token_times"), "output_token_times", path, row=row)
    if output == 0 and not times.size:
        return NO_OUTPUT
    if not times.size:
        raise WorkloadError(
            "no time of an output: let the load generator stream", path=path, row=row,
            column="output_token_times",
        )  # fmt: skip
    gaps = np.diff(times)
    if (gaps < 0).any():
        raise WorkloadError("times must not fall", path=path, row=row,
                            column="output_token_times")  # fmt: skip
    start = _first(record, ("start_time",), path, row)
    return Record(start, times[0], times[-1], _first(prompt, ("input_tokens",), path, row),
                  output, gaps)  # fmt: skip


# --- guidellm -------------------------------------------------------------------------------------


def from_guidellm(content: Mapping[str, Any], path: Path, *, result: int | None) -> RequestLog:
    """Return the log of one benchmark in a result of guidellm.

    Parameters
    ----------
    content
        The parsed JSON.
    path
        Name of the file, for messages.
    result
        Number of the benchmark to take, from 1, where the file has several.

    Raises
    ------
    WorkloadError
        Naming record, key and value of the first that is wrong; or if the file holds a sample of
        the requests only, since the others filled the batches too.
    """
    benchmarks = content["benchmarks"]
    if not isinstance(benchmarks, list) or not benchmarks:
        raise WorkloadError("allowed: a list of benchmarks", path=path, column="benchmarks")
    at = choose([_strategy(each) for each in benchmarks], result, path, "benchmarks of guidellm")
    if not isinstance(benchmarks[at], dict):
        raise WorkloadError("allowed: an object", path=path, row=at + 1, column="benchmarks")
    requests = _under(benchmarks[at], "requests", path, at + 1)
    done = requests.get("successful")
    if not isinstance(done, list):
        raise WorkloadError(
            "allowed: a list", path=path, row=at + 1, column="successful", value=done
        )
    total = _total(benchmarks[at])
    if total is not None and total > len(done):
        raise WorkloadError(
            f"holds {len(done)} of {total:g} requests, and the others filled the batches too: "
            "write the result without a sample of the requests", path=path, column="successful",
        )  # fmt: skip
    log = _log(done, _guidellm, path)
    failed = sum(len(requests.get(key) or ()) for key in ("errored", "incomplete")
                 if isinstance(requests.get(key), list))  # fmt: skip
    return log.with_dropped({FAILED_REQUESTS: failed} if failed else {})


def _strategy(benchmark: Any) -> str:
    """Return what a benchmark asked of the server, in words."""
    found: Any = benchmark
    for key in ("config", "strategy"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return "benchmark"
    kind = found.get("type_")
    more = [f"{key} {found[key]}" for key in ("rate", "max_concurrency") if found.get(key)]
    return " ".join([str(kind or "benchmark"), *more])


def _total(benchmark: Mapping[str, Any]) -> float | None:
    """Return how many requests succeeded, if the benchmark says it apart from their list."""
    for way in (("metrics", "request_totals"), ("run_stats", "requests_made")):
        found: Any = benchmark
        for key in (*way, "successful"):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, int | float):
            return found
    return None


def _guidellm(record: Mapping[str, Any], path: Path, row: int) -> Record | str:
    start = _first(record, ("request_start_time", "start_time"), path, row)
    output = _first(record, ("output_tokens",), path, row)
    if output == 0:
        return NO_OUTPUT
    if record.get("request_latency") is None:
        finish = _first(record, ("request_end_time", "end_time"), path, row)
    else:
        finish = start + number(record["request_latency"], path, row, "request_latency")
    ttft = _first(record, ("time_to_first_token_ms",), path, row) / 1e3
    return Record(start, start + ttft, finish, _first(record, ("prompt_tokens",), path, row),
                  output, None)  # fmt: skip


# --- aiperf ---------------------------------------------------------------------------------------


def from_aiperf(records: Sequence[Any], path: Path) -> RequestLog:
    """Return the log in ``profile_export.jsonl`` of aiperf.

    Raises
    ------
    WorkloadError
        Naming record, key and value of the first that is wrong.
    """
    origin: list[int] = []

    def read(record: Mapping[str, Any], path: Path, row: int) -> Record | str:
        metadata = _under(record, "metadata", path, row)
        if record.get("error") or metadata.get("was_cancelled"):
            return FAILED_REQUESTS
        metrics = _under(record, "metrics", path, row)
        key = "request_start_ns" if "request_start_ns" in metadata else "timestamp_ns"
        start = metadata.get(key)
        if not isinstance(start, int) or isinstance(start, bool):
            raise WorkloadError("allowed: whole nanoseconds", path=path, row=row, column=key,
                                value=start)  # fmt: skip
        origin.append(start)
        # Nanoseconds since 1970 do not fit a float64: the first record is taken off before.
        arrival = number(start - origin[0], path, row, key) / 1e9
        first = arrival + _measured(metrics, ("time_to_first_token", "ttft"), path, row)
        finish = arrival + _measured(metrics, ("request_latency",), path, row)
        chunks = metrics.get("inter_chunk_latency")
        gaps = None
        if isinstance(chunks, dict) and isinstance(chunks.get("value"), list):
            unit = _unit(chunks, "inter_chunk_latency", path, row)
            gaps = unit * numbers(chunks["value"], "inter_chunk_latency", path, row=row,
                                  allowed_from=0.0)  # fmt: skip
        output = _measured(metrics, ("output_sequence_length", "output_token_count"), path, row)
        if output == 0:
            return NO_OUTPUT
        prompt = _measured(metrics, ("input_sequence_length",), path, row)
        return Record(arrival, first, finish, prompt, output, gaps)

    return _log(records, read, path)


def _measured(metrics: Mapping[str, Any], keys: Sequence[str], path: Path, row: int) -> float:
    """Return the value of the first metric that is there: seconds, or tokens."""
    for key in keys:
        if key in metrics:
            metric = _under(metrics, key, path, row)
            return _unit(metric, key, path, row) * number(metric.get("value"), path, row, key)
    raise WorkloadError(f"a metric is missing: one of {' | '.join(keys)}", path=path, row=row)


def _unit(metric: Mapping[str, Any], key: str, path: Path, row: int) -> float:
    """Return the factor that brings a metric to seconds, or leaves tokens as they are."""
    unit = metric.get("unit")
    if unit == "tokens":
        return 1.0
    if not isinstance(unit, str) or unit.lower() not in UNITS:
        raise WorkloadError(f"allowed units: tokens | {' | '.join(UNITS)}", path=path, row=row,
                            column=key, value=unit)  # fmt: skip
    return UNITS[unit.lower()]


# --- LLMServingSim --------------------------------------------------------------------------------


def from_llmservingsim(records: Sequence[Any], path: Path) -> RequestLog:
    """Return the log in ``requests.jsonl`` of an LLMServingSim bundle.

    Its ``arrival_time`` is the time of day, while the other times are on the clock of the engine.
    A request therefore arrives here when the engine queued it.

    Raises
    ------
    WorkloadError
        Naming record, key and value of the first that is wrong.
    """
    return _log(records, _llmservingsim, path)


def _llmservingsim(record: Mapping[str, Any], path: Path, row: int) -> Record | str:
    output = _first(record, ("output_toks",), path, row)
    if output == 0:
        return NO_OUTPUT
    if record.get("first_token_ts") is None or record.get("last_token_ts") is None:
        return FAILED_REQUESTS
    return Record(
        _first(record, ("queued_ts", "scheduled_ts"), path, row),
        _first(record, ("first_token_ts",), path, row),
        _first(record, ("last_token_ts",), path, row),
        _first(record, ("input_toks",), path, row),
        output,
        None,
    )


READERS: Mapping[str, Callable[[Sequence[Any], Path], RequestLog]] = {
    "inference-perf": from_inference_perf,
    "aiperf": from_aiperf,
    "LLMServingSim": from_llmservingsim,
}
"""Reader of the records of each load generator that writes one per request."""
