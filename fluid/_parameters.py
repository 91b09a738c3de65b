"""The parameters whose influence is asked for, by gradients and by sensitivity alike."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from serving import KINDS, BatchTimeLaw, DecodeNode, RequestMix, answers

_SPENT = KINDS["decode_node"].law_keys
_COEFFICIENTS = {
    item.name: re.findall(r"\[(.*)\]", item.metadata["doc"])[-1]
    for item in fields(BatchTimeLaw)
    if item.name in _SPENT and isinstance(item.default, float)
}
"""Unit of each coefficient of the batch-time law that is a plain number and that a decode node
spends."""

LAW_PARAMETERS = tuple(_COEFFICIENTS)
"""Plain numbers of the batch-time law that a decode node spends."""

WITHOUT_EVICTION = tuple(name for name in LAW_PARAMETERS if name != "d_swap")
"""Those of :data:`LAW_PARAMETERS` that count while no request is moved."""

WHOLE = ("M_total", "B")
"""Parameters that are whole numbers."""

PARAMETER_UNITS = {
    "arrival_rate": "request/time",
    "M_total": "token",
    "B": "token",
    "admission_threshold": "",
    **_COEFFICIENTS,
    "mean_prefill": "token",
    "mean_decode": "token",
}
"""Unit of each parameter, in the singular; empty for a pure number.

``arrival_rate`` is the mean over the horizon, all rates in proportion. ``mean_prefill`` moves every
prompt by as much. ``mean_decode`` moves all decode lengths in proportion, each split between its
two whole numbers, see :func:`with_mean_decode` and :func:`decode_moves`.
"""


@answers("decode_node")
def parameter_units(instance: DecodeNode) -> dict[str, str]:
    """Return the unit of each parameter of an instance: :data:`PARAMETER_UNITS`."""
    return dict(PARAMETER_UNITS)


@answers("decode_node")
def parameter_values(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float
) -> dict[str, float]:
    """Return the value of every parameter, in the order of :data:`PARAMETER_UNITS`.

    ``arrival_rate`` is in requests/time; an unlimited B is infinite.
    """
    law = instance.batch_time
    return {
        "arrival_rate": arrival_rate,
        "M_total": float(instance.M_total),
        "B": float("inf") if instance.B is None else float(instance.B),
        "admission_threshold": float(instance.admission_threshold),
        **{name: float(getattr(law, name)) for name in LAW_PARAMETERS},
        "mean_prefill": mix.mean_prefill,
        "mean_decode": mix.mean_decode,
    }


def with_mean_prefill(mix: RequestMix, mean: float) -> RequestMix:
    """Return ``mix`` with every prompt longer by as much, or shorter in proportion.

    Shorter by a constant, short prompts would become negative.
    """
    shift = mean - mix.mean_prefill
    if shift >= 0:
        return replace(mix, prefill=mix.prefill + shift)
    return replace(mix, prefill=mix.prefill * (mean / mix.mean_prefill))


def decode_moves(decode: NDArray, probability: NDArray) -> tuple[NDArray, NDArray]:
    """Return how fast lengths gain a token and lose one as their mean moves in proportion.

    Where the mean grows by a share ``eps``, a request of D tokens becomes one of D + 1 with chance
    ``eps D``; where it falls by as much, one of D - 1. The derivative by the mean is the mean of
    the two: D + 1 gains what D - 1 loses. Requests of one token only become longer.

    Parameters
    ----------
    decode : shape (K,) [tokens]
        Decode lengths, whole numbers.
    probability : shape (K,) or (J, K)
        Of each length; all together sum to 1.

    Returns
    -------
    gains, losses : like probability [1/token]
        Rates, per token of the mean, from D to D + 1 as it grows and from D - 1 to D as it grows.
    """
    gains = probability * decode
    losses = np.where(decode > 1, gains, 0.0)
    total = gains.sum() + losses.sum()
    return gains / total, losses / total


def with_mean_decode(mix: RequestMix, mean: float) -> RequestMix:
    """Return ``mix`` with decode lengths in proportion, each split between its two whole numbers.

    No request becomes shorter than one token, so that a mean is not quite reached from above where
    requests of one token are many.
    """
    length = np.maximum(mix.decode * (mean / mix.mean_decode), 1.0)
    whole = np.floor(length).astype(np.int64)
    part = length - whole
    kept = np.concatenate([1 - part, part]) > 0
    return RequestMix(
        np.tile(mix.prefill, 2)[kept],
        np.concatenate([whole, whole + 1])[kept],
        np.concatenate([mix.probability * (1 - part), mix.probability * part])[kept],
        np.tile(mix.request_class, 2)[kept],
    )


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """A node and what arrives, with one parameter at another value.

    Parameters
    ----------
    value
        The value that the parameter reached.
    mix, instance, arrival_rate
        Everything else as it was; ``arrival_rate`` in requests/time.
    """

    value: float
    mix: RequestMix
    instance: DecodeNode
    arrival_rate: float


@answers("decode_node")
def with_parameter(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float, name: str, value: float
) -> Changed:
    """Return mix, instance and arrival rate with one parameter at another value.

    Parameters
    ----------
    mix, instance, arrival_rate
        What is changed.
    name
        One of :data:`PARAMETER_UNITS`.
    value
        What it is to be. A whole number is rounded, a threshold stays at or below 1.
    """
    here = Changed(value, mix, instance, arrival_rate)
    if name == "arrival_rate":
        return replace(here, arrival_rate=value)
    if name in ("mean_prefill", "mean_decode"):
        moved = with_mean_prefill if name == "mean_prefill" else with_mean_decode
        mix = moved(mix, value)
        return replace(here, mix=mix, value=float(getattr(mix, name)))
    if name in LAW_PARAMETERS:
        law = replace(instance.batch_time, **{name: value})
        return replace(here, instance=replace(instance, batch_time=law))
    new = max(1, round(value)) if name in WHOLE else min(value, 1.0)
    return replace(here, value=float(new), instance=replace(instance, **{name: new}))
