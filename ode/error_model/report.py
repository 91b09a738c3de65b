"""What an answer says of its own error, in numbers and in a line of words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ode._initial_state import InitialState
from ode.error_model.features import answer_features, question_features
from ode.error_model.model import (
    COVERS,
    UNKNOWN,
    Expected,
    coefficients,
    expected,
    least_bound,
    outside,
)
from serving import Distribution, FluidServeError, Instance, RateProfile, RequestMix, reading_of
from serving.kinds.prompt_server import PromptServer

DECIDING = ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el")
"""Metrics whose worst is the confidence of an answer."""

TITLES = {
    "mean_ttft": "mean TTFT",
    "p99_ttft": "p99 TTFT",
    "mean_e2el": "mean E2EL",
    "p99_e2el": "p99 E2EL",
    "p50_ttft": "p50 TTFT",
    "mean_in_system": "mean in system",
}
"""Every metric whose errors are known, in the order of tables."""

OUTSIDE = "errors were not measured there; {}"
READ_AS = "errors of approximate readings of policies were not measured"
FEWEST_ARRIVALS = 20.0
"""Arrivals of a horizon, from which errors were measured."""

LOWEST_THRESHOLD = 0.7
"""Admission threshold down to which errors were measured."""


@dataclass(frozen=True, slots=True, eq=False)
class ErrorReport:
    """How far each number of an answer is expected to be from the engine's mean.

    Parameters
    ----------
    errors
        By metric; empty where nobody measured answers like this one.
    reason
        Why nobody did.
    replications
        Of the engine, where the answer is its mean over so many; None for a method.
    """

    errors: Mapping[str, Expected] = field(default_factory=dict)
    reason: str | None = None
    replications: int | None = None

    @property
    def bound(self) -> float:
        """How far off the worst of :data:`DECIDING` may be, relative; infinite if unknown."""
        if not all(name in self.errors for name in DECIDING):
            return math.inf
        return max(self.errors[name].bound for name in DECIDING)

    @property
    def is_exact(self) -> bool:
        """Whether the answer is the engine's own run of the requests that were asked about."""
        return self.replications == 1 and self.bound == 0

    @property
    def confidence(self) -> str:
        """``high`` within 5 %, ``fair`` within 15 %, ``low`` beyond, or ``unknown``."""
        if not math.isfinite(self.bound):
            return UNKNOWN
        return max((self.errors[name] for name in DECIDING), key=lambda it: it.bound).confidence

    @property
    def words(self) -> str:
        """One line."""
        if self.confidence == UNKNOWN:
            return f"confidence unknown: {self.reason}"
        if self.is_exact:
            return f"confidence {self.confidence}: the engine ran exactly these requests"
        parts = []
        for name in DECIDING:
            low, high = self.errors[name].interval
            parts.append(f"{TITLES[name]} {percent_off(low)} to {percent_off(high)} %")
        if self.replications is not None:
            return (
                f"confidence {self.confidence}: the mean of {self.replications} runs of the engine "
                f"is known within {', '.join(parts)} ({100 * COVERS:.0f} %)"
            )
        return (
            f"confidence {self.confidence}: of answers like this one {100 * COVERS:.0f} % differ "
            f"from the engine's mean by {', '.join(parts)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report: relative errors, predicted over engine less 1."""
        rows = {}
        for name, of in self.errors.items():
            low, high = of.interval
            rows[name] = {"expected": math.expm1(of.bias), "low": low, "high": high}
        return {"words": self.words, "covers": COVERS, "metrics": rows}

    def columns(self) -> dict[str, Any]:
        """Return the confidence and both ends of each interval, a column of a table each."""
        columns: dict[str, Any] = {"confidence": self.confidence}
        for name in TITLES:
            of = self.errors.get(name)
            low, high = (None, None) if of is None else of.interval
            columns |= {f"error_{name}_low": low, f"error_{name}_high": high}
        return columns


FARTHEST = 100.0
"""Relative error beyond which its size says nothing more."""


def percent_off(value: float) -> str:
    """Return a relative error in per cent, with its sign and one digit below 10."""
    if value > FARTHEST:
        return f"over {100 * FARTHEST:+,.0f}"
    return f"{100 * value:+,.{1 if abs(value) < 0.0995 else 0}f}"


def error_report(
    method: str,
    latencies: Mapping[str, Distribution],
    mix: RequestMix,
    instance: Instance | PromptServer,
    rate: float,
    dispersion: float,
    profile: RateProfile | None = None,
    *,
    unlike: str | None = None,
) -> ErrorReport:
    """Return how far off the latencies of a method are expected to be.

    Parameters
    ----------
    method
        Of :data:`ode.METHODS`, or ``stationary``.
    latencies
        What it says of ``ttft`` and ``e2el``.
    mix, instance, rate, dispersion, profile
        What was asked; ``profile`` for arrivals from an empty start, None for a steady state.
    unlike
        Why the answer is unlike those whose errors were measured; None where it is like them.
    """
    node: Any = reading_of(instance).node  # type: ignore[arg-type]
    reason = unlike or _unmeasured(method, node, profile)
    if reason is not None:
        return ErrorReport(reason=reason)
    values = {
        "mean_ttft": latencies["ttft"].mean,
        "p99_ttft": latencies["ttft"].percentiles[99],
        "mean_e2el": latencies["e2el"].mean,
    }
    if not all(math.isfinite(value) and value > 0 for value in values.values()):
        return ErrorReport(reason="the answer holds no latencies")
    try:
        features = question_features(mix, node, rate, dispersion, profile)
        features |= answer_features(values, mix, node, rate)
    except FluidServeError as error:
        return ErrorReport(reason=f"the closed forms that the error depends on fail: {error}")
    reason = outside(features)
    if reason is not None:
        return ErrorReport(reason=OUTSIDE.format(reason))
    known = coefficients()[node.engine][method]
    found = {name: expected(node.engine, method, name, features) for name in known}
    return ErrorReport({name: of for name, of in found.items() if of is not None})


def before_the_answer(
    methods: Sequence[str],
    mix: RequestMix,
    instance: Instance | PromptServer,
    rate: float,
    dispersion: float,
    profile: RateProfile | None = None,
) -> dict[str, ErrorReport | float]:
    """Return what is known of the errors of methods before they have answered.

    Parameters
    ----------
    methods
        Of :data:`ode.METHODS`, or ``stationary``.
    mix, instance, rate, dispersion, profile
        As for :func:`error_report`.

    Returns
    -------
    dict
        By method: how far off the worst of :data:`DECIDING` is at best; or a report with the
        reason why nobody will know it.
    """
    node: Any = reading_of(instance).node  # type: ignore[arg-type]
    features = question_features(mix, node, rate, dispersion, profile)
    away = outside(features)
    found: dict[str, ErrorReport | float] = {}
    for method in methods:
        reason = _unmeasured(method, node, profile)
        if reason is None and away is not None:
            reason = OUTSIDE.format(away)
        if reason is not None:
            found[method] = ErrorReport(reason=reason)
        else:
            found[method] = least_bound(node.engine, method, DECIDING, features)
    return found


def unlike_the_measured(
    initial: InitialState, *, whole: bool, labels: tuple[str, ...]
) -> str | None:
    """Return why a solution over time is unlike those whose errors were measured.

    Parameters
    ----------
    initial
        State at time 0.
    whole
        Whether all arrivals of the profile are counted to their end.
    labels
        Of policies that are read as others.
    """
    if initial.mass > 0:
        return "errors were measured from an empty start"
    if not whole:
        return "errors were measured over all arrivals, until the last has left"
    return READ_AS if labels else None


def _unmeasured(method: str, node: Any, profile: RateProfile | None) -> str | None:
    """Return why the campaign knows no answers like this one; None where it does."""
    if method not in coefficients().get(node.engine, {}):
        return f"errors of {method} on the engine {node.engine} were not measured"
    if profile is not None and profile.total < FEWEST_ARRIVALS:
        return f"errors were measured from {FEWEST_ARRIVALS:.0f} arrivals on"
    return unmeasured_node(node)


def unmeasured_node(node: Any) -> str | None:
    """Return why the campaign has no instances like this one; None where it does.

    Parameters
    ----------
    node
        Settings that a fluid model reads.
    """
    if not node.batch_time.is_affine or node.batch_time.bends_in_prompts:
        return "errors under batch-time laws with a table were not measured"
    if getattr(node, "admission_threshold", 1.0) < LOWEST_THRESHOLD:
        return f"errors were measured from an admission_threshold of {LOWEST_THRESHOLD} on"
    if any(getattr(node, "hit_share", ())):
        return "errors with prefix hits were not measured"
    if getattr(node, "read_as", ()) or getattr(node, "notes", ()):
        return "errors under settings that the model leaves out were not measured"
    return None
