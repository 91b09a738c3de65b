"""Draw a Gantt chart that shows what happened to each of some requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fluidserve.plots.style import INK, STATES, VERMILLION, figure, legend_above, note, time_label
from serving import Event

SOME_EVICTED = ", up to a third of them chosen among the evicted"
"""How :func:`sample_rows` chooses where some were evicted."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request's way.

    Parameters
    ----------
    req_id
        Row of the request table.
    spans
        (state, from, to) [time], in order.
    evictions
        How often it was evicted, by the mark of the event (``S``); none that did not happen.
    """

    req_id: int
    spans: tuple[tuple[str, float, float], ...]
    evictions: Mapping[str, int]

    @classmethod
    def from_events(
        cls,
        events: Mapping[str, Sequence[Any]],
        requests: Sequence[int],
        end: float,
        kinds: Sequence[Event],
    ) -> list[Timeline]:
        """Return the ways of ``requests`` read off the columns of ``events.csv``.

        Parameters
        ----------
        events
            Columns ``time``, ``event_type`` and ``req_id`` in order of time.
        requests
            Rows to follow.
        end : [time]
            Where a request that never completed is cut.
        kinds
            Events that the engine declares.
        """
        wanted: dict[int, list[tuple[str, float]]] = {int(row): [] for row in requests}
        req_id = np.asarray(events["req_id"], np.int64)
        time, kind = np.asarray(events["time"], float), np.asarray(events["event_type"])
        for i in np.flatnonzero(np.isin(req_id, list(wanted))):
            wanted[int(req_id[i])].append((str(kind[i]), float(time[i])))
        known = {event.name: event for event in kinds}
        return [cls._of(row, seen, end, known) for row, seen in wanted.items() if seen]

    @classmethod
    def _of(
        cls, row: int, happened: list[tuple[str, float]], end: float, known: Mapping[str, Event]
    ) -> Timeline:
        spans = []
        ends = [t for _, t in happened[1:]] + [end]
        for (event, start), stop in zip(happened, ends, strict=True):
            state = known[event].state
            if state is not None and stop > start:
                spans.append((state, start, stop))
        marks = Counter(known[event].mark for event, _ in happened)
        return cls(row, tuple(spans), {mark: marks[mark] for mark in marks if mark})


def sample_rows(evictions: ArrayLike, count: int) -> list[int]:
    """Choose rows spread evenly over the arrivals, a third of them (if any) evicted ones."""
    times = np.asarray(evictions)
    hit = np.flatnonzero(times > 0)
    some = hit[np.linspace(0, hit.size - 1, min(hit.size, count // 3)).astype(int)]
    rest = np.linspace(0, times.size - 1, min(times.size, count - some.size)).astype(int)
    return sorted({*some.tolist(), *rest.tolist()})


def request_timeline(
    timelines: Sequence[Timeline],
    path: str | Path,
    *,
    kinds: Sequence[Event],
    time_unit: str = "none",
    of: int | None = None,
    title: str = "",
) -> None:
    """Draw waiting, execution and swapped time of sampled requests.

    Parameters
    ----------
    timelines
        One row each, in order of arrival. An evicted one is labelled by the mark of the event and
        how often it happened, such as ``S:2``.
    path
        PNG to write.
    kinds
        Events that the engine declares.
    time_unit
        Unit of the time axis.
    of
        Requests that there are, of which ``timelines`` are a sample.
    title
        What is shown: the node, the load, the unit.
    """
    names = {"waiting": "WAITING", "running": "RUNNING", "swapped": "SWAPPED"}
    words = {event.mark: event.words for event in kinds if event.mark}
    first = next(iter(words), "")
    with figure(path, 11.0, min(11.0, 1.4 + 0.12 * len(timelines))) as drawing:
        axes = drawing.subplots()
        handles: dict[str, Any] = {}
        for y, way in enumerate(timelines):
            for state, start, stop in way.spans:
                bar = axes.barh(y, stop - start, left=start, height=0.72, color=STATES[state], lw=0)
                handles.setdefault(names[state], bar)
            label = " ".join(f"{mark}:{count}" for mark, count in way.evictions.items())
            if way.spans and label:
                axes.annotate(
                    label, (way.spans[-1][2], y), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=7, color=INK if first in way.evictions else VERMILLION,
                )  # fmt: skip
        shown = np.unique(np.linspace(0, len(timelines) - 1, 12).astype(int))
        axes.set_yticks(shown, [str(timelines[i].req_id) for i in shown])
        axes.set_ylim(len(timelines) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(time_label(time_unit))
        axes.set_ylabel("number of the request, in order of arrival")
        seen = {mark for way in timelines for mark in way.evictions}
        told = [f"{mark}:n {text} n times" for mark, text in words.items() if mark in seen]
        if of is not None and of > len(timelines):
            told.insert(
                0, f"a sample: {len(timelines)} of {of:,} requests" + SOME_EVICTED * bool(seen)
            )
        if told:
            note(axes, "; ".join(told), y=1.005)
        ordered = {name: handles[name] for name in names.values() if name in handles}
        legend_above(drawing, ordered, title)
