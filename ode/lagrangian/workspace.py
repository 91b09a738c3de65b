"""The workspace of the iteration clock: everything a march needs, allocated once.

A march is four lines: make a :class:`Workspace`, :meth:`Workspace.seed` it, :meth:`Workspace.advance`
it, read :attr:`Workspace.record`. All of it can be seeded again, for another state of the same
instance. Compiled callers that may not allocate call :func:`ode.lagrangian.seed.seed` and
:func:`ode.lagrangian.kernel.advance` on ``record`` themselves.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from ode._initial_state import InitialState
from ode.lagrangian.cruise import aligned_extent
from ode.lagrangian.kernel import advance
from ode.lagrangian.layout import (
    HISTOGRAM_FURTHEST,
    HISTOGRAM_MASS,
    QUEUE,
    ROW_SIZE,
    SAMPLE_SIZE,
    UNLIMITED,
    WORKSPACE,
    Answer,
)
from ode.lagrangian.parcels import mix_lanes, mix_tables, roomy_extent
from ode.lagrangian.seed import FIRST_EXTENT, seed
from ode.lagrangian.storage import QUEUES, block_size, use_block
from serving import DecodeNode, RateProfile, RequestMix, SolveError
from serving.compiled_memory import address_of

FIELDS = WORKSPACE.names or ()
"""Names of the scalars and addresses of a workspace."""

TABLES = ("queues", "rows", "samples", "knots", "cumulative", "tables", "lanes", "law")
"""Arrays of a workspace whose addresses the record holds, besides queues and scratch."""


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
    ) -> None:
        self.tables, self.lanes = _mix_arrays(mix, batches_per_step)
        self.knots = np.ascontiguousarray(profile.time, np.float64)
        self.cumulative = np.ascontiguousarray(profile.cumulative, np.float64)
        self.law = instance.batch_time.vector()
        self.queues = np.zeros(QUEUES, QUEUE)
        self.rows = np.empty((rows, ROW_SIZE))
        self.samples = np.empty((samples, SAMPLE_SIZE))
        values = {
            "M_total": instance.M_total,
            "B": inf if instance.B is None else instance.B,
            "admission_threshold": instance.admission_threshold,
            "sacrifice": instance.mode == "sacrifice",
            "negligible": 1e-9 * instance.M_total,
            "horizon": horizon,
            "end": end,
            "batches_per_step": batches_per_step,
            "most_steps": most_steps,
            "rows_size": rows,
            "samples_size": samples,
            "knots_size": self.knots.size,
            "tables_size": len(self.tables),
            "lanes_size": self.lanes.shape[1],
        }
        for name in TABLES:
            values[f"{name}_at"] = address_of(getattr(self, name))
        # one assignment: a field at a time would take longer than a short march
        self.record = np.array([tuple(values.get(name, 0) for name in FIELDS)], WORKSPACE)
        self._allocate(_default_capacity(self.lanes.shape[1]) if capacity is None else capacity)

    def _allocate(self, capacity: int) -> None:
        """Give queues, spare storage and scratch ``capacity`` places; the parcels stay."""
        capacity = max(8, capacity + -capacity % 8)
        block = np.empty(block_size(capacity))
        use_block(self.record, block, capacity)
        self._block = block

    def grow(self, answer: Answer) -> None:
        """Enlarge what a compiled function answered to be full; its contents stay."""
        s = self.record[0]
        if answer == Answer.QUEUE_FULL:
            self._allocate(int(s["places_needed"]))
            return
        name = "rows" if answer == Answer.ROWS_FULL else "samples"
        table = getattr(self, name)
        larger = np.empty((2 * len(table) + 8, table.shape[1]))
        larger[: len(table)] = table
        setattr(self, name, larger)
        s[f"{name}_at"], s[f"{name}_size"] = address_of(larger), len(larger)

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
