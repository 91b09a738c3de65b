"""A running vLLM server shows metrics over time: scrapes, exports and window tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.refusal import refuse_first
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
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:iteration_tokens_total_count": "iterations",
    "vllm:request_prompt_tokens_sum": "finished_prompt_tokens",
    "vllm:request_generation_tokens_sum": "finished_generation_tokens",
}
"""Columns of a log by vLLM's name of the metric that counts them."""

CACHE_CONFIG = "vllm:cache_config_info"
"""Metric of vLLM whose labels give the number and the size of the KV blocks."""

NAMES = {**GAUGES, **COUNTERS}
"""Columns of a log by vLLM's name of the metric; the first of two names that a server has wins."""

NEEDED = ("running", "prompt_tokens", "generation_tokens")
"""Columns without which a log tells no batch time."""

SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+(\S+))?\s*$")
"""Line of Prometheus text: name, labels, value and time [ms since 1970]."""

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
"""One label of a line of Prometheus text."""

TIME = re.compile(r"^#\s*time:?\s+(\S+)\s*$", re.IGNORECASE)
"""Comment that gives the time [s] of the scrape below it."""

OTHER_LABELS = ("__name__", "le", "finished_reason", "quantile")
"""Labels that do not tell one engine from another."""

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
    kv_capacity : [tokens]
        Capacity that ``vllm:cache_config_info`` gives.
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
    kv_capacity: float | None = None

    def __len__(self) -> int:
        """Return the number of scrapes."""
        return self.time.size


Series = dict[tuple[str, frozenset[tuple[str, str]]], dict[float, float]]
"""Values by time [s], of each metric with its labels."""


def from_exposition(
    text: str, path: Path, *, interval: float | None = None, engine: str | None = None
) -> MetricsLog:
    """Return the log in scrapes of ``/metrics``, one after the other in one file.

    Parameters
    ----------
    text
        Prometheus text. The time of a sample is its own [ms since 1970] where it has one, else
        that of the last comment ``# time SECONDS``; without both, a scrape begins where a series
        comes again, and they are ``interval`` apart.
    path
        Name of the file, for messages.
    interval : [s]
        Time between scrapes that say none.
    engine
        Label ``engine`` of the engine to take, where a server has several.

    Raises
    ------
    WorkloadError
        Naming the line that is wrong.
    """
    series: Series = {}
    clock: float | None = None
    counted = interval is not None and TIME.search(text.lstrip().partition("\n")[0]) is None
    begun: set[Any] = set()
    scrape = 0
    for number, line in enumerate(text.splitlines(), start=1):
        stamp = TIME.match(line)
        if stamp:
            clock = _finite(stamp[1], path, number, "time")
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
        series.setdefault(key, {})[at] = _finite(value, path, number, name)
    return _assembled(series, path, engine)


def from_range_export(content: Any, path: Path, *, engine: str | None = None) -> MetricsLog:
    """Return the log in the answer of ``/api/v1/query_range`` (a matrix), or in a list of them.

    Parameters
    ----------
    content
        The parsed JSON.
    path, engine
        As for :func:`from_exposition`.

    Raises
    ------
    WorkloadError
        Naming the series, the entry and the value that is wrong.
    """
    series: Series = {}
    for answer in content if isinstance(content, list) else [content]:
        data = answer.get("data", answer) if isinstance(answer, dict) else None
        if not isinstance(data, dict) or data.get("resultType") != "matrix":
            raise WorkloadError("allowed: 'matrix', as query_range answers", path=path,
                                column="resultType")  # fmt: skip
        for number, each in enumerate(_listed(data, "result", path), start=1):
            labels = each.get("metric") if isinstance(each, dict) else None
            if not isinstance(labels, dict):
                raise WorkloadError("allowed: a series with 'metric' and 'values'", path=path,
                                    row=number, column="result")  # fmt: skip
            labels = {str(key): str(value) for key, value in labels.items()}
            name = labels.pop("__name__", None)
            if name is None:
                raise WorkloadError(
                    "a series has no name: query metrics, not expressions", path=path,
                    column="__name__",
                )  # fmt: skip
            if name not in NAMES and name != CACHE_CONFIG:
                continue
            points = series.setdefault((name, frozenset(labels.items())), {})
            for row, pair in enumerate(_listed(each, "values", path), start=1):
                if not isinstance(pair, list) or len(pair) != 2:
                    raise WorkloadError("allowed: [time, value]", path=path, row=row,
                                        column=name, value=pair)  # fmt: skip
                at, value = pair
                points[_finite(at, path, row, name)] = _finite(value, path, row, name)
    return _assembled(series, path, engine)


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
    late = np.diff(time, prepend=-np.inf) <= 0
    refuse_first(late, "time does not increase", column="time", values=time, path=path)
    for name, values in columns.items():
        bad = ~np.isfinite(values) | (values < 0)
        words = "allowed: a finite number >= 0"
        if name in COUNTERS.values() and not bad.any():
            bad = np.diff(values, prepend=values[0]) < 0
            words = "a counter fell: the server restarted; cut the file there"
        if name == "kv_usage" and not bad.any():
            bad, words = values > 1.001, "allowed: a share, 0 to 1"
        refuse_first(bad, words, column=name, values=values, path=path)
    told = {name: values for name, values in columns.items() if values.any() or name in NEEDED}
    return MetricsLog(time=time - time[0], kv_capacity=kv_capacity, **told)


def _assembled(series: Series, path: Path, engine: str | None) -> MetricsLog:
    """Return the log of one engine, at the times at which all series have a value."""
    config = [dict(labels) for name, labels in series if name == CACHE_CONFIG]
    told: dict[str, dict[frozenset[tuple[str, str]], dict[float, float]]] = {}
    sources: dict[str, str] = {}
    for name in NAMES:
        for (own, labels), points in series.items():
            if own != name or sources.setdefault(NAMES[name], name) != name:
                continue
            if engine is not None and dict(labels).get("engine") not in (None, engine):
                continue
            who = frozenset(each for each in labels if each[0] not in OTHER_LABELS)
            told.setdefault(NAMES[name], {}).setdefault(who, points)
    for name in NEEDED:
        if name not in told:
            metric = next(each for each, own in NAMES.items() if own == name)
            raise WorkloadError("the metric is missing", path=path, column=metric)
    several = next((name for name, each in told.items() if len(each) > 1), None)
    if several is not None:
        engines = sorted({dict(who).get("engine", "?") for who in told[several]})
        raise WorkloadError(
            f"{len(told[several])} series, each of an engine of its own (engine labels: "
            f"{', '.join(engines)}); choose one with --engine", path=path, column=several,
        )  # fmt: skip
    points = {name: next(iter(each.values())) for name, each in told.items()}
    times = sorted(set.intersection(*(set(each) for each in points.values())))
    columns = {name: np.array([each[at] for at in times]) for name, each in points.items()}
    return checked(np.array(times, dtype=float), columns, _capacity(config), path)


def _capacity(configs: list[dict[str, str]]) -> float | None:
    """Return the KV capacity [tokens] in the labels of ``CACHE_CONFIG``; None without it."""
    for config in configs:
        try:
            capacity = float(config["num_gpu_blocks"]) * float(config["block_size"])
        except (KeyError, ValueError):
            continue
        if 1 <= capacity < np.inf:
            return capacity
    return None


def _finite(value: Any, path: Path, row: int, name: str) -> float:
    """Return a value as a finite number; refuse any other."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise WorkloadError("allowed: a finite number", path=path, row=row, column=name,
                            value=value)  # fmt: skip
    return number
