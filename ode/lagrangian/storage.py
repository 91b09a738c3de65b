"""How arrays become the tables of a workspace: compiled, so that binding them takes no time.

Whoever binds an array keeps it as long as the workspace is in use.
"""

from __future__ import annotations

from ode.lagrangian.layout import COLUMNS
from ode.lagrangian.memory import running_of, swapped_of, waiting_of
from ode.lagrangian.parcels import parcels_of
from serving.compilation import compiled
from serving.compiled_memory import matrix_at

QUEUES = 3
"""Queues of a workspace [queues]: RUNNING, WAITING and SWAPPED."""

LINE = 64
"""Bytes of a cache line [bytes]."""

OTHERS = 8
"""Cache lines of a block besides its storages and costs, rounding included [lines]."""


@compiled
def block_size(capacity):
    """Return the float64 numbers of a block of ``capacity`` places, a multiple of 8."""
    return (QUEUES + 1) * COLUMNS * capacity + 3 * capacity + OTHERS * LINE // 8


@compiled
def _move(queue, target):
    """Move the parcels of a queue to other storage; their places stay."""
    if queue.tail > queue.head:
        matrix_at(target, COLUMNS, queue.extent)[:] = parcels_of(queue)
    queue.at = target


@compiled
def bind_block(workspace, block, capacity):
    """Give queues, spare storage and scratch ``capacity`` places of a block; the parcels stay.

    Parameters
    ----------
    workspace : shape (1,)
        Of :data:`ode.lagrangian.layout.WORKSPACE`; the block in use before is free afterwards.
    block : shape (:func:`block_size`,)
        Memory that nothing else uses.
    capacity : [parcels]
        A multiple of 8.
    """
    w = workspace[0]
    place = (block.ctypes.data + LINE - 1) // LINE * LINE
    storage, scratch = 8 * COLUMNS * capacity, 8 * capacity
    for queue in (running_of(w), waiting_of(w), swapped_of(w)):
        _move(queue, place)
        place += storage
    w.spare_at = place
    w.cost_at = place + storage
    w.before_at = w.cost_at + scratch
    w.piece_at = w.before_at + 2 * scratch
    w.spare_row_at = w.piece_at + 2 * LINE
    w.capacity = capacity


@compiled
def bind_sinks(workspace, rows, samples):
    """Let a march write its rows (., ROW_SIZE) and latency samples (., SAMPLE_SIZE) here."""
    w = workspace[0]
    w.rows_at, w.rows_size = rows.ctypes.data, rows.shape[0]
    w.samples_at, w.samples_size = samples.ctypes.data, samples.shape[0]


@compiled
def bind_arrivals(workspace, knots, cumulative):
    """Let requests arrive by this curve: ``cumulative`` [requests] at ``knots`` [time]."""
    w = workspace[0]
    w.knots_at, w.cumulative_at = knots.ctypes.data, cumulative.ctypes.data
    w.knots_size = knots.size
    w.knot = 0


@compiled
def bind_mix(workspace, tables, lanes, classes=1):
    """Let requests be of this mix, see :func:`ode.lagrangian.parcels.mix_tables`, ``mix_lanes``.

    The tables of classes lie below those of the mix and are as long.
    """
    w = workspace[0]
    w.tables_at, w.tables_size = tables.ctypes.data, tables.shape[0] // classes
    w.classes = classes
    w.lanes_at, w.lanes_size = lanes.ctypes.data, lanes.shape[1]


@compiled
def bind_law(workspace, law):
    """Let batches take as long as this law says, see :meth:`serving.BatchTimeLaw.vector`."""
    workspace[0].law_at = law.ctypes.data
