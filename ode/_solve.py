"""One door to every solver: ``solve(profile, mix, instance, method=...)``."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from fluid import certificate
from ode._caveats import policy_labels, scatter_labels, validity_labels
from ode._initial_state import InitialState
from ode._methods import method_named
from ode._solution import Solution
from ode.error_model.report import error_report, unlike_the_measured
from serving import (
    DecodeNode,
    FluidServeError,
    RateProfile,
    RequestMix,
    UnsupportedError,
    answers,
)


@answers("decode_node")
def solve(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    *,
    method: str = "lagrangian",
    initial: InitialState | None = None,
    horizon: float | None = None,
    drain: bool = True,
    approximate: bool = False,
    **options: Any,
) -> Solution:
    """Solve the fluid model of an instance under a workload.

    Parameters
    ----------
    profile
        Expected arrivals over time, a rate profile or a trace's own cumulative curve.
    mix
        Joint distribution of prefill and decode lengths.
    instance
        The node.
    method
        One of :data:`ode.METHODS`; a named method runs what it names.
    initial
        State at time 0, empty by default.
    horizon : [time]
        End of arrivals, ``profile.horizon`` by default.
    drain
        Go on without arrivals until the system is empty, so that the latencies of all arrivals
        are counted; otherwise stop at ``horizon``.
    approximate
        Solve policies that the fluid model does not describe as FCFS and LIFO, and label the
        solution ``approximate``.
    **options
        Of the method, see :class:`ode.Method`: ``batches_per_step`` (lagrangian), ``step``
        (eulerian_jax), ...

    Raises
    ------
    UnsupportedError
        For an unknown method or option, an engine that no fluid model reads, or a policy that is
        not modelled.
    FluidServeError
        If ``horizon`` is not a finite time >= 0.
    SolveError
        If the solver fails; names its status and reason.
    """
    chosen = method_named(method)
    for name in options:
        if name not in chosen.options:
            allowed = ", ".join(chosen.options) or "none"
            raise UnsupportedError(f"{name} is no option of {chosen.name}; options: {allowed}")
    read_as = policy_labels(instance, approximate=approximate)
    labels = read_as + validity_labels(mix, instance)
    labels += scatter_labels(profile) if chosen.is_limit else ()
    initial = InitialState() if initial is None else initial
    horizon = profile.horizon if horizon is None else float(horizon)
    if not (math.isfinite(horizon) and horizon >= 0):
        raise FluidServeError(f"horizon: {horizon} is not allowed; allowed: a finite time >= 0")
    solution = chosen.solver_function()(
        profile,
        mix,
        instance,
        initial=initial,
        horizon=horizon,
        drain=drain,
        labels=labels,
        **chosen.fixed,
        **options,
    )
    unlike = unlike_the_measured(
        initial, whole=drain and horizon == profile.horizon, labels=read_as
    )
    return replace(
        solution,
        instance=instance,
        certify=partial(certificate, mix, instance),
        expects=partial(
            error_report, chosen.name, mix=mix, instance=instance, rate=profile.mean_rate,
            dispersion=profile.dispersion, profile=profile, unlike=unlike,
        ),
    )  # fmt: skip
