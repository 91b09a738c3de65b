"""A running vLLM server shows metrics over time: scrapes, exports and window tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.refusal import MOST_TOKENS, refuse_first, refuse_implausible
from calibration.server_runs.clock import seconds_of_date
from calibration.server_runs.series import SeriesSet, added
from serving import WorkloadError
from workload import TextTable

GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:gpu_cache_usage_perc": "kv_usage",
}
"""Columns of a log by vLLM's name of the metric that shows their present value."""

COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prompt_tokens_by_source_total": "computed_prompt_tokens",
    "vllm:prompt_tokens_cached_total": "cached_prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_prompt_tokens",
    "vllm:gpu_prefix_cache_hits_total": "cached_prompt_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:iteration_tokens_total_count": "iterations",
    "vllm:request_prompt_tokens_sum": "finished_prompt_tokens",
    "vllm:request_generation_tokens_sum": "finished_generation_tokens",
}
"""Columns of a log by vLLM's name of the metric that counts them."""

CACHE_CONFIG = "vllm:cache_config_info"
"""Metric of vLLM whose labels give the number and the size of the KV blocks."""

STATED_CAPACITY = "kv_cache_size_tokens"
"""Label of :data:`CACHE_CONFIG` that states the capacity in tokens, in newer versions of vLLM."""

NAMES = {**GAUGES, **COUNTERS}
"""Columns of a log by vLLM's name of the metric; the first of two names that a server has wins."""

NEEDED = ("running", "prompt_tokens", "generation_tokens")
"""Columns without which a log tells no batch time."""

SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+(\S+))?\s*$")
"""Line of Prometheus text: name, labels, value and time [ms since 1970]."""

LABEL = re.compile(r'(?<!\w)(\w+)="((?:[^"\\]|\\.)*)"')
"""One label of a line of Prometheus text."""

TIME = re.compile(r"^#\s*time:?\s+(\S+(?:\s\d\S*)?)\s*$", re.IGNORECASE)
"""Comment that gives the time of the scrape below it: seconds, or a date with a time."""

PART = {"vllm:prompt_tokens_by_source_total": {"source": "local_compute"}}
"""Labels of the part of a metric that a column counts."""

WHOLE = frozenset(
    "vllm:kv_cache_usage_perc vllm:gpu_cache_usage_perc vllm:iteration_tokens_total_count".split()
)
"""Metrics of which an engine has one value: two series are two engines."""

TOLD_ANYWAY = frozenset({"preemptions", "cached_prompt_tokens", "computed_prompt_tokens"})
"""Columns that say something even where they stay 0."""

THROUGHPUT_TABLE = ("prompt_throughput", "gen_throughput", "running")
"""Columns by which a CSV of throughputs is recognised."""


