"""Learn bias and interval of every method and metric from the rows of a campaign.

What is linear in the terms of :mod:`ode.error_model.basis`, and how it is learnt, is in
:mod:`studies.campaign.likelihood`. A factor for each size class then makes the intervals cover what
they promise on scenarios that the fit did not see, with the noise of the engine counted as
:mod:`studies.campaign.judge` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ode.error_model.basis import Basis
from ode.error_model.model import COVERS, PARTS, SIZE_CLASSES, basis_of, size_class
from studies.campaign.likelihood import most_likely, size_and_bias
from studies.campaign.rows import NOISIEST, known_of
from studies.campaign.truth import SURELY

SEEDS = (1, 2, 3, 4, 11, 13)
"""Of the campaigns that fits learn from. Scenarios of any other seed are for judging only."""

FEWEST = 120
"""Rows that a fit takes at least."""

FEWEST_OF_SIZE = 20
"""Rows of a size class from which on it has a factor of its own."""

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
    needed = np.empty(seen.error.size)
    fold = np.arange(seen.error.size) % FOLDS
    for left_out in range(FOLDS):
        learnt = _learn(seen.where(fold != left_out))
        there = fold == left_out
        scale, bias = size_and_bias(seen.terms[there], *learnt)
        needed[there] = beyond_noise(seen.error[there] - bias, seen.noise[there]) / scale
    factors = [_factor(needed[seen.size == i], needed) for i in range(len(SIZE_CLASSES) + 1)]
    named = (_named(cases.basis, of) for of in _learn(seen))
    return dict(zip(PARTS, named, strict=True)) | {
        "factor": [round(each, 4) for each in factors],
        "cases": int(seen.error.size),
    }


def merge(
    known: dict[str, Any], found: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> list[str]:
    """Put new coefficients into those that are there, and return the names of what stays.

    Parameters
    ----------
    known
        By engine, method and metric; changed.
    found
        By the three.
    """
    for (engine, method, metric), entry in found.items():
        known.setdefault(engine, {}).setdefault(method, {})[metric] = dict(entry)
    return [
        f"{engine} {method} {metric}"
        for engine, methods in known.items()
        for method, metrics in methods.items()
        for metric in metrics
        if (engine, method, metric) not in found
    ]


def _learn(cases: Cases) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coefficients that some cases teach, of :data:`PARTS`."""
    growing = np.array([name in cases.basis.growing for name in cases.basis.names])
    return most_likely(cases.terms, cases.error, cases.noise, growing)


def beyond_noise(rest: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the half-width from which on an interval, widened by the noise, holds a deviation.

    Intervals are judged so: a deviation is inside of the root of the squares of half-width and
    noise. Only what is taken off by the same rule makes them cover what they promise, no more.
    """
    return np.sqrt(np.maximum(rest**2 - (SURELY * noise) ** 2, 0.0))


def _factor(needed: NDArray[np.float64], of_all: NDArray[np.float64]) -> float:
    """Return what makes sizes half-widths that cover what they promise."""
    chosen = needed if needed.size >= FEWEST_OF_SIZE else of_all
    rank = min(1.0, COVERS * (1 + 1 / chosen.size))
    return float(np.quantile(chosen, rank))


def _named(basis: Basis, coefficients: NDArray[np.float64]) -> dict[str, float]:
    return {
        name: float(f"{value:.5g}")
        for name, value in zip(basis.names, coefficients, strict=True)
        if abs(value) > 1e-9
    }
