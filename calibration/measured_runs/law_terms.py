"""The terms of a batch-time law as four numbers that a measured run can correct.

A law from step times of kernels knows how a batch grows with its requests, its KV and its prompts,
but not what a server spends between two steps. A running server corrects it by a constant time per
step and by a factor on each of the three other terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import BatchTimeLaw

TERMS = ("gap", "decode", "kv", "prefill")
"""The four numbers: a time per step [time], and factors on what a step spends on its decoding
requests, on the KV that it reads and on the prompts that it computes."""

DECODE = ("d_decode", "d_decode_table")
KV = ("d_kv", "d_mixed_kv_table")
PREFILL = (
    "d_prefill", "d_prefill_attention", "d_prefill_context", "d_mixed_decode", "d_prefill_table",
)  # fmt: skip

SMALLEST = 0.02
"""Smallest factor, and smallest share of the fixed time of a step that a correction leaves."""

NOTHING: Mapping[str, Any] = {
    "d_0": 0.0, "d_decode": 0.0, "d_kv": 0.0, "d_prefill": 0.0, "d_swap": 0.0,
    "d_prefill_attention": 0.0, "d_prefill_context": 0.0, "d_mixed_decode": 0.0,
    "d_decode_table": None, "d_prefill_table": None, "d_mixed_kv_table": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Terms:
    """What corrects a law.

    Parameters
    ----------
    gap : [time]
        Comes on top of every step; may be negative.
    decode, kv, prefill
        Factors of the terms.
    """

    gap: float = 0.0
    decode: float = 1.0
    kv: float = 1.0
    prefill: float = 1.0

    @classmethod
    def of(cls, values: ArrayLike) -> Terms:
        """Return the terms of four numbers in the order of :data:`TERMS`."""
        return cls(*map(float, np.asarray(values)))

    def values(self) -> NDArray[np.float64]:
        """Return the four numbers in the order of :data:`TERMS`."""
        return np.array([getattr(self, name) for name in TERMS])

    def corrected(self, law: BatchTimeLaw) -> BatchTimeLaw:
        """Return a law with this correction."""
        factors = {**dict.fromkeys(DECODE, self.decode), **dict.fromkeys(KV, self.kv),
                   **dict.fromkeys(PREFILL, self.prefill)}  # fmt: skip
        changed: dict[str, Any] = {}
        for key, factor in factors.items():
            value = getattr(law, key)
            if value is None:
                continue
            plus = self.gap if key == "d_prefill_table" else 0.0
            is_table = isinstance(value, tuple)
            changed[key] = (
                tuple((x, max(t * factor + plus, 0.0)) for x, t in value)
                if is_table
                else value * factor
            )
        fixed, table = law.d_0 + self.gap, changed.get("d_decode_table")
        if fixed < 0 and table is not None:  # a table that says it all holds the fixed time too
            changed["d_decode_table"] = tuple((x, max(t + fixed, 0.0)) for x, t in table)
        return replace(law, d_0=max(fixed, 0.0), **changed)


def shortest_step(law: BatchTimeLaw) -> float:
    """Return the time [time] of a step that decodes one request without KV."""
    return float(law.duration(0, 1))


def least(law: BatchTimeLaw) -> NDArray[np.float64]:
    """Return the smallest value of each of the four numbers that leaves a law."""
    fixed = shortest_step(law)
    if law.d_prefill_table is not None:
        fixed = min(fixed, law.d_prefill_table[0][1])
    return np.array([-(1 - SMALLEST) * fixed, *([SMALLEST] * 3)])


def reads_by_table(law: BatchTimeLaw, prefill_tokens: ArrayLike) -> NDArray[np.bool_]:
    """Return which steps take their whole time from the table of steps with prefill."""
    return (np.asarray(prefill_tokens) > 0) & (law.d_prefill_table is not None)


def parts(law: BatchTimeLaw, steps: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return what each of the four terms adds to each step, shape (N, 4), and the rest in column 4.

    Parameters
    ----------
    law
        The law by which the steps were timed.
    steps
        Columns of a run's batches: ``decode_tokens``, ``context_tokens``, ``prefill_tokens``
        [tokens] and ``batch_duration`` [time].

    Returns
    -------
    shape (N, 5)
        1 for a gap, the times of decode, KV and prefill, and what no correction touches (the fixed
        time of the law) [time].
    """
    decode = np.asarray(steps["decode_tokens"], float)
    context = np.asarray(steps["context_tokens"], float)
    prefill = np.asarray(steps["prefill_tokens"], float)
    total = np.asarray(steps["batch_duration"], float)
    ran = total > 0
    by_table = reads_by_table(law, prefill)

    def alone(keys: tuple[str, ...]) -> NDArray[np.float64]:
        only = replace(law, **{k: v for k, v in NOTHING.items() if k not in keys})
        return np.asarray(only.step_duration(decode, context, prefill), float) * ran

    decoding = np.where(by_table, 0.0, alone(DECODE))
    reading = alone(KV)
    fixed = np.where(by_table, 0.0, law.d_0) * ran
    computing = np.where(prefill > 0, total - decoding - reading - fixed, 0.0)
    return np.stack([ran.astype(float), decoding, reading, computing, fixed], axis=1)
