"""The Eulerian solvers: the symbolic equations over classes and stages, three back ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fluid import check_takes_time
from ode._initial_state import InitialState
from ode._solution import Solution
from ode.eulerian.delays import delay_samples
from ode.eulerian.problem import EulerianProblem, March, eulerian_problem
from ode.eulerian.progress import decoded_anew, evicting
from serving import ConfigError, DecodeNode, RateProfile, RequestMix, Trajectory

UNDER_EVICTION = "approximate: latencies under eviction follow the mean progress of all requests"
CUT_SHORT = (
    "approximate: cut short under eviction, latencies cover only part of the completions and "
    "tokens decoded anew are estimated"
)


def solve_eulerian(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    *,
    backend: str,
    initial: InitialState,
    horizon: float,
    drain: bool,
    labels: tuple[str, ...],
    step: float | None = None,
    classes: int | None = None,
    transport: str = "superbee",
    max_steps: int = 300_000,
) -> Solution:
    """Solve the symbolic equations; see :func:`ode.solve` for the shared parameters.

    Parameters
    ----------
    backend
        ``jax`` (own scan), ``diffrax`` or ``scipy``.
    step
        ``jax``: length of a step in batch times, at most 1 for stability and positivity.
    classes
        Most length classes in sacrifice mode; by default 8 to 64, fewer for longer requests.
    transport
        Of :func:`fluid.equations`.
    max_steps
        Give up after so many.

    Raises
    ------
    SolveError
        If an empty batch takes no time, the state is not finite or ``max_steps`` is reached.
    """
    check_takes_time(instance.batch_time, f"eulerian_{backend}")
    problem = eulerian_problem(profile, mix, instance, initial, horizon, drain, classes, transport)
    march, options = _back_end(backend, step)
    done = march(problem, max_steps=max_steps, **options)
    arrivals, end = problem.segments.profile(), float(done.time[-1])
    return Solution(
        method=f"eulerian_{backend}",
        outputs=lambda: _trajectory(done, profile, initial, horizon),
        status="done",
        message=f"reached t = {end:g} in {done.stats['steps']:.0f} steps",
        stats=done.stats,
        labels=(*labels, *_labels(problem, done)),
        totals=_totals(problem, done),
        latencies=lambda: delay_samples(problem, done, arrivals, mix),
    )


def _back_end(backend: str, step: float | None) -> tuple[Callable[..., March], dict[str, float]]:
    if backend == "jax":
        from ode.eulerian.march_jax import march_jax

        step = 1.0 if step is None else float(step)
        if not 0 < step <= 1:
            raise ConfigError("step", step, "a number > 0 and <= 1")
        return march_jax, {"step": step}
    if backend == "diffrax":
        from ode.eulerian.march_diffrax import march_diffrax

        return march_diffrax, {}
    from ode.eulerian.march_scipy import march_scipy

    return march_scipy, {}


def _trajectory(
    done: March, profile: RateProfile, initial: InitialState, horizon: float
) -> Trajectory:
    """Return the outputs; arrivals are the profile's own, also where a trace was averaged."""
    end = done.time[-1]
    knots = profile.time[profile.time < min(horizon, end)]
    time = np.concatenate([done.time, knots, knots])
    left = np.zeros(time.size, bool)
    left[done.time.size : done.time.size + knots.size] = True
    order = np.lexsort((~left, time))
    time, left = time[order], left[order]

    def along(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(time, done.time, values)

    inside = np.minimum(time, horizon)
    arrived = np.where(left, profile.count(np.nextafter(inside, -1)), profile.count(inside))
    running, evicted = along(done["N"]), along(done["m"])
    completed = along(done["completed"])
    in_system = np.maximum(initial.mass + arrived - completed, 0.0)
    swapped = evicted if done.swapping else np.zeros_like(evicted)
    return Trajectory(
        time,
        {
            "waiting": np.maximum(in_system - running - swapped, 0.0),
            "running": running,
            "swapped": swapped,
            "in_system": in_system,
            "completed": completed,
            "evicted": along(done["evicted"]),
            "memory": along(done["U"] - done["N"]),
            "batch_size": along(done["n"]),
            "batch_tokens": along(done["b"]),
            "batch_duration": along(done["tau"]),
        },
    )


def _labels(problem: EulerianProblem, done: March) -> tuple[str, ...]:
    """Return where the outputs are not what the equations determine."""
    if not evicting(done):
        return ()
    return (UNDER_EVICTION,) if problem.drain else (UNDER_EVICTION, CUT_SHORT)


def _totals(problem: EulerianProblem, done: March) -> dict[str, float]:
    """Return every total of :data:`serving.TOTALS`."""
    time, end = done.time, float(done.time[-1])
    values = problem.values
    wasted = float(done["wasted"][-1]) if not done.swapping else 0.0
    repeated, repeated_work = decoded_anew(problem, done)
    batches = float(done["theta"][-1])
    worked = float(np.trapezoid(done["b"], done["theta"]))
    busy = done["N"] > 10 * problem.nobody
    memory = float(np.trapezoid(done["U"] - done["N"], time))
    share = 0.5 * (busy[1:].astype(float) + busy[:-1]) @ np.diff(time) if end > 0 else 0.0
    return {
        "duration": end,
        "completed": float(done["completed"][-1]),
        "output_tokens": float(done["executed"][-1]) - repeated,
        "memory_utilization": memory / (values["M"] * end) if end > 0 else 0.0,
        "gpu_utilization": float(share) / end if end > 0 else 0.0,
        "processing_efficiency": (worked - repeated_work) / max(batches, 1e-300) / values["B"],
        "evictions": float(done["evicted"][-1]),
        "recompute_waste": wasted,
    }
