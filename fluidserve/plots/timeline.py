"""Draw a Gantt chart that shows what happened to each of some requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fluidserve.plots.style import INK, STATES, VERMILLION, figure, legend_above, note, time_label

ENTERS = {
    "arrive": "waiting",
    "admit": "running",
    "swap_out": "swapped",
    "swap_in": "running",
    "sacrifice": "waiting",
    "complete": None,
}
"""State that a request is in after each event; None when it has left."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request's way.

    Parameters
    ----------
    req_id
        Row of the request table.
    spans
        (state, from, to) [time], in order.
    swaps, sacrifices
        How often it was evicted.
    """

    req_id: int
    spans: tuple[tuple[str, float, float], ...]
    swaps: int
    sacrifices: int

    @classmethod
    def from_events(
        cls, events: Mapping[str, Sequence[Any]], requests: Sequence[int], end: float
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
        """
        wanted: dict[int, list[tuple[str, float]]] = {int(row): [] for row in requests}
        req_id = np.asarray(events["req_id"], np.int64)
        time, kind = np.asarray(events["time"], float), np.asarray(events["event_type"])
        for i in np.flatnonzero(np.isin(req_id, list(wanted))):
            wanted[int(req_id[i])].append((str(kind[i]), float(time[i])))
        return [cls._of(row, happened, end) for row, happened in wanted.items() if happened]

    @classmethod
    def _of(cls, row: int, happened: list[tuple[str, float]], end: float) -> Timeline:
        spans = []
        ends = [t for _, t in happened[1:]] + [end]
        for (event, start), stop in zip(happened, ends, strict=True):
            state = ENTERS[event]
            if state is not None and stop > start:
                spans.append((state, start, stop))
        kinds = [event for event, _ in happened]
        return cls(row, tuple(spans), kinds.count("swap_out"), kinds.count("sacrifice"))


def sample_rows(evictions: ArrayLike, count: int) -> list[int]:
    """Choose rows spread evenly over the arrivals, a third of them (if any) evicted ones."""
    times = np.asarray(evictions)
    hit = np.flatnonzero(times > 0)
    some = hit[np.linspace(0, hit.size - 1, min(hit.size, count // 3)).astype(int)]
    rest = np.linspace(0, times.size - 1, min(times.size, count - some.size)).astype(int)
    return sorted({*some.tolist(), *rest.tolist()})


def request_timeline(
    timelines: Sequence[Timeline], path: str | Path, *, time_unit: str = "none"
) -> None:
    """Draw waiting, execution and swapped time of sampled requests.

    Parameters
    ----------
    timelines
        One row each, in order of arrival. An evicted one is labelled ``S:n`` (n swaps) or
        ``R:n`` (n restarts after a sacrifice).
    path
        PNG to write.
    """
    names = {"waiting": "WAITING", "running": "RUNNING", "swapped": "SWAPPED"}
    with figure(path, 11.0, min(11.0, 1.4 + 0.12 * len(timelines))) as drawing:
        axes = drawing.subplots()
        handles: dict[str, Any] = {}
        for y, way in enumerate(timelines):
            for state, start, stop in way.spans:
                bar = axes.barh(y, stop - start, left=start, height=0.72, color=STATES[state], lw=0)
                handles.setdefault(names[state], bar)
            label = f"S:{way.swaps}" if way.swaps else f"R:{way.sacrifices}"
            if way.spans and (way.swaps or way.sacrifices):
                axes.annotate(
                    label, (way.spans[-1][2], y), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=7, color=INK if way.swaps else VERMILLION,
                )  # fmt: skip
        shown = np.unique(np.linspace(0, len(timelines) - 1, 12).astype(int))
        axes.set_yticks(shown, [str(timelines[i].req_id) for i in shown])
        axes.set_ylim(len(timelines) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(time_label(time_unit))
        axes.set_ylabel("request, in order of arrival")
        if any(way.swaps or way.sacrifices for way in timelines):
            note(axes, "S:n swapped out n times, R:n restarted n times", y=1.005)
        ordered = {name: handles[name] for name in names.values() if name in handles}
        legend_above(drawing, ordered)
