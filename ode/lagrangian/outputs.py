"""What a march on the iteration clock left behind, translated into the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ode._initial_state import InitialState
from ode._solution import GOLDEN
from ode.lagrangian import layout
from serving import DecodeNode, LatencySamples, RateProfile, Trajectory

STATE_OUTPUTS = {
    "running": layout.R_RUNNING,
    "swapped": layout.R_SWAPPED,
    "completed": layout.R_COMPLETED,
    "evicted": layout.R_EVICTED,
    "memory": layout.R_MEMORY,
}
BATCH_OUTPUTS = {
    "batch_size": layout.R_SIZE,
    "batch_tokens": layout.R_TOKENS,
    "batch_duration": layout.R_DURATION,
}
FINAL = {
    layout.R_START: "now",
    layout.R_RUNNING: "running",
    layout.R_SWAPPED: "swapped",
    layout.R_COMPLETED: "completed",
    layout.R_MEMORY: "memory",
    layout.R_EVICTED: "evicted",
}
"""Where the state at the end of the last step goes in one more row."""


@dataclass(frozen=True, slots=True, eq=False)
class March:
    """Rows, latency samples and final state, see :mod:`ode.lagrangian.layout`."""

    rows: NDArray[np.float64]
    samples: NDArray[np.float64]
    state: np.void

    @property
    def end(self) -> float:
        """Where the march ended [time]."""
        return float(self.state["now"])


def totals_of(done: March, batches_per_step: int, instance: DecodeNode) -> dict[str, float]:
    """Return every total of :data:`serving.TOTALS`."""
    rows, state, end = done.rows, done.state, done.end
    duration = rows[:, layout.R_DURATION]
    share = 1 / end if end > 0 else 0.0
    capacity = min(instance.M_total, instance.token_budget) * max(1, len(rows)) * batches_per_step
    return {
        "duration": end,
        "completed": float(state["completed"]),
        "output_tokens": float(state["tokens"]),
        "memory_utilization": float(rows[:, layout.R_MEMORY] @ duration) * share / instance.M_total,
        "gpu_utilization": float(duration.sum()) * share,
        "processing_efficiency": float(state["useful"]) / capacity,
        "evictions": float(state["evicted"]),
        "recompute_waste": float(state["wasted"]),
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
    start, duration = rows[:, layout.R_START], rows[:, layout.R_DURATION]
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
    last = np.zeros((1, layout.ROW_SIZE))
    for column, value in FINAL.items():
        last[0, column] = done.state[value]
    rows = np.concatenate([rows, last])
    if rows[0, layout.R_START] > 0:  # the node waits for its first work
        rows = np.concatenate([np.zeros((1, layout.ROW_SIZE)), rows])
    ends = rows[:-1, layout.R_START] + rows[:-1, layout.R_DURATION]
    gap = rows[1:, layout.R_START] - ends
    before = np.flatnonzero(gap > 1e-9 * (1 + ends))
    if before.size == 0:
        return rows
    idle = rows[before + 1]
    idle[:, [layout.R_RUNNING, layout.R_SWAPPED, layout.R_MEMORY, layout.R_TOKENS,
             layout.R_SIZE, layout.R_DURATION]] = 0.0  # fmt: skip
    half = 0.5 * np.minimum(rows[before, layout.R_DURATION], gap[before])
    entering, leaving = idle, idle.copy()
    entering[:, layout.R_START] = ends[before] + half
    leaving[:, layout.R_START] = rows[before + 1, layout.R_START] - half
    where = np.repeat(before + 1, 2)
    return np.insert(rows, where, np.stack([entering, leaving], axis=1).reshape(-1, rows.shape[1]),
                     axis=0)  # fmt: skip


def latencies_of(done: March, batches_per_step: int) -> LatencySamples:
    """Return the latencies of completions and of tokens, weighted by mass.

    Positions on the iteration clock become times by the rows.
    """
    rows = done.rows
    duration = rows[:, layout.R_DURATION]

    def time_of(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        steps = theta / batches_per_step
        step = np.clip(np.ceil(steps).astype(int) - 1, 0, len(rows) - 1)
        return rows[step, layout.R_START] + (steps - step) * duration[step]

    is_gap = done.samples[:, layout.S_LENGTH] < 0
    gaps, samples = done.samples[is_gap], done.samples[~is_gap]
    gap = time_of(gaps[:, layout.S_FINISH]) - time_of(gaps[:, layout.S_FIRST_TOKEN])
    first = time_of(samples[:, layout.S_FIRST_TOKEN])
    finish = time_of(samples[:, layout.S_FINISH])
    after_first = samples[:, layout.S_LENGTH] - 1.0
    several = after_first > 0.5
    tpot = np.full(len(samples), np.nan)
    tpot[several] = (finish - first)[several] / after_first[several]
    width = samples[:, layout.S_UNTIL] - samples[:, layout.S_FROM]
    arrival = samples[:, layout.S_FROM] + width * (GOLDEN * np.arange(len(samples)) % 1.0)
    return LatencySamples(
        queue_delay=samples[:, layout.S_ADMITTED] - arrival,
        ttft=first - arrival,
        tpot=tpot,
        e2el=finish - arrival,
        weight=samples[:, layout.S_WEIGHT].copy(),
        itl=np.concatenate([duration / batches_per_step, gap]),
        itl_weight=np.concatenate([rows[:, layout.R_EMITTED], gaps[:, layout.S_WEIGHT]]),
    )
