"""The iteration-clock engine: cohorts shift exactly, one step is one batch.

Without memory pressure this is the exact mean of the discrete system and it has no numerical
diffusion; its cost does not depend on the size of the system.
"""

from __future__ import annotations

from math import inf

from fluid import requests_that_fit
from ode._initial_state import InitialState
from ode._solution import Solution
from ode.lagrangian.bounds import check_reach
from ode.lagrangian.layout import Answer
from ode.lagrangian.outputs import March, latencies_of, totals_of, trajectory_of
from ode.lagrangian.workspace import Workspace
from serving import ConfigError, DecodeNode, RateProfile, RequestMix, SolveError

MOST_STEPS = 5_000_000
"""Steps of a march unless more are allowed [steps]: some 2 GB with the trajectory made of them."""

FIRST_ROWS = 4096
"""Rows that a march keeps room for at first [steps]."""

FIRST_SAMPLES = 1 << 16
"""Latency samples that a march keeps room for at first [samples]."""

SHORTEST_RESOLVED = 64
"""Mean decode length [steps] below which a step is never more than one batch."""

COARSEST_RESOLVED = 8
"""Steps that a mean decode length must span."""


def solve_lagrangian(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    *,
    initial: InitialState,
    horizon: float,
    drain: bool,
    labels: tuple[str, ...],
    batches_per_step: int | None = None,
    max_steps: int = MOST_STEPS,
) -> Solution:
    """Solve on the iteration clock; see :func:`ode.solve` for the shared parameters.

    Parameters
    ----------
    batches_per_step
        Batches that one step covers; by default 1, and more only where the mean decode length
        would still span 64 steps.
    max_steps
        Give up after so many.

    Raises
    ------
    SolveError
        If ``max_steps`` is reached or a batch takes no time.
    ConfigError
        If ``batches_per_step`` is too coarse for the mix, or a horizon, a queue or an admission
        threshold is out of reach of ``max_steps``.
    """
    if batches_per_step is None:
        batches_per_step = max(1, int(mix.mean_decode / SHORTEST_RESOLVED))
    coarsest = max(1, int(mix.mean_decode / COARSEST_RESOLVED))
    if not 1 <= batches_per_step <= coarsest:
        allowed = f"1 to {coarsest}, the mean decode length over {COARSEST_RESOLVED}"
        raise ConfigError("batches_per_step", batches_per_step, allowed)
    check_reach(
        profile, mix, instance, initial, horizon, drain, batches_per_step, max_steps
    )  # fmt: skip

    def march(first_samples: int) -> March:
        workspace = Workspace(
            mix,
            instance,
            profile,
            horizon=horizon,
            end=inf if drain else horizon,
            batches_per_step=batches_per_step,
            rows=FIRST_ROWS,
            samples=first_samples,
            most_steps=max_steps,
        )
        return march_from(workspace, initial)

    done = march(0)
    return Solution(
        method="lagrangian",
        outputs=lambda: trajectory_of(done, batches_per_step, profile, initial, horizon),
        status="done",
        message=f"reached t = {done.end:g} in {len(done.rows)} steps",
        stats={
            "steps": len(done.rows),
            "batches_per_step": batches_per_step,
            "batches": len(done.rows) * batches_per_step,
            "requests_that_fit": requests_that_fit(mix, instance),
            "unfinished": float(done.state["arrived"] - done.state["completed"]),
        },
        labels=labels,
        totals=totals_of(done, batches_per_step, instance),
        latencies=lambda: latencies_of(march(FIRST_SAMPLES), batches_per_step),
    )


def march_from(workspace: Workspace, initial: InitialState) -> March:
    """March a workspace from a state at time 0 to the end; see :meth:`Workspace.advance`.

    What is returned is the workspace's own memory, which its next use overwrites.

    Raises
    ------
    SolveError
        If the workspace's limit of steps is reached or a batch takes no time.
    """
    workspace.seed(initial)
    answer = workspace.advance()
    state = workspace.record[0]
    if answer == Answer.STEP_LIMIT:
        reached = f"t = {state['now']:g} after {state['steps']} steps"
        message = f"{reached}; shorten the horizon or allow more by max_steps"
        raise SolveError("lagrangian", "step_limit", message)
    return March(workspace.rows[: state["steps"]], workspace.samples[: state["samples"]], state)
