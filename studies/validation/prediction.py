"""What some model says that the clients of a run note: the same for every model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.measured_runs import MeasuredRun


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Latencies of the requests that finish, and requests over time.

    The measured run itself is put into this form as well, so that both sides are summarised by the
    same code.

    Parameters
    ----------
    ttft, e2el : shape (R,) [s]
        From the arrival to the first and to the last token; NaN for requests that do not finish.
    tpot : shape (R,) [s]
        Time per output token after the first; NaN for answers of one token.
    gaps, gap_weight : shape (G,) [s], [tokens]
        Inter-token latencies and how often each occurs; empty where they are not known.
    arrival, finish : shape (R,) [s]
        NaN where a request does not finish.
    grid : shape (T,) [s]
        Times of the series.
    series
        ``running`` and ``waiting`` [requests], and ``output_throughput`` [tokens/s] up to each time
        of the grid, where known.
    weight : shape (R,)
        Of each sample of latencies; None where each is a request.
    totals
        ``completed`` [requests] and ``makespan`` [s], of a model without single requests.
    """

    ttft: NDArray[np.float64]
    e2el: NDArray[np.float64]
    tpot: NDArray[np.float64]
    gaps: NDArray[np.float64]
    gap_weight: NDArray[np.float64]
    arrival: NDArray[np.float64]
    finish: NDArray[np.float64]
    grid: NDArray[np.float64]
    series: Mapping[str, NDArray[np.float64]]
    weight: NDArray[np.float64] | None = None
    totals: Mapping[str, float] | None = None

    def delayed(self, seconds: float) -> Prediction:
        """Return the prediction with a time of the front end before every first token."""
        return replace(
            self, ttft=self.ttft + seconds, e2el=self.e2el + seconds, finish=self.finish + seconds
        )

    def of(self, rows: NDArray[np.bool_]) -> Prediction:
        """Return the latencies of some requests only; gaps and series are those of all."""
        taken = {name: getattr(self, name)[rows]
                 for name in ("ttft", "e2el", "tpot", "arrival", "finish")}  # fmt: skip
        return replace(self, **taken)


EMPTY = np.empty(0)


def measured(run: MeasuredRun) -> Prediction:
    """Return what was measured, in the form of a prediction."""
    gaps = EMPTY if run.gaps is None else np.concatenate([EMPTY, *run.gaps])
    series = {} if run.series is None else dict(run.series.values)
    return Prediction(
        ttft=run.ttft, e2el=run.e2el, tpot=run.time_per_token,
        gaps=gaps, gap_weight=np.ones(gaps.size),
        arrival=run.arrival, finish=run.finish,
        grid=EMPTY if run.series is None else run.series.time, series=series,
    )  # fmt: skip
