"""The iteration-clock engine: cohorts shift exactly, one step is one batch.

Without memory pressure this is the exact mean of the discrete system and it has no numerical
diffusion; its cost does not depend on the size of the system.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ode import _lagrangian_state as kernel
from ode import _parcels as parcels
from ode._cruise import lanes_of
from ode._lagrangian_kernel import advance
from ode.initial_state import InitialState
from ode.solution import Solution
from serving import (
    DecodeNode,
    LatencySamples,
    RateProfile,
    RequestMix,
    SolveError,
    Trajectory,
    UnsupportedError,
)

SHORTEST_RESOLVED = 128
"""Mean decode length [steps] below which a step is never more than one batch."""

ARRIVAL_POINTS = (np.arange(4) + 0.5) / 4
"""Where within its arrival interval a sample is read: the middles of four equal parts."""


@dataclass(frozen=True, slots=True, eq=False)
class _March:
    """What the kernel left behind."""

    rows: NDArray[np.float64]
    samples: NDArray[np.float64]
    state: NDArray[np.float64]


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
    max_steps: int = 20_000_000,
) -> Solution:
    """Solve on the iteration clock; see :func:`ode.solve` for the shared parameters.

    Parameters
    ----------
    batches_per_step
        Batches that one step covers; by default 1, and more only where the mean decode length
        would still span 128 steps.
    max_steps
        Give up after so many.

    Raises
    ------
    SolveError
        If ``max_steps`` is reached or a batch takes no time.
    """
    if batches_per_step is None:
        batches_per_step = max(1, int(mix.mean_decode / SHORTEST_RESOLVED))
    if batches_per_step < 1:
        raise UnsupportedError(
            f"batches_per_step: {batches_per_step} is not allowed; allowed: >= 1"
        )

    def march(record_latencies: bool) -> _March:
        return _march(
            profile, mix, instance, initial, horizon, drain, batches_per_step, max_steps,
            record_latencies,
        )  # fmt: skip

    done = march(record_latencies=False)
    rows, state = done.rows, done.state
    batches = len(rows) * batches_per_step
    end = float(state[kernel.NOW])
    duration = rows[:, kernel.R_DURATION]
    capacity = min(instance.M_total, instance.token_budget)
    totals = {
        "duration": end,
        "completed": float(state[kernel.COMPLETED]),
        "output_tokens": _tokens_emitted(mix, float(state[kernel.COMPLETED])),
        "memory_utilization": float(rows[:, kernel.R_MEMORY] @ duration / instance.M_total / end)
        if end > 0
        else 0.0,
        "gpu_utilization": float(duration.sum() / end) if end > 0 else 0.0,
        "processing_efficiency": float(state[kernel.USEFUL] / max(1, batches) / capacity),
        "evictions": float(state[kernel.EVICTED]),
        "recompute_waste": float(state[kernel.WASTED]),
    }
    stats = {
        "steps": len(rows),
        "batches_per_step": batches_per_step,
        "batches": batches,
        "unfinished": float(state[kernel.ARRIVED] - state[kernel.COMPLETED]),
    }
    return Solution(
        method="lagrangian",
        trajectory=_trajectory(done, batches_per_step, profile, initial, horizon),
        status="done",
        message=f"reached t = {end:g} in {len(rows)} steps",
        stats=stats,
        labels=labels,
        totals=totals,
        latencies=lambda: _latencies(march(record_latencies=True), batches_per_step),
    )


def _tokens_emitted(mix: RequestMix, completed: float) -> float:
    return completed * mix.mean_decode


def _march(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    initial: InitialState,
    horizon: float,
    drain: bool,
    batches_per_step: int,
    max_steps: int,
    record_latencies: bool,
) -> _March:
    tables, lanes = _tables(mix, batches_per_step)
    law = instance.batch_time
    spec = np.zeros(kernel.SPEC_SIZE)
    spec[kernel.M_TOTAL] = instance.M_total
    spec[kernel.BUDGET] = np.inf if instance.B is None else instance.B
    spec[kernel.THRESHOLD] = instance.admission_threshold
    spec[kernel.D_0], spec[kernel.D_KV] = law.d_0, law.d_kv
    spec[kernel.D_EXTRA], spec[kernel.D_SWAP] = law.per_request_extra, law.d_swap
    spec[kernel.SACRIFICE] = instance.mode == "sacrifice"
    spec[kernel.HORIZON] = horizon
    spec[kernel.END] = np.inf if drain else horizon
    spec[kernel.BATCHES] = batches_per_step
    spec[kernel.NEGLIGIBLE] = 1e-9 * instance.M_total

    state = np.zeros(kernel.STATE_SIZE)
    queues = _initial_queues(initial, tables, state)
    (running, running_ends), (waiting, waiting_ends), (swapped, swapped_ends) = queues
    rows = np.empty((4096, kernel.ROW_SIZE))
    samples = np.empty((1 << 16 if record_latencies else 0, kernel.SAMPLE_SIZE))
    row_count, sample_count = np.zeros(1, np.int64), np.zeros(1, np.int64)
    while True:
        status, running, waiting, swapped = advance(
            running, running_ends, waiting, waiting_ends, swapped, swapped_ends, tables, lanes,
            profile.time, profile.cumulative, spec, state, rows, row_count, samples, sample_count,
        )  # fmt: skip
        if status == kernel.FINISHED:
            break
        if status == kernel.STALLED:
            raise SolveError("lagrangian", "stalled", "a batch takes no time; give d_0 > 0")
        if row_count[0] >= max_steps:
            raise SolveError(
                "lagrangian", "step_limit", f"t = {state[kernel.NOW]:g} after {max_steps} steps"
            )
        if status == kernel.ROWS_FULL:
            rows = np.concatenate([rows, np.empty_like(rows)])
        else:
            samples = np.concatenate([samples, np.empty_like(samples)])
    return _March(rows[: row_count[0]], samples[: sample_count[0]], state)


@lru_cache(maxsize=16)
def _tables(
    mix: RequestMix, batches_per_step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a mix's tables; a mix is immutable and known by identity."""
    tables = parcels.mix_tables(mix)
    return tables, lanes_of(tables, batches_per_step)


