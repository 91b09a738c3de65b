"""What a corrector has learnt as arrays, kept beside the state of its predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.corrected import REGIMES, CorrectedPredictor, Sent
from scheduling.residuals import LARGEST, MEMORY, Residuals
from scheduling.state_arrays import Arrays, check_kinds, whole, within
from serving import FluidServeError

KEPT = "corrector_measured"
"""An array that is there where something of a corrector was kept."""


def corrector_to_arrays(corrector: CorrectedPredictor) -> Arrays:
    """Return what a corrector has learnt, and the predictions whose truth is still to come."""
    of, sent = _residuals(corrector), list(corrector._open.values())
    return {
        KEPT: np.array([each.measured for each in of], np.int64),
        "corrector_logs": np.concatenate([each._logs[: _kept(each.measured)] for each in of]),
        "corrector_about": np.array(
            [(*each._errors, each._weight, each._candidate) for each in of], float
        ),
        "corrector_open": whole(
            [(key, each.instance, each.regime) for key, each in corrector._open.items()], 3
        ),
        "corrector_predictions": np.array(
            [(each.at, *(np.nan if said is None else said for said in each.plain))
             for each in sent],
            float,
        ).reshape(-1, 3),
    }  # fmt: skip


def corrector_from_arrays(
    corrector: CorrectedPredictor, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Let a corrector go on where another one of the same fleet was.

    Parameters
    ----------
    corrector
        A new one.
    arrays
        As of :func:`corrector_to_arrays`.

    Raises
    ------
    FluidServeError
        If something is missing or damaged; the corrector is as it was.
    """
    check_kinds(corrector_to_arrays(corrector), arrays)
    of, measured, about = _residuals(corrector), arrays[KEPT], arrays["corrector_about"]
    logs, opened = arrays["corrector_logs"], arrays["corrector_open"]
    said = arrays["corrector_predictions"]
    sizes = np.minimum(measured, MEMORY)
    fits = len(measured) == len(about) == len(of) and bool((measured >= 0).all())
    fits = fits and int(sizes.sum()) == len(logs) and len(opened) == len(said)
    fits = fits and bool(np.isfinite(logs).all()) and bool((about[:, :3] >= 0).all())
    fits = fits and bool((about[:, 3] >= 1.0 / LARGEST).all() and (about[:, 3] <= LARGEST).all())
    size = corrector.factors.shape[1]
    if not (fits and within(opened[:, 1], size) and within(opened[:, 2], len(REGIMES))):
        raise FluidServeError("what the corrector had learnt is damaged")
    ends = np.cumsum(sizes).tolist()
    for k, each in enumerate(of):
        kept = _kept(int(measured[k]))
        each._logs[:kept] = logs[ends[k] - kept : ends[k]]
        each.measured = int(measured[k])
        first, second, each._weight, each._candidate = about[k].tolist()
        each._errors = [first, second]
    corrector.factors.ravel()[:] = [each.factor for each in of]
    corrector._open = {
        key: Sent(i, regime, at, (_known(ttft), _known(e2el)))
        for (key, i, regime), (at, ttft, e2el) in zip(opened.tolist(), said.tolist(), strict=True)
    }


def _residuals(corrector: CorrectedPredictor) -> list[Residuals]:
    """Return what was learnt, in the order of :attr:`CorrectedPredictor.factors`."""
    return [of for by_instance in corrector._of for pair in by_instance for of in pair]


def _kept(measured: int) -> int:
    return min(measured, MEMORY)


def _known(said: float) -> float | None:
    return None if said != said else said
