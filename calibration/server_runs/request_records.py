"""Load generators write one record per request; each writer has keys of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.documents import choose, number, numbers
from calibration.server_runs.requests import FAILED_REQUESTS, NO_OUTPUT, RequestLog, checked_log
from serving import WorkloadError

UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of each unit that a record may name."""


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


@dataclass(frozen=True, slots=True)
class Fields:
    """The keys of a record are read as what they must be, or refused with their place.

    Parameters
    ----------
    content
        The record, or an object in it.
    path
        The file.
    row
        Number of the record, from 1.
    """

    content: Mapping[str, Any]
    path: Path
    row: int

    def refusal(self, reason: str, key: str | None = None, value: Any = None) -> WorkloadError:
        """Return the error about a key."""
        return WorkloadError(reason, path=self.path, row=self.row, column=key, value=value)

    def under(self, key: str) -> Fields:
        """Return the object under a key."""
        found = self.content.get(key)
        if not isinstance(found, dict):
            raise self.refusal("allowed: an object", key, found)
        return Fields(found, self.path, self.row)

    def number(self, *keys: str) -> float:
        """Return the number under the first of some keys that is there."""
        for key in keys:
            if self.content.get(key) is not None:
                return number(self.content[key], self.path, self.row, key)
        raise self.refusal(f"a key is missing: one of {' | '.join(keys)}")


def _log(
    records: Sequence[Any],
    read: Callable[[Fields], Record | str],
    path: Path,
) -> RequestLog:
    """Return the log of records; ``read`` returns one, or why a record is left out."""
    kept: list[Record] = []
    rows: list[int] = []
    dropped: dict[str, int] = {}
    for row, content in enumerate(records, start=1):
        if not isinstance(content, dict):
            raise WorkloadError("allowed: an object", path=path, row=row)
        found = read(Fields(content, path, row))
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
    )
    return checked_log(log, path, rows=np.array(rows, dtype=np.int64))


# --- inference-perf -------------------------------------------------------------------------------


def from_inference_perf(records: Sequence[Any], path: Path) -> RequestLog:
    """Return the log in ``per_request_lifecycle_metrics.json`` of inference-perf.

    Raises
    ------
    WorkloadError
        Naming record, key and value of the first that is wrong.
    """
    return _log(records, _inference_perf, path)


def _inference_perf(record: Fields) -> Record | str:
    if record.content.get("error"):
        return FAILED_REQUESTS
    info = record.under("info")
    response = info.under("response_metrics") if "response_metrics" in info.content else info
    prompt = info
    if "request_metrics" in info.content:
        prompt = info.under("request_metrics").under("text")
    output, key = response.number("output_tokens"), "output_token_times"
    times = numbers(response.content.get(key), key, record.path, row=record.row)
    if output == 0 and not times.size:
        return NO_OUTPUT
    if not times.size:
        raise record.refusal("no time of an output: let the load generator stream", key)
    gaps = np.diff(times)
    if (gaps < 0).any():
        raise record.refusal("times must not fall", key)
    start = record.number("start_time")
    return Record(start, times[0], times[-1], prompt.number("input_tokens"), output, gaps)


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
    requests = Fields(benchmarks[at], path, at + 1).under("requests")
    done = requests.content.get("successful")
    if not isinstance(done, list):
        raise requests.refusal("allowed: a list", "successful", done)
    total = _total(benchmarks[at])
    if total is not None and total > len(done):
        raise WorkloadError(
            f"holds {len(done)} of {total:g} requests, and the others filled the batches too: "
            "write the result without a sample of the requests", path=path, column="successful",
        )  # fmt: skip
    log = _log(done, _guidellm, path)
    failed = sum(len(requests.content[key]) for key in ("errored", "incomplete")
                 if isinstance(requests.content.get(key), list))  # fmt: skip
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


def _guidellm(record: Fields) -> Record | str:
    start = record.number("request_start_time", "start_time")
    output = record.number("output_tokens")
    if output == 0:
        return NO_OUTPUT
    if record.content.get("request_latency") is None:
        finish = record.number("request_end_time", "end_time")
    else:
        finish = start + record.number("request_latency")
    first = start + record.number("time_to_first_token_ms") / 1e3
    return Record(start, first, finish, record.number("prompt_tokens"), output, None)


# --- aiperf ---------------------------------------------------------------------------------------


def from_aiperf(records: Sequence[Any], path: Path) -> RequestLog:
    """Return the log in ``profile_export.jsonl`` of aiperf.

    Raises
    ------
    WorkloadError
        Naming record, key and value of the first that is wrong.
    """
    origin: list[int] = []

    def read(record: Fields) -> Record | str:
        metadata = record.under("metadata")
        if record.content.get("error") or metadata.content.get("was_cancelled"):
            return FAILED_REQUESTS
        metrics = record.under("metrics")
        key = "request_start_ns" if "request_start_ns" in metadata.content else "timestamp_ns"
        start = metadata.content.get(key)
        if not isinstance(start, int) or isinstance(start, bool):
            raise record.refusal("allowed: whole nanoseconds", key, start)
        origin.append(start)
        # Nanoseconds since 1970 do not fit a float64: the first record is taken off before.
        arrival = number(start - origin[0], path, record.row, key) / 1e9
        first = arrival + _measured(metrics, "time_to_first_token", "ttft")
        finish = arrival + _measured(metrics, "request_latency")
        key = "inter_chunk_latency"
        chunks, gaps = metrics.content.get(key), None
        if isinstance(chunks, dict) and isinstance(chunks.get("value"), list):
            gaps = _unit(metrics.under(key), key) * numbers(
                chunks["value"], key, path, row=record.row, allowed_from=0.0
            )
        output = _measured(metrics, "output_sequence_length", "output_token_count")
        if output == 0:
            return NO_OUTPUT
        prompt = _measured(metrics, "input_sequence_length")
        return Record(arrival, first, finish, prompt, output, gaps)

    return _log(records, read, path)


def _measured(metrics: Fields, *keys: str) -> float:
    """Return the value of the first metric that is there: seconds, or tokens."""
    for key in keys:
        if key in metrics.content:
            metric = metrics.under(key)
            unit = _unit(metric, key)
            return unit * number(metric.content.get("value"), metric.path, metric.row, key)
    raise metrics.refusal(f"a metric is missing: one of {' | '.join(keys)}")


def _unit(metric: Fields, key: str) -> float:
    """Return the factor that brings a metric to seconds, or leaves tokens as they are."""
    unit = metric.content.get("unit")
    if unit == "tokens":
        return 1.0
    if not isinstance(unit, str) or unit.lower() not in UNITS:
        raise metric.refusal(f"allowed units: tokens | {' | '.join(UNITS)}", key, unit)
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


def _llmservingsim(record: Fields) -> Record | str:
    output = record.number("output_toks")
    if output == 0:
        return NO_OUTPUT
    if any(record.content.get(key) is None for key in ("first_token_ts", "last_token_ts")):
        return FAILED_REQUESTS
    return Record(
        record.number("queued_ts", "scheduled_ts"), record.number("first_token_ts"),
        record.number("last_token_ts"), record.number("input_toks"), output, None,
    )  # fmt: skip


READERS: Mapping[str, Callable[[Sequence[Any], Path], RequestLog]] = {
    "inference-perf": from_inference_perf,
    "aiperf": from_aiperf,
    "LLMServingSim": from_llmservingsim,
}
"""Reader of the records of each load generator that writes one per request."""
