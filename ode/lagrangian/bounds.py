"""How many steps a march takes at least: what is out of reach is refused before the work."""

from __future__ import annotations

import numpy as np

from ode._initial_state import InitialState
from ode.lagrangian.batch import COARSE
from serving import ConfigError, DecodeNode, RateProfile, RequestMix

NEGLIGIBLE = 1e-9
"""Share of the memory that is neither evicted nor admitted."""


def check_reach(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    initial: InitialState,
    horizon: float,
    drain: bool,
    batches_per_step: int,
    max_steps: int,
) -> None:
    """Refuse a march that certainly takes more than ``max_steps``.

    A node executes batches as long as requests arrive, none longer than one of a full memory; and
    until the last request has gone it executes all their tokens, no more in a batch than fit.

    Raises
    ------
    ConfigError
        Naming ``horizon``, ``initial_waiting`` or ``admission_threshold``, and how far it may go.
    """
    threshold = instance.admission_threshold
    if not threshold > NEGLIGIBLE:
        allowed = f"a number > {NEGLIGIBLE:g} for the fluid limit, which admits nobody below"
        raise ConfigError("admission_threshold", threshold, allowed)
    tokens, longest = _fullest_batch(mix, instance, batches_per_step)
    seconds = np.diff(np.minimum(profile.time, horizon))
    busy = float(seconds[np.diff(profile.cumulative) > 0].sum())
    each = mix.work / (tokens * batches_per_step) if drain else 0.0
    steps = each * float(profile.count(horizon))
    if longest > 0:
        steps = max(steps, busy / (longest * batches_per_step))
    if steps > max_steps:
        last = horizon * max_steps / steps
        allowed = f"<= {last:.3g} here, the last arrival that {max_steps} steps reach"
        raise ConfigError("horizon", horizon, allowed)
    if each * initial.waiting > max_steps:
        allowed = f"<= {max_steps / each:.3g} here, which {max_steps} steps serve"
        raise ConfigError("initial_waiting", initial.waiting, allowed)


def _fullest_batch(
    mix: RequestMix, instance: DecodeNode, batches_per_step: int
) -> tuple[float, float]:
    """Return tokens that no batch exceeds, and a time [time] that none exceeds.

    Memory is looked at between steps: within one of several batches every request grows. Such a
    step also pays for batches, half a step of them, that its arrivals had before it.
    """
    shortest = float(mix.prefill[mix.probability > 0].min()) + 1.0
    memory = float(instance.M_total)
    if batches_per_step > 1:
        memory *= 1.0 + batches_per_step / shortest
    tokens = min((1.0 + COARSE) * instance.token_budget, memory)
    if batches_per_step > 1:
        tokens *= 1.5
    requests = tokens / shortest
    # time rises with tokens and with requests, but not with requests at the same tokens
    return tokens, float(instance.batch_time.duration(tokens + requests, requests, 2 * memory))
