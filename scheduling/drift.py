"""How far what a predictor believes of its instances is from what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.fleet_run import FleetRun
from scheduling.messages import BatchTrace, RequestMeta
from scheduling.predictor import Predictor
from scheduling.sync_counts import COUNTS

EVERY = 10
"""Requests between two looks at what is believed."""

AT_END = 0.1
"""Share of the looks, the last ones, that ``drift_at_end`` is told of: a drift that is bounded
is as large there as elsewhere."""

DRIFTS = ("drift", "drift_at_end")
"""How far beliefs are off [requests]: on average, and at the end of a run."""


class Beliefs:
    """Notes at some requests that are sent how many a predictor believes to be on each instance.

    Parameters
    ----------
    predictor
        Who believes; it is to hear of the request first.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._heard = 0
        self._times: list[float] = []
        self._believed: list[NDArray[np.float64]] = []

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Note what is believed at ``ts`` [time], this request included."""
        self._heard += 1
        if self._heard % EVERY:
            return
        self._times.append(ts)
        self._believed.append(self._predictor.in_system(ts))

    def sync_batch_result(self, instance_id: int, batch_trace: BatchTrace) -> None:
        """Hear of a batch, which the predictor has taken in."""

    def drift(self, run: FleetRun) -> NDArray[np.float64]:
        """Return how far off the belief was at each look.

        Parameters
        ----------
        run
            What became of the same requests.

        Returns
        -------
        ndarray, shape (R / EVERY,) [requests]
            Mean over the instances of the distance between requests believed to be there, and
            those that were.
        """
        believed, times = np.array(self._believed), np.array(self._times)
        order = EVERY * np.arange(1, times.size + 1) - 1
        ended = run.requests.arrival_time + run.samples.e2el  # NaN: never, which sorts last
        off = np.zeros(times.size)
        if times.size == 0:
            return off
        for i, rows in enumerate(run.rows):
            sent = np.searchsorted(rows, order, side="right")
            gone = np.searchsorted(np.sort(ended[rows]), times, side="right")
            off += np.abs(believed[:, i] - (sent - gone))
        return off / len(run.rows)

    def row(self, run: FleetRun, first: int) -> dict[str, float | None]:
        """Return how the reports came in, and the drift from request ``first`` on [requests]."""
        found: dict[str, float | None] = {}
        for state in self._predictor.states:
            for name, count in asdict(state.counts).items():
                found[name] = (found.get(name) or 0) + count
        drift = self.drift(run)[first // EVERY :]
        last = max(1, int(AT_END * drift.size))
        drifts = [float(each.mean()) if each.size else None for each in (drift, drift[-last:])]
        return found | dict(zip(DRIFTS, drifts, strict=True))


def reports_of(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per load and policy that asks a predictor: counts together, drifts on average.

    Parameters
    ----------
    rows
        Of :func:`scheduling.experiment.row_of`.
    """
    found: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if DRIFTS[0] in row:
            found.setdefault((row["load"], row["policy"]), []).append(row)
    return [
        {"load": load, "policy": policy}
        | {name: sum(row[name] for row in mine) for name in COUNTS}
        | {name: _mean([row[name] for row in mine]) for name in DRIFTS}
        for (load, policy), mine in found.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is, in runs of a few requests."""
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None
