"""Held-out levels show the errors on rows that the fit did not see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.step_times.recipes import Recipe, fit_law, predict
from calibration.step_times.rows import StepRows

MOST_LEVELS = 24
"""Largest number of different values that are each a level of their own."""

BLOCKS = 12
"""Number of blocks of equal counts, each a level, that more values are cut into."""

FEWEST_ROWS = 3
"""Smallest number of rows of a level that is scored."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A recipe makes these errors in one regime under one way of holding out.

    Parameters
    ----------
    regime
        ``decode``, ``mixed`` or ``prefill``.
    levels_of
        Quantity that is held out level by level: ``batch size``, ``context per request`` or
        ``prefill tokens``.
    split
        ``interpolating`` (inner levels) or ``extrapolating`` (the largest level).
    recipe
        Form of the fitted laws.
    mape, p95
        Mean and 95th percentile of the absolute relative error over the held-out rows, as shares.
    mape_small, mape_large
        The same mean over held-out rows below and above the regime's middle batch size; NaN
        where there are none.
    worst_level, worst_mape
        Level with the largest mean error, and this error.
    levels, rows
        Number of levels and of rows that were held out.
    """

    regime: str
    levels_of: str
    split: str
    recipe: Recipe
    mape: float
    p95: float
    mape_small: float
    mape_large: float
    worst_level: float
    worst_mape: float
    levels: int
    rows: int


def level_numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the level of each value: the value, or the largest of a block of equal counts."""
    distinct = np.unique(values)
    if distinct.size <= MOST_LEVELS:
        return values
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BLOCKS + 1)[1:]))
    return edges[np.minimum(np.searchsorted(edges, values), edges.size - 1)]


def held_out(rows: StepRows, recipe: Recipe, regimes: tuple[str, ...] = ()) -> list[HeldOut]:
    """Return the errors of ``recipe`` on held-out levels.

    A level leaves the whole of the fit, whichever regime its rows are of: a random split would
    leave neighbours that differ by noise alone in both halves.
    """
    found = []
    for regime in regimes or ("decode", "mixed", "prefill"):
        of_regime = rows.regime == regime
        if regime == "decode":  # the other rows do not enter its fit
            rows_used = rows[of_regime]
            of_regime = np.ones(len(rows_used), bool)
        else:
            rows_used = rows
        if of_regime.sum() < 3 * FEWEST_ROWS:
            continue
        for levels_of, level_of in _splits(rows_used, regime):
            levels = np.unique(level_of[of_regime])
            if levels.size < 4:
                continue
            for split, chosen in (("interpolating", levels[1:-1]), ("extrapolating", levels[-1:])):
                folds = list(_folds(rows_used, recipe, of_regime, level_of, chosen))
                if folds:
                    found.append(_score(rows_used, regime, levels_of, split, recipe, folds))
    return found


def _splits(rows: StepRows, regime: str) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield each quantity to hold out: its name, and the level of every row."""
    size = rows.requests if regime != "prefill" else rows.prefill_tokens
    if regime != "prefill":
        yield "batch size", level_numbers(size)
        if rows.has_context:
            per_request = rows.context / np.maximum(rows.requests, 1)
            yield "context per request", level_numbers(np.round(per_request, 6))
    if regime != "decode":
        yield "prefill tokens", level_numbers(rows.prefill_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A fold is one level that a fit did not see.

    Parameters
    ----------
    level
        Value that the held-out rows share.
    tested
        Positions of the held-out rows that are scored.
    error
        Relative error of the predicted time of each of those rows.
    """

    level: float
    tested: NDArray[np.int64]
    error: NDArray[np.float64]


def _folds(
    rows: StepRows,
    recipe: Recipe,
    of_regime: NDArray[np.bool_],
    level_of: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> Iterator[Fold]:
    """Yield the errors on each of ``levels`` of the law that was fitted without the level."""
    for level in levels.tolist():
        out = level_of == level
        tested = np.flatnonzero(of_regime & out)
        train = rows[~out]
        if tested.size < FEWEST_ROWS or not (train.prefill_tokens == 0).any():
            continue
        seen = rows[tested]
        yield Fold(level, tested, predict(fit_law(train, recipe), seen) / seen.time - 1)


def _score(
    rows: StepRows, regime: str, levels_of: str, split: str, recipe: Recipe, folds: list[Fold]
) -> HeldOut:
    """Return the errors of all folds of one way of holding out."""
    tested = np.concatenate([fold.tested for fold in folds])
    error = np.abs(np.concatenate([fold.error for fold in folds]))
    by_level = {fold.level: float(np.abs(fold.error).mean()) for fold in folds}
    worst = max(by_level, key=by_level.__getitem__)
    size = rows.requests if regime != "prefill" else rows.prefill_tokens
    large = size[tested] > np.median(np.unique(size[rows.regime == regime]))
    return HeldOut(
        regime=regime,
        levels_of=levels_of,
        split=split,
        recipe=recipe,
        mape=float(error.mean()),
        p95=float(np.quantile(error, 0.95)),
        mape_small=float(error[~large].mean()) if (~large).any() else float("nan"),
        mape_large=float(error[large].mean()) if large.any() else float("nan"),
        worst_level=worst,
        worst_mape=by_level[worst],
        levels=len(folds),
        rows=tested.size,
    )
