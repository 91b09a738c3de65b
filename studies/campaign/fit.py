"""Learn bias and interval of every method and metric from the rows of a campaign.

Everything is linear in the terms of :mod:`ode.error_model.basis`. The logarithm of the scale is the
median of the logarithm of the error; the bias, in units of the scale, is a median as well; and the
logarithm of the half-width is a quantile of what is left. Terms with which errors must not shrink
have no negative coefficient. A factor for each size class then makes the intervals cover what they
promise on scenarios that the regressions did not see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ode.error_model.basis import Basis
from ode.error_model.model import COVERS, PARTS, SIZE_CLASSES, WIDEST, basis_of, size_class
from studies.campaign.rows import NOISIEST, known_of

SMALLEST_ERROR = 1e-3
"""Half-widths below this are not told apart."""

PENALTY = 0.002
"""Weight of the sum of absolute coefficients against the mean loss: it keeps idle terms at 0."""

SEEDS = (1, 2, 3, 4)
"""Of the campaigns that fits learn from. Scenarios of any other seed are for judging only."""

FEWEST = 120
"""Rows that a fit takes at least."""

FOLDS = 5
"""Parts of the rows, each of which is judged by what the others teach, for the factors."""


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """The errors of a method in a metric.

    Parameters
    ----------
    basis
        What the terms are.
    terms : shape (N, T)
        Of each case.
    error : shape (N,)
        Natural logarithm of predicted over engine.
    noise : shape (N,)
        Relative standard error of the engine.
    size : shape (N,)
        Number of the size class.
    number, held_out : shape (N,)
        Of the scenario, and whether no fit may see it.
    """

    basis: Basis
    terms: NDArray[np.float64]
    error: NDArray[np.float64]
    noise: NDArray[np.float64]
    size: NDArray[np.int64]
    number: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Cases:
        """Return some of the cases."""
        return Cases(
            self.basis, self.terms[chosen], self.error[chosen], self.noise[chosen],
            self.size[chosen], self.number[chosen], self.held_out[chosen],
        )  # fmt: skip


def cases_of(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], Cases]:
    """Return the cases by engine, method and metric."""
    found: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
    for row in rows:
        if "failed" in row:
            continue
        for method, answer in row["answers"].items():
            if "failed" in answer:
                continue
            known = known_of(row, answer)
            basis = basis_of(method)
            of = basis.terms(known)
            x = [of[name] for name in basis.names]
            for metric, value in answer["values"].items():
                true, noise = (row[name].get(metric) for name in ("truth", "standard_error"))
                if not (value and true and noise is not None) or value <= 0 or true <= 0:
                    continue
                if noise > NOISIEST:
                    continue
                case = (
                    x, math.log(value / true), noise, size_class(known["fit"]), row["number"],
                    row["held_out"],
                )  # fmt: skip
                found.setdefault((row["engine"], method, metric), []).append(case)
    return {key: Cases(basis_of(key[1]), *(np.array(each) for each in zip(*of, strict=True)))
            for key, of in found.items()}  # fmt: skip


def fit(cases: Cases) -> dict[str, Any] | None:
    """Return the coefficients of a method and metric; None where too few cases tell."""
    seen = cases.where(~cases.held_out)
    if seen.error.size < FEWEST:
        return None
    ratio = np.empty(seen.error.size)
    fold = np.arange(seen.error.size) % FOLDS
    for left_out in range(FOLDS):
        learnt = _learn(seen.where(fold != left_out))
        there = seen.where(fold == left_out)
        bias, half = _applied(there.terms, learnt)
        ratio[fold == left_out] = _without_noise(there.error - bias, there.noise) / half
    factors = [_factor(ratio[seen.size == i], ratio) for i in range(len(SIZE_CLASSES) + 1)]
    learnt = _learn(seen)
    named = (_named(cases.basis, of) for of in learnt)
    return dict(zip(PARTS, named, strict=True)) | {
        "factor": [round(each, 4) for each in factors],
        "cases": int(seen.error.size),
    }


Learnt = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Coefficients of :data:`PARTS`, shape (T,) each."""


def _learn(cases: Cases) -> Learnt:
    """Return the coefficients that some cases teach."""
    size = np.log(np.maximum(np.abs(cases.error), SMALLEST_ERROR))
    grows = tuple(name in cases.basis.growing for name in cases.basis.names)
    scale = quantile_regression(cases.terms, size, 0.5, grows)
    unit = np.exp(cases.terms @ scale)
    bias = quantile_regression(cases.terms, cases.error / unit, 0.5)
    rest = _without_noise(cases.error - unit * (cases.terms @ bias), cases.noise)
    width = np.log(np.maximum(rest, SMALLEST_ERROR))
    return scale, bias, quantile_regression(cases.terms, width, COVERS, grows)


def _without_noise(rest: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the size of deviations, the noise of the engine taken off in quadrature."""
    return np.sqrt(np.maximum(rest**2 - noise**2, 0.0))


def _applied(
    x: NDArray[np.float64], learnt: Learnt
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bias and half-width of cases, without the factors."""
    scale, bias, width = learnt
    return np.exp(np.minimum(x @ scale, WIDEST)) * (x @ bias), np.exp(np.minimum(x @ width, WIDEST))


def _factor(ratios: NDArray[np.float64], of_all: NDArray[np.float64]) -> float:
    """Return by how much half-widths are multiplied so that they cover what they promise."""
    chosen = ratios if ratios.size >= 20 else of_all
    rank = min(1.0, COVERS * (1 + 1 / chosen.size))
    return float(np.quantile(chosen, rank))


def _named(basis: Basis, coefficients: NDArray[np.float64]) -> dict[str, float]:
    return {
        name: float(f"{value:.5g}")
        for name, value in zip(basis.names, coefficients, strict=True)
        if abs(value) > 1e-9
    }


def quantile_regression(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    quantile: float,
    growing: Sequence[bool] | None = None,
    penalty: float = PENALTY,
) -> NDArray[np.float64]:
    """Return the coefficients of a linear quantile, by linear programming.

    Parameters
    ----------
    x : shape (N, T)
        Terms; the first is 1 and bears no penalty.
    y : shape (N,)
    quantile
        Between 0 and 1.
    growing : shape (T,)
        Coefficients that must not be negative.
    penalty
        On the sum of absolute coefficients, relative to the mean loss.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, hstack

    n, t = x.shape
    cost = np.full(t, penalty)
    cost[0] = 0.0
    losses = np.array([quantile, 1 - quantile])[:, None] * np.full(n, 1 / n)
    down = np.zeros(t) if growing is None else np.asarray(growing, float)
    bounds = [(0, None)] * t + [(0, 0 if each else None) for each in down] + [(0, None)] * (2 * n)
    matrix = hstack([x, -x, eye_array(n), -eye_array(n)]).tocsc()
    found = linprog(
        np.concatenate([cost, cost, *losses]), A_eq=matrix, b_eq=y, bounds=bounds, method="highs"
    )
    return found.x[:t] - found.x[t : 2 * t]
