"""A benchmark or a gateway writes a server's results per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.refusal import LATEST, refuse_first, refuse_implausible
from calibration.server_runs.clock import calendar_clock
from calibration.server_runs.documents import numbers
from serving import WorkloadError
from workload import TextTable

ARRIVAL = ("arrival_s", "arrival_time", "start_time", "start_s")
"""Header names of the arrival [s]; of all header names, the first that a file has is taken."""

FIRST_TOKEN = ("first_token_s", "first_token_time")
"""Header names of the time of the first token [s]."""

TTFT = ("ttft_s", "ttft")
"""Header names of the time from arrival to first token [s]."""

FINISH = ("finish_s", "completion_time", "finish_time", "end_s")
"""Header names of the time of the last token [s]."""

E2EL = ("e2e_s", "e2el_s", "e2el", "e2e")
"""Header names of the time from arrival to last token [s]."""

CLOCKS = frozenset(ARRIVAL + FIRST_TOKEN + FINISH)
"""Header names whose values are times on a clock and may be dates."""

PROMPT = ("prompt_tokens", "prefill_length", "input_len")
"""Header names of the prompt tokens."""

OUTPUT = ("output_tokens", "decode_length", "output_len")
"""Header names of the output tokens."""

STATUS = "status"
"""Header name of the column that says how a request ended."""

FAILED = frozenset({"error", "errored", "failed", "failure", "incomplete"})
"""Words of the column ``status`` for a request that did not complete."""

FAILED_REQUESTS = "failed requests"
"""Why a request that failed is left out."""

NO_OUTPUT = "requests without output"
"""Why a request without an output token is left out."""

BENCH_KEYS = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
"""Keys of a benchmark result that a log needs."""

SUMMARY_KEYS = ("request_throughput", "mean_ttft_ms", "total_input_tokens")
"""Keys of a benchmark result by which it is known even without details."""

SHORTEST_STEP, LONGEST_STEP = 1e-4, 3.0
"""Bounds [s] of the median time between two tokens; a file beyond them is in another unit."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestLog:
    """A log holds times and lengths of every completed request, in order of arrival.

    Parameters
    ----------
    arrival, first_token, finish : shape (R,) [s]
        Times on one clock, arrival <= first_token <= finish.
    prompt_tokens, output_tokens : shape (R,) [tokens]
        Lengths of prompt and output, each >= 1.
    inter_token
        Times between consecutive outputs of each request [s]; None where the file has none.
        A server that sends several tokens at once has fewer of them than tokens.
    dropped
        Number of rows that were left out, by reason.
    """

    arrival: NDArray[np.float64]
    first_token: NDArray[np.float64]
    finish: NDArray[np.float64]
    prompt_tokens: NDArray[np.float64]
    output_tokens: NDArray[np.float64]
    inter_token: tuple[NDArray[np.float64], ...] | None
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        """Return the number of requests."""
        return self.arrival.size

    def with_dropped(self, more: Mapping[str, int]) -> RequestLog:
        """Return the log with further rows counted as left out."""
        both = {
            key: self.dropped.get(key, 0) + more.get(key, 0) for key in {**self.dropped, **more}
        }
        return replace(self, dropped=both)


def described(content: Mapping[str, Any]) -> str:
    """Return a result of ``vllm bench serve`` in a few words."""
    said = [f"{key} {content[key]}" for key in ("date", "request_rate", "max_concurrency")
            if content.get(key) is not None]  # fmt: skip
    return ", ".join(said) or "result"


def from_bench(content: Mapping[str, Any], path: Path) -> RequestLog:
    """Return the log in a result of ``vllm bench serve --save-result --save-detailed``.

    Parameters
    ----------
    content
        The parsed JSON: ``input_lens``, ``output_lens`` [tokens], ``ttfts``, ``itls`` [s],
        ``start_times`` [s, any origin] and, if there, ``errors``.
    path
        Name of the file, for messages.

    Raises
    ------
    WorkloadError
        Naming key, request and value of the first that is wrong.
    """
    for key in BENCH_KEYS:
        if not isinstance(content.get(key), list):
            raise WorkloadError(
                "missing: write the result with --save-result --save-detailed; arrivals are in "
                "start_times since vLLM 0.9" if key not in content else "allowed: a list",
                path=path, column=key,
            )  # fmt: skip
    counts = {key: len(content[key]) for key in BENCH_KEYS}
    total = counts["input_lens"]
    for key, count in counts.items():
        if count != total:
            raise WorkloadError(f"has {count} entries, input_lens {total}", path=path, column=key)
    errors = content.get("errors") or [""] * total
    failed = np.array([bool(error) for error in errors], dtype=bool)
    if failed.size != total:
        raise WorkloadError(f"has {failed.size} entries, input_lens {total}", path=path,
                            column="errors")  # fmt: skip
    columns = {key: numbers(content[key], key, path) for key in BENCH_KEYS if key != "itls"}
    empty = (columns["output_lens"] == 0) & ~failed
    keep = np.flatnonzero(~(failed | empty))
    gaps = tuple(
        numbers(content["itls"][row], "itls", path, row=int(row) + 1, allowed_from=0.0)
        for row in keep
    )
    lasts = np.array([each.sum() for each in gaps])
    start, ttft = columns["start_times"][keep], columns["ttfts"][keep]
    log = RequestLog(
        arrival=start,
        first_token=start + ttft,
        finish=start + ttft + lasts,
        prompt_tokens=columns["input_lens"][keep],
        output_tokens=columns["output_lens"][keep],
        inter_token=gaps,
        dropped={
            FAILED_REQUESTS: int(failed.sum()),
            NO_OUTPUT: int(empty.sum()),
        },
    )
    return checked_log(log, path, rows=keep + 1)


