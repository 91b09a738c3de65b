"""Diagnostics say how certain a fit is: collinearity, intervals by deleted levels, outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from calibration.robust_fit import spread
from calibration.step_times.design import Design
from calibration.step_times.rows import StepRows
from serving import WorkloadError

LARGEST_VIF = 30.0
"""Largest variance inflation of a coefficient that counts as identified."""

WIDEST = 0.25
"""Largest half width of a 95 % interval, over the coefficient, that identifies it."""

FAR_OFF = 100.0
"""Smallest factor between measured and predicted time that is taken for a slip of units."""

OUTLYING = 6.0
"""Smallest distance of an outlier from the law [standard deviations]."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A coefficient of a law has a 95 % interval and a mark of identification.

    Parameters
    ----------
    name, unit
        ``d_decode_table[k]`` is the rise of the table up to k.
    value, low, high
        Estimate and 95 % interval, in ``unit``.
    vif
        Variance inflation: 1 for a column that no other column resembles.
    identified
        Whether the rows tell the coefficient itself, and not only predictions.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float
    vif: float
    identified: bool


@dataclass(frozen=True, slots=True)
class Identifiability:
    """Rows tell the columns of a fit apart as far as these figures say.

    Parameters
    ----------
    condition
        Condition number of the columns, each over the time and scaled to length 1.
    vif
        Variance inflation of each column.
    collinear
        The two columns most alike, and their correlation.
    """

    condition: float
    vif: tuple[float, ...]
    collinear: tuple[str, str, float]


@dataclass(frozen=True, slots=True)
class Outlier:
    """An outlier is a row far from the law.

    Parameters
    ----------
    row
        Number of the row in the file.
    measured, predicted : [s]
        Time of the batch.
    deviations
        Distance from the law [standard deviations], on the logarithm of the time.
    """

    row: int
    measured: float
    predicted: float
    deviations: float


def identifiability(design: Design) -> Identifiability:
    """Return which columns of a relative fit the rows tell apart (Belsley, Kuh and Welsch)."""
    relative = design.columns / design.measured[:, None]
    length = np.sqrt((relative**2).sum(axis=0))
    scaled = relative / np.where(length > 0, length, 1.0)
    _, singular, axes = np.linalg.svd(scaled, full_matrices=False)
    singular = np.maximum(singular, 1e-14 * singular[0])
    condition = float(singular[0] / singular[-1])
    vif = ((axes / singular[:, None]) ** 2).sum(axis=0)
    vif = np.where(length > 0, np.maximum(vif, 1.0), np.inf)
    gram = scaled.T @ scaled
    alike = np.abs(gram - np.diag(np.diag(gram)))
    i, j = np.unravel_index(int(np.argmax(alike)), alike.shape)
    pair = (design.names[int(i)], design.names[int(j)], float(alike[i, j]))
    return Identifiability(condition, tuple(vif.tolist()), pair)


def coefficients(
    design: Design, fitted: Array, level: Array, found: Identifiability
) -> list[Coefficient]:
    """Return each coefficient with its interval.

    Errors of one level share a cause (a kernel's tile, a clock), so single rows are no independent
    witnesses: the interval is the jackknife's over whole levels, with Student's t. The spread is
    that of fits whose coefficients may be negative: a coefficient that is held at zero would stay
    at zero without any level, and would look known. The knots of lines are taken as known.

    Parameters
    ----------
    design
        Rows and columns of the fit.
    fitted : shape (K,)
        Coefficients that the fit gave.
    level : shape (R,)
        Level of every row.
    found
        Result of :func:`identifiability` for the same design.
    """
    levels = np.unique(level)
    without = [
        design.where(kept).fit(non_negative=False)
        for kept in (level != each for each in levels.tolist())
        if kept.sum() >= fitted.size
    ]
    if levels.size > 2 and len(without) == levels.size:
        off = np.array(without) - design.fit(non_negative=False)
        deviation = np.sqrt((levels.size - 1) / levels.size * (off**2).sum(axis=0))
        half = student.ppf(0.975, levels.size - 1) * deviation
    else:
        half = np.full(fitted.size, np.inf)
    return [
        Coefficient(
            name=name, unit=unit_of(name), value=value, low=max(0.0, value - wide),
            high=value + wide, vif=vif,
            identified=bool(vif <= LARGEST_VIF and wide <= WIDEST * value),
        )
        for name, value, wide, vif in zip(
            design.names, fitted.tolist(), half.tolist(), found.vif, strict=True
        )
    ]  # fmt: skip


def unit_of(name: str) -> str:
    """Return the unit of a coefficient of a law in seconds."""
    if name == "d_0" or "[" in name:
        return "s"
    units = {
        "d_decode": "s/request",
        "d_mixed_decode": "s/request",
        "d_prefill_attention": "s/token^2",
    }
    return units.get(name, "s/token")


def outliers(rows: StepRows, predicted: Array, most: int = 20) -> list[Outlier]:
    """Return the rows farthest from the law, farthest first.

    Raises
    ------
    WorkloadError
        If a row is off by a factor of another unit.
    """
    error = np.log(rows.time / predicted)
    slip = np.abs(error) > np.log(FAR_OFF)
    if slip.any():
        at = int(np.argmax(slip))
        raise WorkloadError(
            f"is {rows.time[at] / predicted[at]:.3g} times what the other rows say"
            f" ({predicted[at]:.3g} s); is it in another unit?",
            path=rows.about.get("file"), row=int(rows.row[at]), column="step time",
            value=float(f"{rows.time[at]:.6g}"),
        )  # fmt: skip
    middle = float(np.median(error))
    deviations = (error - middle) / spread(error, middle)
    order = np.argsort(-np.abs(deviations))
    far = order[np.abs(deviations[order]) > OUTLYING]
    return [
        Outlier(int(rows.row[i]), float(rows.time[i]), float(predicted[i]), float(deviations[i]))
        for i in far[:most].tolist()
    ]
