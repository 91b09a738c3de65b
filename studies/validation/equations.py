"""What a measured run says of the steps of its server: measured times as sums over steps.

Which requests share a step is decided by the engine. Given these decisions three kinds of times are
sums of step durations, and so linear in the numbers that correct a law: the time in which a request
decoded, the time from an arrival to the first token, and the time in which the server produced as
many tokens as it says it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calibration.measured_runs.law_terms import Terms, parts
from calibration.step_times import StepRows
from discrete import Run
from serving import BatchTimeLaw
from studies.validation.requests import Replayed

FEWEST_TOKENS = 20
"""Output tokens from which a request's time per token is worth something."""


@dataclass(frozen=True, slots=True, eq=False)
class Equations:
    """Measured times: ``features @ numbers + rest = measured``, and the front end where it counts.

    Parameters
    ----------
    features : shape (N, numbers)
    rest, measured : shape (N,) [s]
    has_front_end
        Whether the times contain that of the front end, which is no step of the engine.
    """

    features: NDArray[np.float64]
    rest: NDArray[np.float64]
    measured: NDArray[np.float64]
    has_front_end: bool = False

    @classmethod
    def joined(cls, several: list[Equations]) -> Equations:
        """Return the equations of several replicas, which are of one kind."""
        columns = (
            np.concatenate([getattr(each, name) for each in several])
            for name in ("features", "rest", "measured")
        )
        return cls(*columns, has_front_end=several[0].has_front_end)