def from_table(table: TextTable) -> RequestLog:
    """Return the log in a CSV of arrival, first token, finish and lengths.

    Parameters
    ----------
    table
        Columns by any of the names listed in this module; the first token and the finish may be
        given as times or as latencies from the arrival.

    Raises
    ------
    WorkloadError
        Naming row, column and value of the first that is wrong, or the column that is missing.
    """
    status = table.columns.get(STATUS, ())
    failed = np.array([each.strip().lower() in FAILED for each in status], dtype=bool)

    def column(*names: Sequence[str]) -> tuple[NDArray[np.float64], int]:
        """Return the first column that the table has, and the number of its group of names."""
        for kind, group in enumerate(names):
            for name in group:
                if name in table.columns:
                    return _completed(table, name, failed), kind
        wanted = " | ".join(name for group in names for name in group)
        raise WorkloadError(f"a column is missing: one of {wanted}", path=table.path)

    arrival, _ = column(ARRIVAL)
    first, relative = column(FIRST_TOKEN, TTFT)
    first = arrival + first if relative else first
    finish, relative = column(FINISH, E2EL)
    finish = arrival + finish if relative else finish
    rows = np.flatnonzero(~failed) + 1 if failed.size else np.arange(1, arrival.size + 1)
    prompt, _ = column(PROMPT)
    output, _ = column(OUTPUT)
    log = RequestLog(
        arrival=arrival,
        first_token=first,
        finish=finish,
        prompt_tokens=prompt,
        output_tokens=output,
        inter_token=None,
        dropped={FAILED_REQUESTS: int(failed.sum())},
    )
    return checked_log(log, table.path, rows=rows)


def _completed(table: TextTable, name: str, failed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a column of the requests that completed; failed requests may leave cells empty.

    A clock may be written as numbers or as times of day with a date.
    """
    values = table.columns[name]
    if failed.any():
        filler = next((each for each, bad in zip(values, failed, strict=True) if not bad), "0")
        values = [filler if bad else each for each, bad in zip(values, failed, strict=True)]
    if name in CLOCKS and (stamps := calendar_clock(values)) is not None:
        found = stamps
    else:
        found = TextTable(table.path, {name: values}).numbers(name)
    return found[~failed] if failed.size else found


def is_request_table(table: TextTable) -> bool:
    """Return whether a table has the columns of per-request results."""
    groups = (ARRIVAL, FIRST_TOKEN + TTFT, FINISH + E2EL)
    return all(any(name in table.columns for name in group) for group in groups)


def checked_log(log: RequestLog, path: Path, *, rows: NDArray[np.int64]) -> RequestLog:
    """Return a log sorted by arrival, from time 0; refuse values that cannot be.

    Parameters
    ----------
    log
        Requests in the order of the file, on the clock of the file.
    path
        Name of the file, for messages.
    rows : shape (R,)
        Number of each request in the file.
    """
    if not len(log):
        reasons = "".join(f"; {count} {reason}" for reason, count in log.dropped.items() if count)
        raise WorkloadError("holds no request that completed" + reasons, path=path)

    def refuse(wrong: NDArray[np.bool_], column: str, values: NDArray, reason: str) -> None:
        refuse_first(wrong, reason, column=column, values=values, path=path, rows=rows)

    clocks = {"arrival": log.arrival, "first token": log.first_token, "finish": log.finish}
    counts = {"prompt tokens": log.prompt_tokens, "output tokens": log.output_tokens}
    refuse_implausible(clocks | counts, path=path, rows=rows)
    ttft, decoding = log.first_token - log.arrival, log.finish - log.first_token
    refuse(log.first_token < log.arrival, "first token", ttft, "it comes before the arrival")
    early = log.finish < log.first_token - 1e-9
    refuse(early, "finish", decoding, "it comes before the first token")
    if log.inter_token is not None:
        longest = np.array([gaps.max(initial=0.0) for gaps in log.inter_token])
        refuse(longest > LATEST, "times between outputs", longest, "allowed: seconds up to 1e12")
    for name, tokens in counts.items():
        refuse((tokens < 1) | (tokens % 1 != 0), name, tokens, "allowed: a whole number >= 1")
    several = log.output_tokens > 1
    if several.any():
        step = float(np.median(decoding[several] / (log.output_tokens - 1)[several]))
        if not SHORTEST_STEP <= step <= LONGEST_STEP:
            raise WorkloadError(
                f"median time between tokens is {step:.3g} s: not plausible; times are read in "
                f"seconds (allowed: {SHORTEST_STEP} to {LONGEST_STEP}); is the file in "
                f"{'milliseconds' if step > LONGEST_STEP else 'another unit'}?", path=path,
            )  # fmt: skip
    order = np.argsort(log.arrival, kind="stable")
    origin = log.arrival[order[0]]
    gaps = log.inter_token
    return RequestLog(
        arrival=log.arrival[order] - origin,
        first_token=log.first_token[order] - origin,
        finish=log.finish[order] - origin,
        prompt_tokens=log.prompt_tokens[order],
        output_tokens=log.output_tokens[order],
        inter_token=None if gaps is None else tuple(gaps[at] for at in order),
        dropped=dict(log.dropped),
    )
