"""The door to the solver of a server that computes its own prompts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from fluid.prompt_server import certificate, life, requests_that_fit, step_time
from ode._caveats import scatter_labels
from ode._initial_state import InitialState
from ode._methods import method_named
from ode._solution import Solution
from ode.error_model.report import error_report, unlike_the_measured
from ode.lagrangian.outputs import trajectory_of
from ode.node_work.solve import solved
from ode.prompt_server.labels import policy_labels, unknown_to_node_work, validity_labels
from ode.prompt_server.node_work import ServerModel
from ode.prompt_server.outputs import latencies_of, totals_of
from ode.prompt_server.workspace import March, Workspace
from serving import (
    ConfigError,
    FluidServeError,
    RateProfile,
    RequestMix,
    UnsupportedError,
    answers,
)
from serving.kinds.prompt_server import MODEL, PromptServer

METHOD, ONE_NODE = "lagrangian", "node_work"
METHODS_OF = (METHOD, ONE_NODE)
"""Methods that there are for these servers: of large ones, and of one at its size."""

MOST_STEPS = 5_000_000
"""Steps of a march unless more are allowed [steps]."""


@answers(MODEL)
def solve(
    profile: RateProfile,
    mix: RequestMix,
    instance: PromptServer,
    *,
    method: str = METHOD,
    initial: InitialState | None = None,
    horizon: float | None = None,
    drain: bool = True,
    approximate: bool = False,
    max_steps: int = MOST_STEPS,
    **options: Any,
) -> Solution:
    """Solve the fluid model of a server that computes its own prompts, see :func:`ode.solve`.

    Raises
    ------
    UnsupportedError
        For another method than :data:`METHODS_OF`, an option but ``max_steps``, a setting that
        is not modelled, or requests that run at time 0.
    FluidServeError
        If ``horizon`` is not a finite time >= 0.
    ConfigError
        If the horizon is out of reach of ``max_steps``.
    SolveError
        If the solver fails; names its status and reason.
    """
    chosen = method_named(method)
    if chosen.name not in METHODS_OF:
        raise UnsupportedError(
            f"the method {chosen.name} does not solve the engine {instance.engine}; use "
            f"{' or '.join(METHODS_OF)}"
        )
    if options:
        raise UnsupportedError(
            f"{next(iter(options))} is no option of {METHOD} for the engine {instance.engine}; "
            "options: max_steps"
        )
    labels = policy_labels(instance, approximate=approximate)
    initial = InitialState() if initial is None else initial
    if initial.running.size or initial.swapped.size:
        raise UnsupportedError(
            f"the fluid model of the engine {instance.engine} starts with requests that wait, not "
            "with requests that run"
        )
    horizon = profile.horizon if horizon is None else float(horizon)
    if not (math.isfinite(horizon) and horizon >= 0):
        raise FluidServeError(f"horizon: {horizon} is not allowed; allowed: a finite time >= 0")
    unlike = unlike_the_measured(
        initial,
        whole=drain and horizon == profile.horizon,
        labels=policy_labels(instance, approximate=approximate),
    )
    expects = partial(
        error_report, chosen.name, mix=mix, instance=instance, rate=profile.mean_rate,
        dispersion=profile.dispersion, profile=profile, unlike=unlike,
    )  # fmt: skip
    if chosen.name == ONE_NODE:
        unknown = unknown_to_node_work(mix, instance)
        if unknown is None and not drain:
            unknown = "every arrival counts; it cannot stop undrained"
        if unknown is not None:
            raise UnsupportedError(f"the method node_work does not solve this: {unknown}")
        model = ServerModel(mix, instance)
        found = solved(profile, model, initial=initial, horizon=horizon, labels=labels)
        return replace(found, expects=expects)
    labels += validity_labels(mix, instance) + scatter_labels(profile)
    profile = _with_queue(profile, initial.waiting)
    _check_reach(profile, mix, instance, horizon, max_steps)
    end = math.inf if drain else horizon
    done = Workspace(mix, instance, profile, horizon=horizon, end=end, most_steps=max_steps).march()
    return replace(_solution(done, profile, mix, instance, horizon, labels), expects=expects)


def _solution(
    done: March,
    profile: RateProfile,
    mix: RequestMix,
    instance: PromptServer,
    horizon: float,
    labels: tuple[str, ...],
) -> Solution:
    left = float(done.state["arrived"] - done.state["completed"])
    return Solution(
        method=METHOD,
        outputs=lambda: trajectory_of(done, 1, profile, InitialState(), horizon),  # type: ignore[arg-type]
        status="done",
        message=f"reached t = {done.end:g} in {len(done.rows)} steps",
        stats={
            "steps": len(done.rows),
            "requests_that_fit": requests_that_fit(mix, instance),
            "unfinished": max(left, 0.0),
        },
        labels=labels,
        totals=totals_of(done, instance),
        latencies=lambda: latencies_of(done, mix, profile),
        certify=partial(certificate, mix, instance),
    )


def _with_queue(profile: RateProfile, waiting: float) -> RateProfile:
    """Return the curve of the arrivals with a queue that is there at time 0."""
    if waiting == 0:
        return profile
    time = np.append(0.0, profile.time)
    return RateProfile(time, np.append(0.0, profile.cumulative + waiting), profile.dispersion)


def _check_reach(
    profile: RateProfile, mix: RequestMix, instance: PromptServer, horizon: float, max_steps: int
) -> None:
    """Refuse a march that certainly takes more than ``max_steps``: all tokens, or all the time."""
    busy = float(np.diff(np.minimum(profile.time, horizon))[np.diff(profile.cumulative) > 0].sum())
    full, longest = _fullest_step(mix, instance)
    each = 0.25 / full  # of the steps that a request needs where seats limit, to be sure
    steps = each * float(profile.count(horizon))
    if longest > 0:
        steps = max(steps, 0.25 * busy / longest)
    if steps > max_steps:
        allowed = f"<= {horizon * max_steps / steps:.3g} here, which {max_steps} steps reach"
        raise ConfigError("horizon", horizon, allowed)


@lru_cache(maxsize=64)
def _fullest_step(mix: RequestMix, instance: PromptServer) -> tuple[float, float]:
    """Return how many requests start in a step where seats limit, and its time [time]."""
    full = float(instance.most_running) / life(mix, instance).stay
    return full, float(step_time(life(mix, instance), instance, max(full, 1.0)))
