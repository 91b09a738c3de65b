"""One door to every solver: ``solve(profile, mix, instance, method=...)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fluid import certificate
from ode._caveats import policy_labels, validity_labels
from ode._initial_state import InitialState
from ode._solution import Solution
from serving import DecodeNode, FluidServeError, RateProfile, RequestMix, UnsupportedError

METHODS = ("lagrangian", "eulerian_jax", "eulerian_diffrax", "eulerian_scipy", "workload")
"""The fluid limit by four solvers, and ``workload``: one node at its finite size."""


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
        One of :data:`METHODS`; a named method runs what it names.
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
        Of the method: ``batches_per_step`` (lagrangian), ``step`` (eulerian), ...

    Raises
    ------
    UnsupportedError
        For an unknown method, or a policy that is not modelled.
    FluidServeError
        If ``horizon`` is not a finite time >= 0.
    SolveError
        If the solver fails; names its status and reason.
    """
    if method not in METHODS:
        raise UnsupportedError(f"there is no method {method!r}; there are: {', '.join(METHODS)}")
    labels = policy_labels(instance, approximate=approximate) + validity_labels(mix, instance)
    initial = InitialState() if initial is None else initial
    horizon = profile.horizon if horizon is None else float(horizon)
    if not (math.isfinite(horizon) and horizon >= 0):
        raise FluidServeError(f"horizon: {horizon} is not allowed; allowed: a finite time >= 0")
    solver, named = _solver(method)
    solution = solver(
        profile,
        mix,
        instance,
        initial=initial,
        horizon=horizon,
        drain=drain,
        labels=labels,
        **named,
        **options,
    )
    return replace(solution, instance=instance, certify=partial(certificate, mix, instance))


def _solver(method: str) -> tuple[Callable[..., Solution], dict[str, str]]:
    """Return the solver of a method and the option that the method's name stands for."""
    if method == "workload":
        from ode.node_work import solve_workload

        return solve_workload, {}
    if method == "lagrangian":
        from ode.lagrangian import solve_lagrangian

        return solve_lagrangian, {}
    from ode.eulerian.solve import solve_eulerian

    return solve_eulerian, {"backend": method.removeprefix("eulerian_")}
