"""The parameters of a server that computes its own prompts, whose influence is asked for."""

from __future__ import annotations

import re
from dataclasses import fields, replace

from fluid._parameters import Changed, with_mean_decode, with_mean_prefill
from serving import KINDS, BatchTimeLaw, ConfigError, RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer

_COEFFICIENTS = {
    item.name: re.findall(r"\[(.*)\]", item.metadata["doc"])[-1]
    for item in fields(BatchTimeLaw)
    if item.name in KINDS["vllm_v0"].law_keys and isinstance(item.default, float)
}

OF_SERVER = {
    "kv_tokens": ("kv_tokens", "token"),
    "max_num_seqs": ("most_running", "request"),
    "max_num_batched_tokens": ("step_tokens", "token"),
}
"""Sizes of the server, whole numbers: what the model calls them, and their units."""

UNITS = {
    "arrival_rate": "request/time",
    **{name: unit for name, (_, unit) in OF_SERVER.items()},
    **_COEFFICIENTS,
    "prefix_hit_share": "",
    "mean_prefill": "token",
    "mean_decode": "token",
}
"""Unit of each parameter, in the singular; empty for a pure number. ``prefix_hit_share`` is one
where one share stands for all classes; where classes have shares of their own it is left at 0."""


@answers(MODEL)
def parameter_units(instance: PromptServer) -> dict[str, str]:
    """Return the unit of each parameter, in the singular."""
    return dict(UNITS)


@answers(MODEL)
def parameter_values(
    mix: RequestMix, instance: PromptServer, arrival_rate: float
) -> dict[str, float]:
    """Return the value of every parameter, in the order of :data:`UNITS`."""
    law = instance.batch_time
    return {
        "arrival_rate": arrival_rate,
        **{name: float(getattr(instance, ours)) for name, (ours, _) in OF_SERVER.items()},
        **{name: float(getattr(law, name)) for name in _COEFFICIENTS},
        "prefix_hit_share": instance.hit_share[0] if len(instance.hit_share) == 1 else 0.0,
        "mean_prefill": mix.mean_prefill,
        "mean_decode": mix.mean_decode,
    }


@answers(MODEL)
def with_parameter(
    mix: RequestMix, instance: PromptServer, arrival_rate: float, name: str, value: float
) -> Changed:
    """Return mix, server and arrival rate with one parameter set, and the value that it has then.

    Raises
    ------
    ConfigError
        If there is no such parameter.
    """
    here = Changed(value, mix, instance, arrival_rate)  # type: ignore[arg-type]
    if name == "arrival_rate":
        return replace(here, arrival_rate=value)
    if name in ("mean_prefill", "mean_decode"):
        moved = with_mean_prefill if name == "mean_prefill" else with_mean_decode
        new = moved(mix, value)
        return replace(here, mix=new, value=float(getattr(new, name)))
    if name == "prefix_hit_share":
        shared = min(max(value, 0.0), 1.0)
        return replace(here, value=shared, instance=replace(instance, hit_share=(shared,)))  # type: ignore[arg-type]
    if name in _COEFFICIENTS:
        law = replace(instance.batch_time, **{name: value})
        return replace(here, instance=replace(instance, batch_time=law))  # type: ignore[arg-type]
    if name not in OF_SERVER:
        raise ConfigError("parameter", name, " | ".join(UNITS))
    whole = max(1, round(value))
    sized = replace(instance, **{OF_SERVER[name][0]: whole})
    return replace(here, value=float(whole), instance=sized)  # type: ignore[arg-type]
