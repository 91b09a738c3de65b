"""The time of a step whose law bends in its prompt tokens: a mean over what they may be, compiled.

:mod:`fluid.prompt_server.lumps` says the same in NumPy, and how the numbers come about.
"""

from __future__ import annotations

import numpy as np

from fluid.prompt_server.lumps import FIRST, LAST, MOST, NODES, PASSES, PER_OCTAVE
from serving.batch_kernel import step_duration
from serving.compilation import compiled
from serving.compiled_memory import vector_at

ROW = 8 * NODES
"""Length of a row of the table [bytes]."""


@compiled
def _set_parts(w, entering, most):
    """Set the equally likely numbers of prompt tokens over their mean, none above ``most``."""
    place = min(PER_OCTAVE * np.log2(1.0 + FIRST * entering), float(LAST))
    row = min(np.int64(place), LAST - 1)
    part, narrow = place - row, np.sqrt(MOST / max(entering, MOST))
    low = vector_at(w.scatter_at + row * ROW, NODES)
    high = vector_at(w.scatter_at + (row + 1) * ROW, NODES)
    parts = vector_at(w.parts_at, NODES)
    for k in range(NODES):
        parts[k] = 1.0 + ((1.0 - part) * low[k] + part * high[k] - 1.0) * narrow
    for _ in range(PASSES):
        over, below = 0.0, 0
        for k in range(NODES):
            over += max(parts[k] - most, 0.0)
            below += parts[k] < most
        if over == 0.0:
            return
        for k in range(NODES):
            parts[k] = parts[k] + over / max(below, 1) if parts[k] < most else most
    for k in range(NODES):
        parts[k] = min(parts[k], most)


@compiled
def prompt_step(w, decodes, context, entering):
    """Return the mean time [time] of the steps that anybody starts in, and their share.

    Parameters
    ----------
    w
        Of the march; what starts in the step is in it.
    decodes, context : [tokens]
        Computed and read by those who decode.
    entering : [requests]
        That start in the step on average.
    """
    left = max(w.step_tokens - decodes, 1.0)
    some = max(-np.expm1(-entering), min(w.step_prefill / left, 1.0))
    each = 1.0 / some
    _set_parts(w, entering, left / max(each * w.step_prefill, 1e-300))
    parts, total = vector_at(w.parts_at, NODES), 0.0
    for k in range(NODES):
        size = each * parts[k]
        total += step_duration(
            w.law_at, decodes, context + size * w.step_context, size * w.step_prefill,
            size * w.step_attention, size * w.step_known, w.moved,
        )  # fmt: skip
    return total / NODES, some
