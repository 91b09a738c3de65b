"""The iteration-clock engine: cohorts shift exactly, one step is one batch.

Without memory pressure this is the exact mean of the discrete system and it has no numerical
diffusion; its cost does not depend on the size of the system.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ode._caveats import requests_that_fit
from ode._initial_state import InitialState
from ode._solution import Solution
from ode.lagrangian import parcels
from ode.lagrangian import state as kernel
from ode.lagrangian.cruise import lanes_of
from ode.lagrangian.kernel import advance
from ode.lagrangian.outputs import March, latencies_of, totals_of, trajectory_of
from serving import (
    DecodeNode,
    RateProfile,
    RequestMix,
    SolveError,
    UnsupportedError,
)

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
    max_steps: int = 20_000_000,
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
    UnsupportedError
        If ``batches_per_step`` is too coarse for the mix.
    """
    if batches_per_step is None:
        batches_per_step = max(1, int(mix.mean_decode / SHORTEST_RESOLVED))
    coarsest = max(1, int(mix.mean_decode / COARSEST_RESOLVED))
    if not 1 <= batches_per_step <= coarsest:
        raise UnsupportedError(
            f"batches_per_step: {batches_per_step} is not allowed; allowed: 1 to {coarsest}, "
            f"the mean decode length over {COARSEST_RESOLVED}"
        )

    def march(record_latencies: bool) -> March:
        return _march(
            profile, mix, instance, initial, horizon, drain, batches_per_step, max_steps,
            record_latencies,
        )  # fmt: skip

    done = march(record_latencies=False)
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
            "unfinished": float(done.state[kernel.ARRIVED] - done.state[kernel.COMPLETED]),
        },
        labels=labels,
        totals=totals_of(done, batches_per_step, instance),
        latencies=lambda: latencies_of(march(record_latencies=True), batches_per_step),
    )


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
) -> March:
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
            profile.time, profile.cumulative, law.table_segments(), spec, state, rows, row_count,
            samples, sample_count,
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
    return March(rows[: row_count[0]], samples[: sample_count[0]], state)


@lru_cache(maxsize=16)
def _tables(
    mix: RequestMix, batches_per_step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a mix's tables; a mix is immutable and known by identity."""
    tables = parcels.mix_tables(mix)
    return tables, lanes_of(tables, batches_per_step)


def _initial_queues(
    initial: InitialState, tables: NDArray[np.float64], state: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return RUNNING, WAITING and SWAPPED at time 0; their totals go into ``state``."""
    fresh = np.array([[initial.waiting, 0.0, 0.0]])[: initial.waiting > 0]
    running, alive, held = _queue_of(initial.running, tables, is_arrival=False)
    waiting, _, _ = _queue_of(fresh, tables, is_arrival=True)
    swapped, evicted, _ = _queue_of(initial.swapped, tables, is_arrival=False)
    state[kernel.RUNNING], state[kernel.MEMORY], state[kernel.SWAPPED] = alive, held, evicted
    return [running, waiting, swapped]


def _queue_of(
    rows: NDArray[np.float64], tables: NDArray[np.float64], *, is_arrival: bool
) -> tuple[tuple[NDArray[np.float64], NDArray[np.int64]], float, float]:
    """Return a queue of rows (mass, age, furthest), mass alive and memory held."""
    queue, ends = parcels.empty_queue(504 + 4 * len(rows) // 16 * 16)
    mass_alive = memory = 0.0
    for alive, age, furthest in rows:
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
        parcel[parcels.ALIVE] = alive
        longer = parcels.at(tables, parcels.HELD, furthest)
        parcel[parcels.PREFILL] = parcel[parcels.MASS] * longer
        parcel[parcels.ADMITTED] = -1.0 if is_arrival else 0.0
        if not is_arrival:  # nobody knows when they arrived: no latency is theirs
            parcel[parcels.FROM] = parcel[parcels.UNTIL] = -1.0
        parcels.push_tail(queue, ends, parcel)
        mass_alive += alive
        memory += parcel[parcels.PREFILL] + age * alive
    return (queue, ends), mass_alive, memory
