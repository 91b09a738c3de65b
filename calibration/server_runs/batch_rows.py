"""A law is fitted to rows: mean content and mean duration of consecutive batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.refusal import refuse_first, refuse_implausible, refuse_no_duration
from serving import WorkloadError
from workload import TextTable


@dataclass(frozen=True, slots=True, eq=False)
class BatchRows:
    """Each row averages consecutive batches; rows are in order of time.

    Parameters
    ----------
    time : shape (N,) [s]
        Middle of the batches that a row averages.
    steps : shape (N,)
        Number of batches that a row averages.
    prefill_tokens, decode_tokens, kv_tokens : shape (N,) [tokens/batch]
        Prompt tokens computed, decoding requests, and KV that these held. ``kv_tokens`` is None
        where the server did not tell.
    step_time : shape (N,) [s]
        Mean duration of a batch.
    disjoint
        Whether no batch is in two rows.
    kv_is_share
        ``kv_tokens`` is the share of an unknown capacity, 0 to 1.
    dropped
        Number of intervals or requests that gave no row, by reason.
    """

    time: NDArray[np.float64]
    steps: NDArray[np.float64]
    prefill_tokens: NDArray[np.float64]
    decode_tokens: NDArray[np.float64]
    kv_tokens: NDArray[np.float64] | None
    step_time: NDArray[np.float64]
    disjoint: bool = True
    kv_is_share: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.time.size

    def where(self, keep: NDArray) -> BatchRows:
        """Return the rows that a mask or an array of indices selects."""
        return BatchRows(
            time=self.time[keep],
            steps=self.steps[keep],
            prefill_tokens=self.prefill_tokens[keep],
            decode_tokens=self.decode_tokens[keep],
            kv_tokens=None if self.kv_tokens is None else self.kv_tokens[keep],
            step_time=self.step_time[keep],
            disjoint=self.disjoint,
            kv_is_share=self.kv_is_share,
            dropped=self.dropped,
        )


CONTENTS = ("prefill_tokens", "decode_tokens", "kv_tokens")
"""Columns of what a batch holds."""


def rows_of_table(table: TextTable) -> BatchRows:
    """Return the rows of a CSV of windows.

    The columns are ``prefill_tokens``, ``decode_tokens``, ``kv_tokens``, ``step_time_ms`` and a
    time ``t_s`` [s].

    Raises
    ------
    WorkloadError
        Naming the row of the first value that is wrong.
    """
    for name in ("t_s", *CONTENTS):
        if name not in table.columns:
            raise WorkloadError("the column is missing", path=table.path, column=name)
    milliseconds, time = table.numbers("step_time_ms"), table.numbers("t_s")
    step_time = milliseconds / 1000.0
    refuse_no_duration(step_time, column="step_time_ms", values=milliseconds, path=table.path)
    refuse_first(
        np.diff(time, prepend=-np.inf) <= 0, "time does not increase",
        column="t_s", values=time, path=table.path,
    )  # fmt: skip
    contents = {name: table.numbers(name) for name in CONTENTS}
    refuse_implausible({"t_s": time} | contents, path=table.path)
    return BatchRows(
        time=time,
        steps=np.ones(time.size),
        prefill_tokens=contents["prefill_tokens"],
        decode_tokens=contents["decode_tokens"],
        kv_tokens=contents["kv_tokens"],
        step_time=step_time,
    )
