"""The workspace of the iteration clock: everything a march needs, allocated once.

Make a :class:`Workspace`, seed it, advance it and read its record; then seed it again for another
state of the same instance. Compiled callers, which may not allocate, call
:func:`ode.lagrangian.seed.seed` and :func:`ode.lagrangian.kernel.advance` on the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from ode._initial_state import InitialState
from ode.lagrangian.bounds import NEGLIGIBLE
from ode.lagrangian.cruise import aligned_extent
from ode.lagrangian.kernel import advance
from ode.lagrangian.layout import (
    COLUMNS,
    HISTOGRAM_FURTHEST,
    HISTOGRAM_MASS,
    QUEUE,
    ROW_SIZE,
    S_LENGTH,
    S_WEIGHT,
    SAMPLE_SIZE,
    UNLIMITED,
    WORKSPACE,
    Answer,
)
from ode.lagrangian.parcels import mix_lanes, mix_tables, roomy_extent
from ode.lagrangian.room import has_sample_room
from ode.lagrangian.seed import FIRST_EXTENT, seed
from ode.lagrangian.storage import (
    QUEUES,
    bind_arrivals,
    bind_block,
    bind_law,
    bind_mix,
    bind_sinks,
    block_size,
)
from serving import DecodeNode, RateProfile, RequestMix, SolveError

MOST_SAMPLES = 1 << 19
"""Latency samples [samples] up to which each completion has its own; beyond, one stands for
several, so that memory does not grow with the length of a march."""


class Workspace:
    """The arrays of one march at a time, to be used again for any state of the same instance.

    Parameters
    ----------
    mix
        Joint distribution of prefill and decode lengths.
    instance
        The node.
    profile
        Expected arrivals over time.
    horizon : [time]
        End of arrivals.
    end : [time]
        Where to stop; by default the march goes on until nobody is left.
    batches_per_step
        Batches that one step covers.
    capacity : [parcels]
        Places of each queue; by default enough for a march that nothing binds.
    rows, samples
        Rows and latency samples to keep at first; 0 keeps none, ever.
    most_steps
        Steps after which a march stops.
    classes
        Lengths of the classes 1, 2, ... of which requests may be that are there at time 0; who
        arrives is of ``mix``.

    Attributes
    ----------
    record : shape (1,)
        Clock, settings and addresses, :data:`ode.lagrangian.layout.WORKSPACE`: the argument of the
        compiled functions. ``end``, ``horizon`` and ``most_steps`` may be written at any time.
    """

    def __init__(
        self,
        mix: RequestMix,
        instance: DecodeNode,
        profile: RateProfile,
        *,
        horizon: float,
        end: float = inf,
        batches_per_step: int = 1,
        capacity: int | None = None,
        rows: int = 0,
        samples: int = 0,
        most_steps: int = UNLIMITED,
        classes: Sequence[RequestMix] = (),
    ) -> None:
        self.tables, self.lanes = _mix_arrays(mix, batches_per_step)
        if classes:
            longest = len(self.tables)
            self.tables = np.concatenate(
                [self.tables, *(_as_long(each, longest) for each in classes)]
            )
        self.knots = np.ascontiguousarray(profile.time, np.float64)
        self.cumulative = np.ascontiguousarray(profile.cumulative, np.float64)
        self.law = instance.batch_time.vector()
        self.queues = np.zeros(QUEUES, QUEUE)
        self.rows = np.empty((rows, ROW_SIZE))
        self.samples = np.empty((samples, SAMPLE_SIZE))
        self.record = np.zeros(1, WORKSPACE)
        s = self.record[0]
        s["M_total"], s["admission_threshold"] = instance.M_total, instance.admission_threshold
        s["B"] = inf if instance.B is None else instance.B
        s["sacrifice"] = instance.mode == "sacrifice"
        s["negligible"] = NEGLIGIBLE * instance.M_total
        s["horizon"], s["end"], s["most_steps"] = horizon, end, most_steps
        s["batches_per_step"] = batches_per_step
        s["queues_at"] = self.queues.ctypes.data
        bind_mix(self.record, self.tables, self.lanes, 1 + len(classes))
        bind_arrivals(self.record, self.knots, self.cumulative)
        bind_law(self.record, self.law)
        bind_sinks(self.record, self.rows, self.samples)
        self._allocate(_default_capacity(self.lanes.shape[1]) if capacity is None else capacity)

    def _allocate(self, capacity: int) -> None:
        """Give queues, spare storage and scratch ``capacity`` places; the parcels stay."""
        capacity = max(8, capacity + -capacity % 8)
        block = np.empty(block_size(capacity))
        bind_block(self.record, block, capacity)
        self._block = block

    def grow(self, answer: Answer) -> None:
        """Enlarge what a compiled function answered to be full; its contents stay."""
        if answer == Answer.QUEUE_FULL:
            self._allocate(int(self.record[0]["places_needed"]))
            return
        if answer == Answer.ROWS_FULL:
            self.rows = _doubled(self.rows)
        elif len(self.samples) < MOST_SAMPLES or not self._thin_samples():
            self.samples = _doubled(self.samples)
        bind_sinks(self.record, self.rows, self.samples)

    def _thin_samples(self) -> bool:
        """Let single latency samples stand for several; return whether there is much more room.

        Room for the next step too, which asks for two samples of each parcel, those in a long queue
        included. From now on the march does so as well, see :data:`ode.lagrangian.layout.CLOCK`.
        What the samples weigh together stays.
        """
        clock = self.record[0]
        kept = self.samples[: clock["samples"]]
        is_gap = kept[:, S_LENGTH] < 0
        parts = []
        for kind, name in ((~is_gap, "sample"), (is_gap, "gap")):
            part = kept[kind]
            unit = 4.0 * float(part[:, S_WEIGHT].sum()) / MOST_SAMPLES
            part, clock[f"{name}_debt"] = thinned(part, unit, float(clock[f"{name}_debt"]))
            clock[f"{name}_unit"] = unit
            parts.append(part)
        thin = np.concatenate(parts)
        self.samples[: len(thin)] = thin
        clock["samples"] = len(thin)
        return 2 * len(thin) <= len(self.samples) and bool(has_sample_room(clock))

    def seed(self, initial: InitialState, until_boundary: float = 0.0) -> None:
        """Set the state at time 0, see :func:`ode.lagrangian.seed.seed`.

        Raises
        ------
        SolveError
            If requests of ``initial`` are longer than any of the mix.
        """
        running, swapped, waiting = initial.running, initial.swapped, float(initial.waiting)
        while True:
            answer = seed(self.record, running, swapped, waiting, until_boundary)
            if answer != Answer.QUEUE_FULL:
                break
            self.grow(Answer.QUEUE_FULL)
        if answer == Answer.TOO_LONG:
            rows = np.concatenate([running, swapped])
            furthest = rows[rows[:, HISTOGRAM_MASS] > 0, HISTOGRAM_FURTHEST]
            raise SolveError(
                "lagrangian",
                "initial_state",
                f"no request of this mix is longer than {furthest.max():g} tokens",
            )

    def advance(self) -> Answer:
        """March until the end and enlarge what is full on the way.

        Returns
        -------
        Answer
            DONE or STEP_LIMIT.

        Raises
        ------
        SolveError
            If a batch takes no time.
        """
        while True:
            answer = Answer(advance(self.record))
            if answer in (Answer.DONE, Answer.STEP_LIMIT):
                return answer
            if answer == Answer.STALLED:
                raise SolveError("lagrangian", "stalled", "a batch takes no time; give d_0 > 0")
            self.grow(answer)

    def parcels(self, queue: int) -> NDArray[np.float64]:
        """Return a copy of the parcels of a queue, shape (COLUMNS, n), oldest first.

        Parameters
        ----------
        queue
            RUNNING, WAITING or SWAPPED of :mod:`ode.lagrangian.layout`.
        """
        at, extent, head, tail = (int(value) for value in self.queues[queue])
        first = (at - self._block.ctypes.data) // 8
        storage = self._block[first : first + COLUMNS * extent].reshape(COLUMNS, extent)
        return storage[:, head:tail].copy()


def thinned(
    samples: NDArray[np.float64], unit: float, debt: float
) -> tuple[NDArray[np.float64], float]:
    """Return samples of which those that weigh less than ``unit`` are gathered to units.

    Whenever the weights so far reach another unit, the sample at hand stands for them: those that
    follow one another are alike.

    Returns
    -------
    samples, debt
        And the weight that is left without a sample.
    """
    weight = samples[:, S_WEIGHT]
    small = weight < unit
    units = np.floor((debt + np.cumsum(np.where(small, weight, 0.0))) / max(unit, 1e-300))
    rises = np.diff(units, prepend=0.0)
    out = samples[~small | (rises > 0)].copy()
    out[:, S_WEIGHT] = np.where(small, rises * unit, weight)[~small | (rises > 0)]
    left = debt + float(weight[small].sum()) - unit * float(units[-1]) if len(weight) else debt
    return out, max(left, 0.0)


def _as_long(mix: RequestMix, rows: int) -> NDArray[np.float64]:
    """Return the tables of a mix with so many rows; nobody is beyond its own."""
    tables = mix_tables(mix)
    if len(tables) > rows:
        raise SolveError("lagrangian", "classes", "a class has longer answers than the whole mix")
    return np.concatenate([tables, np.repeat(tables[-1:], rows - len(tables), axis=0)])


def _doubled(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a table of twice as many rows that begins with the given ones."""
    larger = np.empty((2 * len(table) + 8, table.shape[1]))
    larger[: len(table)] = table
    return larger


@lru_cache(maxsize=16)
def _mix_arrays(
    mix: RequestMix, batches_per_step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a mix's tables and lanes; a mix is immutable and known by identity."""
    tables = mix_tables(mix)
    return tables, mix_lanes(tables, batches_per_step)


def _default_capacity(lanes: int) -> int:
    """Return the places that a march needs which nothing binds, on lanes of so many steps."""
    needed = 2 * (lanes + 1) + 6
    return max(roomy_extent(aligned_extent(lanes), needed), roomy_extent(FIRST_EXTENT, needed))
