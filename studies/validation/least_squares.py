"""The numbers that correct a law follow from measured times by least squares.

Kinds of times are not equally sure: how much each counts follows from how well it can be met. What
the times do not tell stays near what the law said before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from calibration.measured_runs.law_terms import Terms, least, penalty
from serving import BatchTimeLaw
from studies.validation.equations import Equations

RUN_ERROR = 0.01
"""Share by which the same server differs from one run to the next."""

WEIGHT = 30.0
"""Independent observations that the times of one kind of a run count as: requests share steps."""

FRONT_END = 0.05
"""Time [s] that a front end may take, before anything was measured."""

ROUNDS = 12
"""Solutions, each with the weights of the one before."""


def solved(
    equations: Sequence[Equations], law: BatchTimeLaw, terms: Terms, doubt: float = 1.0
) -> tuple[Terms, list[float]]:
    """Return the correction of least squares, and the median relative error of each kind.

    Parameters
    ----------
    equations
        Times of each kind and run; every kind of every run weighs the same.
    law
        The law before the correction.
    terms
        A correction with as many knots.
    doubt
        See :func:`calibration.measured_runs.law_terms.penalty`.
    """
    size = terms.values().size
    start = np.append(Terms.nothing(np.inf).values()[:size], 0.0)
    unlikely = np.zeros((size + 1, size + 1))
    unlikely[:-1, :-1] = penalty(law, terms, doubt)
    unlikely[-1, -1] = 1 / FRONT_END
    scale = 1 / np.sqrt((unlikely**2).sum(axis=0))
    lower = (np.append(least(law, terms), 0.0) - start) / scale
    lower = np.minimum(lower, -1e-12)
    features = [_with_front_end(each) / each.measured[:, None] for each in equations]
    wanted = [1 - each.rest / each.measured for each in equations]
    weights = [_weight(np.zeros(each.size), RUN_ERROR) for each in wanted]
    found, errors = start, [np.inf] * len(wanted)
    for _ in range(ROUNDS):
        rows = [f * w[:, None] for f, w in zip(features, weights, strict=True)]
        right = [(y - f @ start) * w
                 for y, f, w in zip(wanted, features, weights, strict=True)]  # fmt: skip
        matrix = np.concatenate([*rows, unlikely]) * scale
        answer = lsq_linear(
            matrix, np.concatenate([*right, np.zeros(unlikely.shape[0])]), bounds=(lower, np.inf)
        )
        found = start + scale * answer.x
        left = [f @ found - y for f, y in zip(features, wanted, strict=True)]
        errors = [float(np.median(np.abs(each))) for each in left]
        weights = [_weight(each, off) for each, off in zip(left, errors, strict=True)]
    return Terms.of(found[:-1]), errors


def _with_front_end(each: Equations) -> NDArray[np.float64]:
    column = np.full((each.measured.size, 1), float(each.has_front_end))
    return np.concatenate([each.features, column], axis=1)


def _weight(left: NDArray[np.float64], error: float) -> NDArray[np.float64]:
    """Return the weight of each time: less for one that is far from the others of its kind."""
    sure = np.sqrt(min(WEIGHT, left.size) / left.size) / max(RUN_ERROR, 1.5 * error)
    return sure / np.sqrt(1 + (left / (3 * max(error, 1e-4))) ** 2)


def change(equations: Sequence[Equations], before: Terms, after: Terms) -> float:
    """Return by how much times change, relatively, on average, in the kind that changes most."""
    step = after.values() - before.values()
    return max(float(np.abs(each.features @ step / each.measured).mean()) for each in equations)