def _initial_queues(
    initial: InitialState,
    tables: NDArray[np.float64],
    state: NDArray[np.float64],
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return RUNNING, WAITING and SWAPPED at time 0; their totals go into ``state``."""
    queues = [parcels.empty_queue() for _ in range(3)]
    fresh = np.array([[initial.waiting, 0.0, 0.0]] if initial.waiting > 0 else np.empty((0, 3)))
    for index, (queue_rows, admitted) in enumerate(
        [(initial.running, 0.0), (fresh, -1.0), (initial.swapped, 0.0)]
    ):
        queue, ends = queues[index]
        for alive, age, furthest in queue_rows:
            share = parcels.at(tables, parcels.SURVIVE, furthest)
            if share <= 0 < alive:
                raise SolveError(
                    "lagrangian",
                    "initial_state",
                    f"no request of this mix is longer than {furthest:g} tokens",
                )
            parcel = np.zeros(parcels.COLUMNS)
            parcel[parcels.MASS] = alive / share
            parcel[parcels.AGE], parcel[parcels.FURTHEST] = age, furthest
            parcel[parcels.ADMITTED] = admitted
            parcel[parcels.ALIVE] = alive
            parcel[parcels.PREFILL] = parcel[parcels.MASS] * parcels.at(
                tables, parcels.HELD, furthest
            )
            if ends[parcels.TAIL] == queue.shape[1]:
                queue = parcels.with_room(queue, ends, 0, len(queue_rows))
            parcels.push_tail(queue, ends, parcel)
            held = parcel[parcels.PREFILL] + age * alive
            if index == 0:
                state[kernel.RUNNING] += alive
                state[kernel.MEMORY] += held
            elif index == 2:
                state[kernel.SWAPPED] += alive
        queues[index] = (queue, ends)
    return queues


def _trajectory(
    done: _March,
    batches_per_step: int,
    profile: RateProfile,
    initial: InitialState,
    horizon: float,
) -> Trajectory:
    """Return the outputs, linear through the middles of the batches (their mean over a batch)."""
    rows, end = _with_idle_gaps(done), float(done.state[kernel.NOW])
    start, duration = rows[:, kernel.R_START], rows[:, kernel.R_DURATION]
    first_batch = start + 0.5 * duration / batches_per_step
    whole_step = start + 0.5 * duration
    knots = profile.time[profile.time < min(horizon, end)]
    time = np.concatenate([first_batch, knots, knots, [0.0, horizon, end]])
    left = np.zeros(time.size, bool)
    left[start.size : start.size + knots.size] = True
    order = np.lexsort((~left, time))
    time, left = time[order], left[order]
    state = {
        "running": kernel.R_RUNNING,
        "swapped": kernel.R_SWAPPED,
        "completed": kernel.R_COMPLETED,
        "evicted": kernel.R_EVICTED,
        "memory": kernel.R_MEMORY,
    }
    batch = {
        "batch_size": kernel.R_SIZE,
        "batch_tokens": kernel.R_TOKENS,
        "batch_duration": kernel.R_DURATION,
    }
    outputs = {name: np.interp(time, first_batch, rows[:, c]) for name, c in state.items()}
    outputs |= {name: np.interp(time, whole_step, rows[:, c]) for name, c in batch.items()}
    outputs["batch_duration"] /= batches_per_step
    inside = np.minimum(time, horizon)
    arrived = np.where(left, _count_before(profile, inside), profile.count(inside))
    outputs["in_system"] = initial.mass + arrived - outputs["completed"]
    outputs["waiting"] = outputs["in_system"] - outputs["running"] - outputs["swapped"]
    return Trajectory(time, outputs)


def _with_idle_gaps(done: _March) -> NDArray[np.float64]:
    """Return the rows with empty ones where the node waits for work, and a last one at the end."""
    rows = done.rows
    last = np.zeros((1, kernel.ROW_SIZE))
    last[0, kernel.R_START] = done.state[kernel.NOW]
    for column, value in (
        (kernel.R_RUNNING, kernel.RUNNING),
        (kernel.R_SWAPPED, kernel.SWAPPED),
        (kernel.R_COMPLETED, kernel.COMPLETED),
        (kernel.R_MEMORY, kernel.MEMORY),
        (kernel.R_EVICTED, kernel.EVICTED),
    ):
        last[0, column] = done.state[value]
    rows = np.concatenate([rows, last])
    ends = rows[:-1, kernel.R_START] + rows[:-1, kernel.R_DURATION]
    gap = rows[1:, kernel.R_START] - ends
    before = np.flatnonzero(gap > 1e-9 * (1 + ends))
    if rows[0, kernel.R_START] > 0:
        rows = np.concatenate([np.zeros((1, kernel.ROW_SIZE)), rows])
        before, ends, gap = before + 1, np.append(0.0, ends), np.append(0.0, gap)
    if before.size == 0:
        return rows
    idle = rows[before + 1]
    idle[:, [kernel.R_RUNNING, kernel.R_SWAPPED, kernel.R_MEMORY, kernel.R_TOKENS,
             kernel.R_SIZE, kernel.R_DURATION]] = 0.0  # fmt: skip
    half = 0.5 * np.minimum(rows[before, kernel.R_DURATION], gap[before])
    entering, leaving = idle, idle.copy()
    entering[:, kernel.R_START] = ends[before] + half
    leaving[:, kernel.R_START] = rows[before + 1, kernel.R_START] - half
    where = np.repeat(before + 1, 2)
    return np.insert(rows, where, np.stack([entering, leaving], axis=1).reshape(-1, rows.shape[1]),
                     axis=0)  # fmt: skip


def _count_before(profile: RateProfile, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the arrivals strictly before ``t``: the left limit of the cumulative curve."""
    k = np.searchsorted(profile.time, t, side="left")
    at_knot = (k < profile.time.size) & (profile.time[np.minimum(k, profile.time.size - 1)] == t)
    return np.where(
        at_knot, profile.cumulative[np.minimum(k, profile.time.size - 1)], profile.count(t)
    )


def _latencies(done: _March, batches_per_step: int) -> LatencySamples:
    rows, samples = done.rows, done.samples

    def time_of(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        step = np.clip(np.ceil(theta / batches_per_step).astype(int) - 1, 0, len(rows) - 1)
        into = theta / batches_per_step - step
        return rows[step, kernel.R_START] + into * rows[step, kernel.R_DURATION]

    first = time_of(samples[:, kernel.S_FIRST_TOKEN])
    finish = time_of(samples[:, kernel.S_FINISH])
    length = samples[:, kernel.S_LENGTH]
    begin, width = samples[:, kernel.S_FROM], samples[:, kernel.S_UNTIL] - samples[:, kernel.S_FROM]
    arrival = (begin[:, None] + width[:, None] * ARRIVAL_POINTS).ravel()
    repeat = ARRIVAL_POINTS.size
    first, finish = np.repeat(first, repeat), np.repeat(finish, repeat)
    admitted = np.repeat(samples[:, kernel.S_ADMITTED], repeat)
    gaps = np.maximum(np.repeat(length, repeat) - 1.0, 1e-9)
    several = np.repeat(length, repeat) > 1.5
    size, duration = rows[:, kernel.R_SIZE], rows[:, kernel.R_DURATION] / batches_per_step
    return LatencySamples(
        queue_delay=admitted - arrival,
        ttft=first - arrival,
        tpot=np.where(several, (finish - first) / gaps, np.nan),
        e2el=finish - arrival,
        weight=np.repeat(samples[:, kernel.S_WEIGHT], repeat) / repeat,
        itl=duration,
        itl_weight=size * batches_per_step,
    )
