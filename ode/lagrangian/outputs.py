"""What the iteration-clock kernel left behind, translated into the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ode._initial_state import InitialState
from ode._solution import GOLDEN
from ode.lagrangian import state as kernel
from serving import DecodeNode, LatencySamples, RateProfile, Trajectory

STATE_OUTPUTS = {
    "running": kernel.R_RUNNING,
    "swapped": kernel.R_SWAPPED,
    "completed": kernel.R_COMPLETED,
    "evicted": kernel.R_EVICTED,
    "memory": kernel.R_MEMORY,
}
BATCH_OUTPUTS = {
    "batch_size": kernel.R_SIZE,
    "batch_tokens": kernel.R_TOKENS,
    "batch_duration": kernel.R_DURATION,
}
FINAL = {
    kernel.R_START: kernel.NOW,
    kernel.R_RUNNING: kernel.RUNNING,
    kernel.R_SWAPPED: kernel.SWAPPED,
    kernel.R_COMPLETED: kernel.COMPLETED,
    kernel.R_MEMORY: kernel.MEMORY,
    kernel.R_EVICTED: kernel.EVICTED,
}
"""Where the state at the end of the last step goes in one more row."""


@dataclass(frozen=True, slots=True, eq=False)
class March:
    """Rows, latency samples and final state, laid out as in the kernel's state module."""

    rows: NDArray[np.float64]
    samples: NDArray[np.float64]
    state: NDArray[np.float64]

    @property
    def end(self) -> float:
        """Where the march ended [time]."""
        return float(self.state[kernel.NOW])


def totals_of(done: March, batches_per_step: int, instance: DecodeNode) -> dict[str, float]:
    """Return every total of :data:`serving.TOTALS`."""
    rows, state, end = done.rows, done.state, done.end
    duration = rows[:, kernel.R_DURATION]
    share = 1 / end if end > 0 else 0.0
    capacity = min(instance.M_total, instance.token_budget) * max(1, len(rows)) * batches_per_step
    return {
        "duration": end,
        "completed": float(state[kernel.COMPLETED]),
        "output_tokens": float(state[kernel.TOKENS]),
        "memory_utilization": float(rows[:, kernel.R_MEMORY] @ duration) * share / instance.M_total,
        "gpu_utilization": float(duration.sum()) * share,
        "processing_efficiency": float(state[kernel.USEFUL]) / capacity,
        "evictions": float(state[kernel.EVICTED]),
        "recompute_waste": float(state[kernel.WASTED]),
    }


def trajectory_of(
    done: March,
    batches_per_step: int,
    profile: RateProfile,
    initial: InitialState,
    horizon: float,
) -> Trajectory:
    """Return the outputs, linear through the middles of the batches (their mean over a batch)."""
    rows = _with_idle_gaps(done)
    start, duration = rows[:, kernel.R_START], rows[:, kernel.R_DURATION]
    middle = start + 0.5 * duration / batches_per_step
    # the curve's own knots, both sides of a jump, keep the arrivals exact
    inside = np.searchsorted(profile.time, min(horizon, done.end), side="right")
    ends = np.sort([0.0, min(horizon, done.end), done.end])
    order = np.argsort(np.concatenate([profile.time[:inside], ends]), kind="stable")
    extra = np.concatenate([profile.time[:inside], ends])[order]
    arrived = np.concatenate(
        [profile.cumulative[:inside], profile.count(np.minimum(ends, horizon))]
    )[order]
    place = np.searchsorted(middle, extra) + np.arange(extra.size)
    is_row = np.ones(middle.size + extra.size, bool)
    is_row[place] = False

    def merged(at_rows: NDArray[np.float64], at_extra: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.empty(is_row.size)
        values[is_row], values[place] = at_rows, at_extra
        return values

    time = merged(middle, extra)
    outputs = {
        name: merged(rows[:, column], np.interp(extra, middle, rows[:, column]))
        for name, column in STATE_OUTPUTS.items()
    }
    whole_step = start + 0.5 * duration
    for name, column in BATCH_OUTPUTS.items():
        outputs[name] = np.interp(time, whole_step, rows[:, column])
    outputs["batch_duration"] /= batches_per_step
    arrived = merged(profile.count(np.minimum(middle, horizon)), arrived)
    outputs["in_system"] = initial.mass + arrived - outputs["completed"]
    waiting = outputs["in_system"] - outputs["running"] - outputs["swapped"]
    outputs["waiting"] = np.maximum(waiting, 0.0)  # rounding may leave -1e-14
    return Trajectory(time, outputs)


def _with_idle_gaps(done: March) -> NDArray[np.float64]:
    """Return the rows with empty ones where the node waits for work, and a last one at the end."""
    rows = done.rows
    last = np.zeros((1, kernel.ROW_SIZE))
    for column, value in FINAL.items():
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


def latencies_of(done: March, batches_per_step: int) -> LatencySamples:
    """Return the latencies of completions and of tokens, weighted by mass.

    Positions on the iteration clock become times by the rows.
    """
    rows = done.rows
    duration = rows[:, kernel.R_DURATION]

    def time_of(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        steps = theta / batches_per_step
        step = np.clip(np.ceil(steps).astype(int) - 1, 0, len(rows) - 1)
        return rows[step, kernel.R_START] + (steps - step) * duration[step]

    is_gap = done.samples[:, kernel.S_LENGTH] < 0
    gaps, samples = done.samples[is_gap], done.samples[~is_gap]
    gap = time_of(gaps[:, kernel.S_FINISH]) - time_of(gaps[:, kernel.S_FIRST_TOKEN])
    first = time_of(samples[:, kernel.S_FIRST_TOKEN])
    finish = time_of(samples[:, kernel.S_FINISH])
    after_first = samples[:, kernel.S_LENGTH] - 1.0
    several = after_first > 0.5
    tpot = np.full(len(samples), np.nan)
    tpot[several] = (finish - first)[several] / after_first[several]
    width = samples[:, kernel.S_UNTIL] - samples[:, kernel.S_FROM]
    arrival = samples[:, kernel.S_FROM] + width * (GOLDEN * np.arange(len(samples)) % 1.0)
    return LatencySamples(
        queue_delay=samples[:, kernel.S_ADMITTED] - arrival,
        ttft=first - arrival,
        tpot=tpot,
        e2el=finish - arrival,
        weight=samples[:, kernel.S_WEIGHT].copy(),
        itl=np.concatenate([duration / batches_per_step, gap]),
        itl_weight=np.concatenate([rows[:, kernel.R_EMITTED], gaps[:, kernel.S_WEIGHT]]),
    )
