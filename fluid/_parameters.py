"""The parameters whose influence is asked for, by gradients and by sensitivity alike."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from serving import BatchTimeLaw, DecodeNode, RequestMix


def _spent(name: str, moved_tokens: int) -> bool:
    """Return whether a coefficient of the law lengthens decode batches."""
    law = BatchTimeLaw()
    more = replace(law, **{name: getattr(law, name) + 1.0})
    return more.duration(2, 1, moved_tokens) != law.duration(2, 1, moved_tokens)


_COEFFICIENTS = {
    item.name: re.findall(r"\[(.*)\]", item.metadata["doc"])[-1]
    for item in fields(BatchTimeLaw)
    if isinstance(item.default, float)
}
"""Unit of each coefficient of the batch-time law that is a plain number."""

LAW_PARAMETERS = tuple(name for name in _COEFFICIENTS if _spent(name, moved_tokens=1))
"""Plain numbers of the batch-time law that a decode node spends."""

WITHOUT_EVICTION = tuple(name for name in LAW_PARAMETERS if _spent(name, moved_tokens=0))
"""Those of :data:`LAW_PARAMETERS` that count while no request is moved."""

PARAMETER_UNITS = {
    "arrival_rate": "request/time",
    "M_total": "token",
    "B": "token",
    "admission_threshold": "",
    **{name: _COEFFICIENTS[name] for name in LAW_PARAMETERS},
    "mean_prefill": "token",
    "mean_decode": "token",
}
"""Unit of each parameter, in the singular; empty for a pure number.

``arrival_rate`` is the mean over the horizon, all rates in proportion. ``mean_prefill`` moves every
prompt by as much. ``mean_decode`` moves all decode lengths in proportion, each split between its
two whole numbers, see :func:`with_mean_decode` and :func:`decode_moves`.
"""


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
