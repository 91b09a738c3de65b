"""Mean content and duration of consecutive batches: what a law is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError
from workload import TextTable


@dataclass(frozen=True, slots=True, eq=False)
class BatchRows:
    """Means over consecutive batches, in order of time.

    Parameters
    ----------
    time : shape (N,) [s]
        Middle of the batches that a row averages.
    steps : shape (N,)
        How many those are.
    prefill_tokens, decode_tokens, kv_tokens : shape (N,) [tokens/batch]
        Prompt tokens computed, decoding requests, and KV that these held. ``kv_tokens`` is None
        where the server did not tell.
    step_time : shape (N,) [s]
        Mean duration of a batch.
    disjoint
        Whether no batch is in two rows.
    kv_is_share
        ``kv_tokens`` is the share of an unknown capacity, 0 to 1.
    """

    time: NDArray[np.float64]
    steps: NDArray[np.float64]
    prefill_tokens: NDArray[np.float64]
    decode_tokens: NDArray[np.float64]
    kv_tokens: NDArray[np.float64] | None
    step_time: NDArray[np.float64]
    disjoint: bool = True
    kv_is_share: bool = False

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.time.size

    def where(self, keep: NDArray) -> BatchRows:
        """Return the rows that a mask or an array of indices selects."""
        kv = None if self.kv_tokens is None else self.kv_tokens[keep]
        return BatchRows(
            self.time[keep], self.steps[keep], self.prefill_tokens[keep],
            self.decode_tokens[keep], kv, self.step_time[keep], self.disjoint, self.kv_is_share,
        )  # fmt: skip


def rows_of_table(table: TextTable) -> BatchRows:
    """Return the rows of a CSV of windows: ``prefill_tokens``, ``decode_tokens``, ``kv_tokens``,
    ``step_time_ms`` and a time ``t_s`` [s].
    """  # noqa: D205
    step = table.numbers("step_time_ms") / 1000.0
    wrong = step <= 0
    if wrong.any():
        at = int(np.argmax(wrong))
        raise WorkloadError("allowed: a number > 0", path=table.path, row=at + 1,
                            column="step_time_ms", value=float(step[at] * 1000))  # fmt: skip
    time = table.numbers("t_s")
    late = np.diff(time) <= 0
    if late.any():
        at = int(np.argmax(late)) + 1
        raise WorkloadError("time does not increase", path=table.path, row=at + 1, column="t_s",
                            value=float(time[at]))  # fmt: skip
    return BatchRows(
        time, np.ones(time.size), table.numbers("prefill_tokens"), table.numbers("decode_tokens"),
        table.numbers("kv_tokens"), step,
    )  # fmt: skip