@dataclass(frozen=True, slots=True, eq=False)
class MetricsLog:
    """A log holds the metrics of a server at increasing times; None where the server told none.

    Parameters
    ----------
    time : shape (T,) [s]
        Time of each scrape, from 0.
    running, waiting : shape (T,)
        Number of requests at each scrape.
    kv_usage : shape (T,)
        Share of the KV cache in use, 0 to 1.
    prompt_tokens, generation_tokens : shape (T,) [tokens]
        Tokens since any origin; they never fall.
    iterations : shape (T,)
        Engine steps since any origin.
    finished_prompt_tokens, finished_generation_tokens : shape (T,) [tokens]
        Lengths of the requests that finished since any origin.
    computed_prompt_tokens, cached_prompt_tokens : shape (T,) [tokens]
        Prompt tokens that the server computed, and those that its prefix cache had, since any
        origin.
    preemptions : shape (T,)
        Preempted requests since any origin.
    kv_capacity, block_size : [tokens]
        Capacity and size of the KV blocks that ``vllm:cache_config_info`` gives.
    dropped
        Number of times that were left out, by reason.
    notes
        What a user of the log must know, in sentences.
    """

    time: NDArray[np.float64]
    running: NDArray[np.float64]
    prompt_tokens: NDArray[np.float64]
    generation_tokens: NDArray[np.float64]
    waiting: NDArray[np.float64] | None = None
    kv_usage: NDArray[np.float64] | None = None
    iterations: NDArray[np.float64] | None = None
    finished_prompt_tokens: NDArray[np.float64] | None = None
    finished_generation_tokens: NDArray[np.float64] | None = None
    computed_prompt_tokens: NDArray[np.float64] | None = None
    cached_prompt_tokens: NDArray[np.float64] | None = None
    preemptions: NDArray[np.float64] | None = None
    kv_capacity: float | None = None
    block_size: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of scrapes."""
        return self.time.size


def from_exposition(
    text: str,
    path: Path,
    *,
    interval: float | None = None,
    labels: Mapping[str, str] | None = None,
    skip_gaps: bool = False,
) -> MetricsLog:
    """Return the log in scrapes of ``/metrics``, one after the other in one file.

    Parameters
    ----------
    text
        Prometheus text. The time of a sample is its own [ms since 1970] where it has one, else
        that of the last comment ``# time SECONDS`` (or a date with a time); without both, a scrape
        begins where a series comes again, and they are ``interval`` apart.
    path
        Name of the file, for messages.
    interval : [s]
        Time between scrapes that say none.
    labels
        Labels of the series to take, where the file has several engines.
    skip_gaps
        Whether ``NaN`` is a gap, and not an error.

    Raises
    ------
    WorkloadError
        Naming the line that is wrong.
    """
    series = SeriesSet(path, labels or {})
    clock: float | None = None
    counted = interval is not None and TIME.search(text.lstrip().partition("\n")[0]) is None
    begun: set[Any] = set()
    scrape = 0
    for number, line in enumerate(text.splitlines(), start=1):
        stamp = TIME.match(line)
        if stamp:
            date = seconds_of_date(stamp[1])
            clock = _finite(stamp[1], path, number, "time") if date is None else date
            continue
        if not line.strip() or line.startswith("#"):
            continue
        sample = SAMPLE.match(line)
        if sample is None:
            raise WorkloadError("not a line of Prometheus text", path=path, row=number,
                                value=line[:60])  # fmt: skip
        name, inside, value, own = sample.groups()
        if name not in NAMES and name != CACHE_CONFIG:
            continue
        key = (name, frozenset(LABEL.findall(inside or "")))
        points = series.points(*key)
        if points is None:
            continue
        if counted:
            if key in begun:
                scrape, begun = scrape + 1, set()
            begun.add(key)
            at = scrape * float(interval or 0.0)
        elif own is not None:
            at = _finite(own, path, number, name) / 1000.0
        elif clock is not None:
            at = clock
        else:
            raise WorkloadError(
                "no time: give samples a timestamp, write '# time SECONDS' before each scrape, "
                "or say how far apart they are with --interval",
                path=path, row=number, column=name,
            )  # fmt: skip
        if not (skip_gaps and _is_gap(value)):
            points[at] = _finite(value, path, number, name)
        else:
            series.gaps.add(at)
    return _assembled(series)


def from_range_export(
    answers: Sequence[Any],
    path: Path,
    *,
    labels: Mapping[str, str] | None = None,
    skip_gaps: bool = False,
) -> MetricsLog:
    """Return the log in answers of ``/api/v1/query_range`` (matrices).

    Parameters
    ----------
    answers
        The parsed JSON of each.
    path, labels, skip_gaps
        As for :func:`from_exposition`.

    Raises
    ------
    WorkloadError
        Naming the series, the entry and the value that is wrong.
    """
    series = SeriesSet(path, labels or {})
    for answer in answers:
        data = answer.get("data", answer) if isinstance(answer, dict) else None
        if not isinstance(data, dict) or data.get("resultType") != "matrix":
            raise WorkloadError("allowed: 'matrix', as query_range answers", path=path,
                                column="resultType")  # fmt: skip
        for number, each in enumerate(_listed(data, "result", path), start=1):
            own = each.get("metric") if isinstance(each, dict) else None
            if not isinstance(own, dict):
                raise WorkloadError("allowed: a series with 'metric' and 'values'", path=path,
                                    row=number, column="result")  # fmt: skip
            own = {str(key): str(value) for key, value in own.items()}
            name = own.pop("__name__", None)
            if name is None:
                raise WorkloadError(
                    "a series has no name: query metrics, not expressions", path=path,
                    column="__name__",
                )  # fmt: skip
            if name not in NAMES and name != CACHE_CONFIG:
                continue
            points = series.points(name, own.items())
            if points is None:
                continue
            for row, pair in enumerate(_listed(each, "values", path), start=1):
                if not isinstance(pair, list) or len(pair) != 2:
                    raise WorkloadError("allowed: [time, value]", path=path, row=row,
                                        column=name, value=pair)  # fmt: skip
                at, value = _finite(pair[0], path, row, name), pair[1]
                if skip_gaps and _is_gap(value):
                    series.gaps.add(at)
                else:
                    points[at] = _finite(value, path, row, name)
    return _assembled(series)


def _listed(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    """Return the list under a key of a JSON object."""
    found = content.get(key)
    if not isinstance(found, list):
        raise WorkloadError("allowed: a list", path=path, column=key, value=found)
    return found


def from_throughputs(table: TextTable) -> MetricsLog:
    """Return the log in a CSV of throughputs [tokens/s] and gauges at the end of every interval.

    Columns: ``t`` or ``t_s`` [s], ``prompt_throughput``, ``gen_throughput``, ``running`` and, if
    there, ``waiting`` and ``kv_cache_pct`` [percent].
    """
    clock = "t_s" if "t_s" in table.columns else "t"
    if clock not in table.columns:
        raise WorkloadError("a column is missing: one of t | t_s", path=table.path)
    time = table.numbers(clock)
    columns = {
        "prompt_tokens": _integrated(time, table.numbers("prompt_throughput")),
        "generation_tokens": _integrated(time, table.numbers("gen_throughput")),
        "running": table.numbers("running"),
    }
    if "waiting" in table.columns:
        columns["waiting"] = table.numbers("waiting")
    if "kv_cache_pct" in table.columns:
        columns["kv_usage"] = table.numbers("kv_cache_pct") / 100.0
    return checked(time, columns, None, table.path)


def _integrated(time: NDArray[np.float64], rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the total since the first row; a rate is that of the interval before its row."""
    return np.concatenate([[0.0], np.cumsum(rate[1:] * np.diff(time))])


