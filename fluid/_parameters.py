"""The parameters whose influence is asked for, by gradients and by sensitivity alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serving import DecodeNode, RequestMix

PARAMETER_UNITS = {
    "arrival_rate": "request/time",
    "M_total": "token",
    "B": "token",
    "admission_threshold": "",
    "d_0": "time",
    "d_kv": "time/token",
    "d_decode": "time/request",
    "d_swap": "time/token",
    "mean_prefill": "token",
    "mean_decode": "token",
}
"""Unit of each parameter, in the singular; empty for a pure number.

``arrival_rate`` is the mean over the horizon, all rates in proportion. ``mean_prefill`` moves every
prompt by as much. ``mean_decode`` gives every request one token more with that chance, the one way
in which whole lengths have a derivative.
"""

LAW_PARAMETERS = ("d_0", "d_kv", "d_decode", "d_swap")
"""Those of the batch-time law."""


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


def with_mean_decode(mix: RequestMix, mean: float) -> RequestMix:
    """Return ``mix`` with decode lengths in proportion, each split between its two whole numbers.

    No request becomes shorter than one token, so that a mean near 1 is not quite reached.
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
