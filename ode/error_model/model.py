"""How far off an answer is expected to be, from coefficients that a campaign left behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ode.error_model.basis import LARGEST, LATENCIES, SMALLEST, Basis
from ode.error_model.capacity_basis import CAPACITY

COVERS = 0.9
"""Part of the answers whose error an interval promises to hold."""

PARTS = ("log_size", "bias")
"""What is linear in the terms: the logarithm of the size of errors, and the bias in units of this
size. A half-width is the size times a factor by size class."""

LEAST_SIZE = math.log(1e-3)
"""Least logarithm of the size of errors: the engine of a campaign is not known better, so smaller
errors cannot be told from none."""

WIDEST = 4.0
"""Largest logarithm of a size: a factor of e^55, which is to know nothing."""

FREEDOM = 4.0
"""Degrees of freedom of Student's law, which errors follow about their bias; the closed form of
:func:`student` is that of 4."""

BISECTIONS = 40

SIZE_CLASSES = (30.0, 300.0)
"""Requests that fit, between which size classes end."""

METRICS = ("mean_ttft", "mean_e2el", "p50_ttft", "p99_ttft", "p99_e2el", "mean_in_system")
"""What errors are known of."""

THROUGHPUT, CAPACITY_METHODS = "throughput", ("capacity", "queued")
"""Metric of an instance that always has a queue, and whose it is: :func:`fluid.capacity`'s, where
evictions cost nothing, and :func:`ode.collapsed_throughput`'s."""

MEASURED = {
    "fit": (SMALLEST, LARGEST),
    "load": (0.2, 1.5),
    "dispersion": (0.25, 4.0),
}
"""Features and the range in which errors were measured."""

LEVELS = (("high", 0.05), ("fair", 0.15))
"""Words of confidence, and how far off [relative] an answer may be for them; else ``low``."""

UNKNOWN = "unknown"


def size_class(fit: float) -> int:
    """Return the number of the size class of so many requests that fit."""
    return sum(fit >= edge for edge in SIZE_CLASSES)


@dataclass(frozen=True, slots=True)
class Expected:
    """How far a number is expected to be from the engine's mean over replications.

    Parameters
    ----------
    bias
        Expected natural logarithm of predicted over engine.
    half_width
        Of the interval about the bias that holds :data:`COVERS` of the answers.
    """

    bias: float
    half_width: float

    @property
    def bound(self) -> float:
        """How far off an answer is at most, relative, with the chance of the interval.

        Errors to both sides count. Of an answer with a bias it is less than the farther end of the
        interval: few answers are off to the other side, so more may be off to this one.
        """
        return math.expm1(min(_farthest(self.bias, self.half_width), 50.0))

    @property
    def interval(self) -> tuple[float, float]:
        """Relative errors between which the answer is expected: predicted over engine, less 1."""
        low, high = self.bias - self.half_width, self.bias + self.half_width
        return math.expm1(max(low, -50.0)), math.expm1(min(high, 50.0))

    def around(self, value: ArrayLike) -> tuple[Any, Any]:
        """Return where the engine's mean is expected, with the chance of the interval.

        Parameters
        ----------
        value
            What was predicted, of any unit and shape.

        Returns
        -------
        low, high
            In the unit and of the shape of ``value``.
        """
        ends = (self.bias + self.half_width, self.bias - self.half_width)
        low, high = (math.exp(-min(max(end, -50.0), 50.0)) for end in ends)
        return np.asarray(value) * low, np.asarray(value) * high

    @property
    def confidence(self) -> str:
        """``high``, ``fair`` or ``low``."""
        return next((word for word, within in LEVELS if self.bound <= within), "low")


def _farthest(bias: float, half_width: float) -> float:
    """Return what the size of an error stays below with the chance of :data:`COVERS`."""
    if bias == 0 or not 0 < half_width < math.inf:
        return abs(bias) + half_width
    away, unit = abs(bias) / half_width, _quantile((1 + COVERS) / 2)

    def missed(size: float) -> float:
        return student((size - away) * unit) - student((-size - away) * unit) - COVERS

    # no interval as narrow about another middle than the bias holds as many
    return half_width * _root(missed, 1.0, away + 1.0)


def student(value: float) -> float:
    """Return the chance of Student's law of :data:`FREEDOM` degrees of freedom up to a value."""
    share = value * value / (value * value + FREEDOM)
    return 0.5 + math.copysign(0.25 * math.sqrt(share) * (3 - share), value)


@cache
def _quantile(chance: float) -> float:
    return _root(lambda value: student(value) - chance, 0.0, 100.0)


def _root(of: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that rises crosses 0."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) < 0 else (low, middle)
    return high


@cache
def coefficients() -> Mapping[str, Any]:
    """Return what was learnt, by engine, method and metric."""
    text = files("ode.error_model").joinpath("coefficients.json").read_text(encoding="utf-8")
    return json.loads(text)


def outside(features: Mapping[str, float]) -> str | None:
    """Return why the errors of a question were not measured; None where they were.

    Of a capacity there is no load and no dispersion.
    """
    for name, (low, high) in MEASURED.items():
        value = features.get(name, low)
        if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
            return f"{WORDS[name]} {value:.3g} is outside of {low:g} to {high:g}"
    return None


ANSWERS = {"ttft_steps": (0.0, 1e5), "tail": (0.5, 100.0), "stay": (0.3, 1e3)}
"""Features of answers, and between what they lie; see :mod:`ode.error_model.features`."""


def least_bound(
    engine: str, method: str, metrics: Sequence[str], question: Mapping[str, float]
) -> float:
    """Return how far off the worst of some metrics is at best, whatever the method will answer.

    Parameters
    ----------
    engine, method
        See :func:`expected`.
    metrics
        Those of which the worst counts.
    question
        Features of the question alone. The half-width is monotone in each of an answer's, so that
        the least one is at a corner of what they can be.
    """
    corners = [
        {**question, **dict(zip(ANSWERS, each, strict=True))} for each in product(*ANSWERS.values())
    ]
    least = 0.0
    for metric in metrics:
        found = [expected(engine, method, metric, corner) for corner in corners]
        half = min((each.half_width for each in found if each is not None), default=math.inf)
        least = max(least, half)
    return math.expm1(min(least, 50.0))


WORDS = {"fit": "requests that fit:", "load": "load", "dispersion": "dispersion of arrivals"}


def basis_of(method: str) -> Basis:
    """Return the terms in which the errors of a method are linear."""
    return CAPACITY if method in CAPACITY_METHODS else LATENCIES


def expected(
    engine: str, method: str, metric: str, features: Mapping[str, float]
) -> Expected | None:
    """Return how far off a metric of a method is; None where nobody measured it.

    Parameters
    ----------
    engine
        Kind of the instance.
    method
        Of :data:`ode.METHODS`, ``stationary``, or of :data:`CAPACITY_METHODS`.
    metric
        Of :data:`METRICS`, or :data:`THROUGHPUT`.
    features
        Of the question and of the answer, see :mod:`ode.error_model.features`.
    """
    entry = coefficients().get(engine, {}).get(method, {}).get(metric)
    if entry is None:
        return None
    of = basis_of(method).terms(features)
    size, bias = (sum(value * of[name] for name, value in entry[part].items()) for part in PARTS)
    unit = math.exp(min(max(size, LEAST_SIZE), WIDEST))
    return Expected(unit * bias, unit * entry["factor"][size_class(features["fit"])])
