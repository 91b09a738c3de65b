"""vLLM logs a line per step (``--enable-logging-iteration-details``): what it did, how long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.refusal import MOST_TOKENS, refuse_first, refuse_no_duration
from serving import WorkloadError

SIGN = "context requests, "
"""Words by which a log with iterations is known."""

LINE = re.compile(
    r"Iteration\((?P<index>\d{1,15})\): (?P<contexts>\d{1,9}) context requests, "
    r"(?P<context>\d{1,12}) context tokens, (?P<decodes>\d{1,9}) generation requests, "
    r"(?P<generation>\d{1,12}) generation tokens, "
    r"iteration elapsed time: (?P<elapsed>\d{1,12}(?:\.\d{1,9})?) ms"
    r"(?P<dummy> \(dummy\))?(?:.*?KV cache usage: (?P<usage>\d{1,3}(?:\.\d{1,6})?)%)?"
)
"""One iteration. The usage is that after the step; earlier versions do not say it."""

CLOCK = re.compile(r"(?<![\d:])(\d\d):(\d\d):(\d\d)(?![\d:])")
"""Time of day of a line, to the second."""

ENGINE = re.compile(r"Engine (\d{1,6}): $")
"""Number of the engine, right before the iteration."""

CAPACITY = re.compile(r"KV cache size: (\d{1,3}(?:,\d{3})*|\d+) tokens")
"""Line of the start-up that states the KV capacity."""

HIT_RATE = re.compile(r"Prefix cache hit rate: (\d{1,3}(?:\.\d+)?)%")
"""Line that vLLM writes every ten seconds."""

DAY = 86_400
"""Seconds of a day."""


@dataclass(frozen=True, slots=True, eq=False)
class IterationLog:
    """A log holds the iterations of one engine, in order.

    Parameters
    ----------
    stamp : shape (N,) [s]
        Time of each line, in whole seconds from the first; None where lines say none.
    contexts, context_tokens : shape (N,)
        Requests without an output so far, and the tokens computed for them.
    decodes, generation_tokens : shape (N,)
        Requests with outputs, and the tokens computed for them: one each, and what a preempted
        request computes again, or drafts.
    elapsed : shape (N,) [s]
        Time that the step took. What the engine does between two steps is not in it.
    usage : shape (N,)
        Share of the KV cache in use after the step, 0 to 1; None where lines say none.
    kv_capacity : [tokens]
        As stated at the start, if the log has the start.
    hit_rate
        Largest share of hits in the prefix cache that the log says; None where it says none.
    dropped
        Number of lines that were left out, by reason.
    """

    stamp: NDArray[np.float64] | None
    contexts: NDArray[np.float64]
    context_tokens: NDArray[np.float64]
    decodes: NDArray[np.float64]
    generation_tokens: NDArray[np.float64]
    elapsed: NDArray[np.float64]
    usage: NDArray[np.float64] | None
    kv_capacity: float | None = None
    hit_rate: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of iterations."""
        return self.elapsed.size


class _Line(NamedTuple):
    """An iteration, the number of its line in the file, and the clock before it."""

    number: int
    found: re.Match[str]
    clock: re.Match[str] | None


def is_iteration_log(text: str) -> bool:
    """Return whether a text has iterations of vLLM."""
    return SIGN in text and LINE.search(text) is not None


def from_iteration_log(text: str, path: Path, *, engine: str | None = None) -> IterationLog:
    """Return the iterations in the log of a server; other lines are passed over.

    Parameters
    ----------
    text
        The log.
    path
        Name of the file, for messages.
    engine
        Number of the engine to take, where the log has several.

    Raises
    ------
    WorkloadError
        Naming the line that is wrong.
    """
    rows: list[_Line] = []
    engines: set[str] = set()
    dummies = 0
    for number, line in enumerate(text.splitlines(), start=1):
        found = LINE.search(line) if SIGN in line else None
        if found is None:
            continue
        before = line[: found.start()]
        named = ENGINE.search(before)
        own = "0" if named is None else str(int(named[1]))
        engines.add(own)
        if engine is not None and own != engine.lstrip("0").rjust(1, "0"):
            continue
        if found["dummy"]:
            dummies += 1
        else:
            rows.append(_Line(number, found, CLOCK.search(before)))
    if engine is None and len(engines) > 1:
        raise WorkloadError(
            f"iterations of {len(engines)} engines; choose one with --engine "
            f"({', '.join(sorted(engines))})", path=path,
        )  # fmt: skip
    if not rows:
        known = ", ".join(sorted(engines))
        raise WorkloadError(f"no iteration of engine {engine}; the log has {known}", path=path)
    stated = CAPACITY.search(text)
    rates = [float(rate) for rate in HIT_RATE.findall(text)]
    return _checked(
        rows, path,
        kv_capacity=None if stated is None else float(stated[1].replace(",", "")),
        hit_rate=max(rates) / 100 if rates else None,
        dropped={"steps without a request": dummies} if dummies else {},
    )  # fmt: skip


def _checked(
    rows: list[_Line], path: Path, *, kv_capacity: float | None,
    hit_rate: float | None, dropped: Mapping[str, int],
) -> IterationLog:  # fmt: skip
    """Return the log of the lines of one engine; refuse values that cannot be."""
    lines = np.array([row.number for row in rows])

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row.found[name]) for row in rows])

    index, elapsed = column("index"), column("elapsed")
    refuse_first(
        np.diff(index, prepend=-1) <= 0, "iterations do not rise: the server restarted; cut the "
        "file there", column="Iteration", values=index, path=path, rows=lines,
    )  # fmt: skip
    counts = {name: column(name) for name in ("contexts", "context", "decodes", "generation")}
    for name, values in counts.items():
        refuse_first(values > MOST_TOKENS, "allowed: a number up to 2^53", column=name,
                     values=values, path=path, rows=lines)  # fmt: skip
    few = counts["generation"] < counts["decodes"]
    refuse_first(few, "fewer tokens than generation requests", column="generation tokens",
                 values=counts["generation"], path=path, rows=lines)  # fmt: skip
    refuse_no_duration(elapsed / 1e3, column="iteration elapsed time", values=elapsed, path=path)
    usage = None
    if all(row.found["usage"] is not None for row in rows):
        usage = column("usage") / 100
        refuse_first(usage > 1.001, "allowed: a percentage", column="KV cache usage",
                     values=usage, path=path, rows=lines)  # fmt: skip
    return IterationLog(
        stamp=_stamps(rows),
        contexts=counts["contexts"],
        context_tokens=counts["context"],
        decodes=counts["decodes"],
        generation_tokens=counts["generation"],
        elapsed=elapsed / 1e3,
        usage=usage,
        kv_capacity=kv_capacity,
        hit_rate=hit_rate,
        dropped=dropped,
    )


def _stamps(rows: list[_Line]) -> NDArray[np.float64] | None:
    """Return the seconds of the lines from the first one; None where one says none.

    The clock has no year and, of some formats, no date: where it falls, a day has passed.
    """
    clocks = [row.clock.groups() for row in rows if row.clock is not None]
    if len(clocks) < len(rows):
        return None
    seconds = np.array(clocks, dtype=float) @ [3600.0, 60.0, 1.0]
    seconds += DAY * np.cumsum(np.diff(seconds, prepend=seconds[0]) < -DAY / 2)
    return seconds - seconds[0]
