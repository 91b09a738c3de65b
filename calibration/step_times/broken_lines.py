"""Broken lines have a basis for a fit; a search finds the knots where a line bends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from calibration.robust_fit import fit_relative

LAST_PIECE = 2.0
"""Smallest ratio of the last knot to the knot before: the slope that goes on beyond the range was
seen over half of it."""

STAIR = 1 / 8
"""Width of a stair [tiles]; the measured tokens lie about a sixteenth of a tile apart."""

FEW = 64
"""Largest number of measured levels that are each a candidate for a knot."""

EQUAL = 1e-6
"""Difference of two relative errors that count as equal, so that rounding decides nothing."""

Array = NDArray[np.float64]


def broken_line(x: Array, knots: Array) -> Array:
    """Return the basis of lines that rise or stay level between ``knots``, shape (R, len(knots)).

    Column 0 is the value at the first knot, column s the rise to knot s; the last slope goes on.
    Coefficients >= 0 make the line >= 0 and never falling.
    """
    columns = [np.ones(x.size)]
    for s, (left, right) in enumerate(pairwise(knots), 2):
        share = (x - left) / (right - left)
        columns.append(np.clip(share, 0.0, None if s == knots.size else 1.0))
    return np.column_stack(columns)


def chosen_knots(
    x: Array, others: Array, y: Array, *, most: int, gain: float = 0.01, tile: float | None = None
) -> Array:
    """Return where a broken line in ``x`` bends, beside linear columns ``others``.

    Each time the candidate that lowers the error most is added, as long as it does by the share
    ``gain`` per knot; the two ends are always knots. Candidates lie between the values of ``x``
    too: two straight pieces meet where they meet, not where it was measured. In the end, knots go
    where the error is as small without them and, with :data:`FEW` levels, move to one beside them
    where it is as small: they were chosen before others were there.

    With ``tile``, stairs behind each multiple of it are candidates, which are two knots: one alone
    would help little. The last piece spans :data:`LAST_PIECE` or more, since its slope goes on
    beyond.
    """
    measured = np.unique(x)
    candidates = _candidates(x, tile)
    knots = measured[[0, -1]]
    rows = slice(None)
    if y.size > 1500:  # the search sees a sample, the fit will see all
        rows = np.random.default_rng(0).choice(y.size, 1500, replace=False)
    x, others, y = x[rows], others[rows], y[rows]

    def error(knots: Array) -> float:
        columns = np.column_stack([broken_line(x, knots), others])
        fit = fit_relative(columns, y, relative_to="measured", robust=False)
        return float(np.mean(np.abs(fit.residual)))

    best = error(knots)
    while True:
        trials = [
            np.union1d(knots, each)
            for each in candidates
            if knots.size + each.size <= most and _is_apart(each, knots)
        ]
        if not trials:
            break
        errors = np.array([error(trial) for trial in trials])
        added = np.array([trial.size - knots.size for trial in trials])
        at = int(np.argmax(errors <= errors.min() + EQUAL))
        if errors[at] > (1 - gain * added[at]) * best:
            break
        best, knots = errors[at], trials[at]
    return _settled(knots, measured, error)


def _settled(knots: Array, measured: Array, error: Callable[[Array], float]) -> Array:
    """Return the knots without idle ones, at measured values where the error is as small there."""
    most = error(knots) + EQUAL
    for knot in knots[1:-1].tolist():
        rest = knots[knots != knot]
        at = int(np.searchsorted(measured, knot))
        beside = measured[at - 1 : at + 1] if measured.size <= FEW and measured[at] > knot else ()
        trials = [rest, *(np.union1d(rest, each) for each in beside)]
        for trial in trials:
            if trial[-2] * LAST_PIECE <= trial[-1] and error(trial) <= most:
                knots = trial
                break
    return knots


def _candidates(x: Array, tile: float | None) -> list[Array]:
    """Return the candidates for knots: each is a bend, or the two ends of a stair."""
    first, last, values = float(x.min()), float(x.max()), np.unique(x)
    grid = np.geomspace(max(first, 1.0), last, 21)[1:-1]
    if values.size <= FEW:  # of equal ones, what was measured
        grid = np.append(values[1:-1], np.setdiff1d(grid, values))
    found = list(grid[grid * LAST_PIECE <= last].reshape(-1, 1))
    if tile is not None:
        stairs = np.arange(tile, last / LAST_PIECE - STAIR * tile, tile)
        found += [np.array([x, x + STAIR * tile]) for x in stairs.tolist() if x > first]
    return found


def _is_apart(candidate: Array, knots: Array) -> bool:
    """Return whether the data can tell a bend from every knot, or a stair is no knot yet."""
    if candidate.size > 1:
        return not np.isin(candidate, knots).all()
    return bool(np.abs(np.log((candidate + 1e-9) / (knots + 1e-9))).min() > 0.05)