@dataclass(frozen=True, eq=False)
class Replica:
    """What one engine did with its share of a run.

    Parameters
    ----------
    engine
        Its run, by the corrected law.
    rows : shape (S,)
        Its requests in the measured run.
    replayed
        The measured run.
    until : [s]
        Only what was there by then is used.
    law, terms
        The law before the correction, and the correction.
    """

    engine: Run
    rows: NDArray[np.int64]
    replayed: Replayed
    until: float
    law: BatchTimeLaw
    terms: Terms

    def equations(self) -> list[Equations]:
        """Return decode times, seconds of the server and, of a run's beginning, first tokens.

        A client's time to the first token holds that of the front end, which is no constant: it
        is used only where little else is known.
        """
        first = [self._first_tokens()] if np.isfinite(self.until) else []
        return [self._decode(), self._seconds(), *first]

    def front_end(self) -> NDArray[np.float64]:
        """Return what clients measured beyond the engine's TTFT, of requests that had no queue."""
        run, records = self.replayed.run, self.engine.requests
        waited = records["first_enter_running_time"] - records["arrival_time"]
        step = float(np.median(np.diff(self._end))) if self._end.size > 1 else 0.0
        seen = run.succeeded[self.rows] & (waited <= 2 * step + self._near)
        seen &= (run.arrival + run.ttft)[self.rows] <= self.until
        predicted = records["first_token_time"] - records["arrival_time"]
        return (run.ttft[self.rows] - predicted)[seen & np.isfinite(predicted)]

    @cached_property
    def _end(self) -> NDArray[np.float64]:
        return np.asarray(self.engine.batches["time"], float)

    @property
    def _near(self) -> float:
        return 1e-9 * max(float(self._end[-1]), 1.0) if self._end.size else 0.0

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """Features of all steps before each, shape (N + 1, numbers + 1); the last is the rest."""
        features, rest = parts(self.law, self.terms, self.engine.batches)
        of_steps = np.concatenate([features, rest[:, None]], axis=1)
        return np.concatenate([np.zeros((1, of_steps.shape[1])), np.cumsum(of_steps, axis=0)])

    def _of(
        self, sums: NDArray[np.float64], measured: NDArray[np.float64], front_end: bool = False
    ) -> Equations:
        return Equations(sums[:, :-1], sums[:, -1], measured, front_end)

    def _until_step(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over the steps that end by certain times."""
        return self._sums[np.searchsorted(self._end, times + self._near, side="right")]

    def _until_time(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums up to certain times, a part of the step that runs then included."""
        start = np.asarray(self.engine.batches["start_time"], float)
        at = np.searchsorted(self._end, times, side="right")
        inside = at < self._end.size
        step = np.minimum(at, self._end.size - 1)
        length = np.maximum(self._end[step] - start[step], 1e-300)
        part = np.where(inside, np.clip((times - start[step]) / length, 0, 1), 0)
        return self._sums[at] + part[:, None] * (self._sums[step + 1] - self._sums[step])

    def _decode(self) -> Equations:
        run, records = self.replayed.run, self.engine.requests
        first, last = records["first_token_time"], np.asarray(records["completion_time"], float)
        tells = (
            np.isfinite(last)
            & run.succeeded[self.rows]
            & (run.output_tokens[self.rows] >= FEWEST_TOKENS)
            & (run.finish[self.rows] <= self.until)
            & (np.asarray(records["preemption_count"]) == 0)
        )
        sums = self._until_step(last[tells]) - self._until_step(first[tells])
        return self._of(sums, (run.e2el - run.ttft)[self.rows][tells])

    def _first_tokens(self) -> Equations:
        """Return the times to the first token of requests that the engine admitted at once."""
        run, records = self.replayed.run, self.engine.requests
        first, arrival = records["first_token_time"], records["arrival_time"]
        waited = records["first_enter_running_time"] - arrival
        step = float(np.median(np.diff(self._end))) if self._end.size > 1 else 0.0
        tells = np.isfinite(first) & run.succeeded[self.rows] & (waited <= 2 * step + self._near)
        tells &= (run.arrival + run.ttft)[self.rows] <= self.until
        tells &= run.ttft[self.rows] > 0
        sums = self._until_step(first[tells]) - self._until_time(arrival[tells])
        return self._of(sums, run.ttft[self.rows][tells], front_end=True)

    def _seconds(self) -> Equations:
        """Return the time that the engine needs for the tokens of each second of the server."""
        series, arrival = self.replayed.run.series, self.replayed.run.arrival
        if series is None or "output_throughput" not in series.values:
            return self._of(np.empty((0, self._sums.shape[1])), np.empty(0))
        used = series.time <= min(self.until, float(arrival[-1]))
        time = np.concatenate([[0.0], series.time[used]])
        share = self.rows.size / arrival.size
        produced = np.cumsum(series.values["output_throughput"][used] * np.diff(time)) * share
        first = self.engine.requests["first_token_time"]
        begun = np.searchsorted(np.sort(first[np.isfinite(first)]), self._end + self._near, "right")
        decoded = np.cumsum(np.asarray(self.engine.batches["decode_tokens"], float))
        tokens = np.concatenate([[0.0], decoded + begun])
        inside = (produced[1:] < tokens[-1]) & (np.diff(produced) > 0)
        at = np.stack([np.interp(produced, tokens, column) for column in self._sums.T], axis=1)
        return self._of(np.diff(at, axis=0)[inside], np.diff(time)[1:][inside])


def of_steps(rows: StepRows, law: BatchTimeLaw, terms: Terms) -> Equations:
    """Return measured steps without prefill as equations."""
    plain = rows.prefill_tokens == 0
    requests, context = rows.requests[plain], rows.context[plain]
    timed = terms.corrected(law).step_duration(requests, context)
    columns = {
        "decode_tokens": requests, "context_tokens": context,
        "prefill_tokens": np.zeros(requests.size), "batch_duration": timed,
    }  # fmt: skip
    features, rest = parts(law, terms, columns)
    return Equations(features, rest, rows.time[plain])


def not_empty(several: list[list[Equations]]) -> Iterator[Equations]:
    """Yield the equations of each kind of all replicas, without kinds of which there are none."""
    for kinds in zip(*several, strict=True):
        both = Equations.joined(list(kinds))
        if both.measured.size:
            yield both
