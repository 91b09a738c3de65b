"""How a block of memory becomes the queues and the scratch of a workspace."""

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
def use_block(workspace, block, capacity):
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