def checked(
    time: NDArray[np.float64],
    columns: Mapping[str, NDArray[np.float64]],
    kv_capacity: float | None,
    path: Path,
) -> MetricsLog:
    """Return the log of columns whose values can be; counters that restart are refused by name.

    Raises
    ------
    WorkloadError
        Naming the row of the first value that is wrong.
    """
    if time.size < 3:
        raise WorkloadError(f"holds {time.size} times; at least 3 are needed", path=path)
    refuse_implausible({"time": time}, path=path)
    late = np.diff(time, prepend=-np.inf) <= 0
    refuse_first(late, "time does not increase", column="time", values=time, path=path)
    for name, values in columns.items():
        bad = ~((values >= 0) & (values <= MOST_TOKENS))
        words = "allowed: a number from 0 to 2^53"
        if name in COUNTERS.values() and not bad.any():
            bad = np.diff(values, prepend=values[0]) < 0
            words = "a counter fell: the server restarted; cut the file there"
        if name == "kv_usage" and not bad.any():
            bad, words = values > 1.001, "allowed: a share, 0 to 1"
        refuse_first(bad, words, column=name, values=values, path=path)
    kept = {*NEEDED, *TOLD_ANYWAY}
    told: dict[str, Any] = {
        name: values for name, values in columns.items() if values.any() or name in kept
    }
    return MetricsLog(time=time - time[0], kv_capacity=kv_capacity, **told)


def _assembled(series: SeriesSet) -> MetricsLog:
    """Return the log of one engine, at the times at which all its metrics have a value."""
    path = series.path
    series.check_labels()
    told: dict[str, dict[float, float]] = {}
    notes = []
    for name, column in NAMES.items():
        found, divided = series.of_one_engine(name, whole=name in WHOLE, keep=PART.get(name))
        if not found or column in told:
            continue
        told[column] = added([points for _, points in found], counter=name in COUNTERS)
        if len(found) > 1:
            notes.append(f"{name}: {len(found)} series of one engine, by {divided}, are added")
    for name in NEEDED:
        if name not in told:
            metric = next(each for each, own in NAMES.items() if own == name)
            raise WorkloadError("the metric is missing", path=path, column=metric)
    everywhere = set(told["running"]).intersection(*map(set, told.values()))
    times = sorted(everywhere)
    columns = {name: np.array([each[at] for at in times]) for name, each in told.items()}
    left_out = len(set().union(*told.values()) | series.gaps) - len(times)
    capacity, block = _cache(series)
    log = checked(np.array(times, dtype=float), columns, capacity, path)
    dropped = {"times at which a metric has no value": left_out} if left_out else {}
    return replace(log, block_size=block, notes=tuple(notes), dropped=dropped)


def _cache(series: SeriesSet) -> tuple[float | None, float | None]:
    """Return KV capacity and block size [tokens] in the labels of ``CACHE_CONFIG``, if they are.

    The capacity that a label states comes before the number of blocks times their size: a model
    with several kinds of layers shares its blocks among them.
    """
    found, _ = series.of_one_engine(CACHE_CONFIG, whole=False, is_info=True)
    stated = {_stated(dict(labels)) for labels, _ in found}
    stated.discard((None, None))
    if len(stated) > 1:
        shown = ", ".join(f"{capacity:g}" for capacity, _ in stated if capacity is not None)
        raise WorkloadError(
            f"several KV capacities ({shown}): the server restarted; cut the file there",
            path=series.path, column=CACHE_CONFIG,
        )  # fmt: skip
    return next(iter(stated), (None, None))


def _stated(labels: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Return capacity and block size [tokens] in some labels; None for what they do not tell."""

    def size(key: str) -> float | None:
        try:
            found = float(labels[key])
        except (KeyError, ValueError):
            return None
        return found if 1 <= found < 2**53 else None

    blocks, block, capacity = size("num_gpu_blocks"), size("block_size"), size(STATED_CAPACITY)
    if capacity is None and blocks is not None and block is not None:
        capacity = blocks * block
    return capacity, block


def _is_gap(value: Any) -> bool:
    """Return whether a value is the ``NaN`` by which Prometheus says that there is none."""
    return (isinstance(value, str) and value.strip().lower() == "nan") or value != value


def _finite(value: Any, path: Path, row: int, name: str) -> float:
    """Return a value as a finite number; refuse any other."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not np.isfinite(number):
        more = "; --skip-gaps leaves such times out" if _is_gap(value) else ""
        raise WorkloadError("allowed: a finite number" + more, path=path, row=row, column=name,
                            value=value)  # fmt: skip
    return number
