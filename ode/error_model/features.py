"""What a solver knows of a question and of its own answer that says how far off it will be.

Every feature is without a unit, so that an error model is the same for nodes whose times are
seconds and for nodes whose unit is the fixed time of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving import Instance, RateProfile, RequestMix, SolveError, reading_of

PIECES = 40
"""Parts of a horizon over which the highest rate is looked for."""


def healthy_step(mix: RequestMix, instance: Instance, rate: float) -> float:
    """Return the mean time of a batch of a large healthy system [time]; of a full one otherwise."""
    from fluid import equilibrium, saturation

    try:
        found: Any = equilibrium(mix, instance, rate)
    except SolveError:
        return float(saturation(mix, instance).batch_time)
    return float(found.tau)


def question_features(
    mix: RequestMix,
    instance: Instance,
    rate: float,
    dispersion: float,
    profile: RateProfile | None = None,
) -> dict[str, float]:
    """Return the features of a question.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    rate : [requests/time]
        Mean arrival rate.
    dispersion
        Variance of the number of arrivals in a long time over its mean.
    profile
        Expected arrivals from an empty start; None for a steady state.

    Returns
    -------
    dict of str to float
        ``fit`` requests that fit; ``load`` and ``peak`` mean and highest rate over capacity;
        ``dispersion``; ``largest`` share of the room that the largest request takes; ``cv_work``
        of the work of requests, ``cv_decode`` of answers; ``growth`` batch time of a full system
        over that of one request; ``own`` what one request adds to a batch, over the empty batch;
        ``age`` horizon over the time that a request stays, ``arrivals`` up to the horizon (both
        0 in a steady state); ``sacrifice`` 1 in this mode; ``prompt_steps`` prompt of a request
        over the tokens of a step.
    """
    from fluid import requests_that_fit, saturation

    node: Any = reading_of(instance).node
    full: Any = saturation(mix, instance)
    weight = np.asarray(mix.probability, float)
    p, d = np.asarray(mix.prefill, float), np.asarray(mix.decode, float)
    work = p * d + d * (d + 1) / 2
    mean_tokens = mix.work / mix.mean_decode
    is_server = hasattr(node, "kv_tokens")
    room = float(node.kv_tokens if is_server else min(node.M_total, node.token_budget))
    law = node.batch_time
    empty = float(law.duration(0.0, 0.0))
    if empty <= 0:
        raise SolveError("features", "no_time", "a batch of nobody takes no time to compare with")
    one = _time_of_one(law, mean_tokens, is_server)
    step = healthy_step(mix, instance, rate)
    out = {
        "fit": float(requests_that_fit(mix, instance)),
        "load": rate / float(full.throughput),
        "peak": rate / float(full.throughput),
        "dispersion": dispersion,
        "largest": float((p + d).max()) / room,
        "cv_work": cv(work, weight),
        "cv_decode": cv(d, weight),
        "growth": float(full.batch_time) / one,
        "own": one / empty - 1.0,
        "sacrifice": float(getattr(node, "mode", "") == "sacrifice"),
        "age": 0.0,
        "arrivals": 0.0,
        "prompt_steps": float(weight @ p) / node.step_tokens if is_server else 0.0,
    }
    if profile is not None and profile.horizon > 0:
        stay = step * float(mix.mean_decode)
        edges = np.linspace(0.0, profile.horizon, PIECES + 1)
        highest = float(profile.mean_rate_between(edges).max())
        out["peak"] = max(highest, rate) / float(full.throughput)
        out["age"] = profile.horizon / stay
        out["arrivals"] = float(profile.total)
    return out


def answer_features(
    values: Mapping[str, float], mix: RequestMix, instance: Instance, rate: float
) -> dict[str, float]:
    """Return the features of an answer: its TTFT in batches, its tail, its E2EL in lives.

    Parameters
    ----------
    values
        ``mean_ttft``, ``p99_ttft``, ``mean_e2el`` [time] as predicted.
    mix, instance, rate
        Of the question.
    """
    step = healthy_step(mix, instance, rate)
    return {
        "ttft_steps": values["mean_ttft"] / step,
        "tail": values["p99_ttft"] / values["mean_ttft"],
        "stay": values["mean_e2el"] / (step * float(mix.mean_decode)),
    }


def _time_of_one(law: Any, tokens: float, is_server: bool) -> float:
    if is_server:
        return float(law.step_duration(1.0, tokens))
    return float(law.duration(tokens, 1.0))


def cv(values: Any, weight: Any) -> float:
    """Return the coefficient of variation of values of some weights."""
    mean = float(weight @ values)
    return math.sqrt(max(float(weight @ values**2) / mean**2 - 1.0, 0.0))
