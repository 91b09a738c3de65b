"""Rows of measured steps: what each batch held, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.refusal import refuse_first, refuse_implausible, refuse_no_duration


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """Each row is a measured batch; all rows are of one model on one machine.

    Parameters
    ----------
    prefill_tokens, requests : shape (R,)
        Prefill tokens computed, and decoding requests, in each batch.
    context : shape (R,) [tokens]
        KV that the decoding requests read.
    prefill_context : shape (R,) [tokens]
        KV that the prefill chunks found in the cache.
    time : shape (R,) [s]
        Measured duration.
    row : shape (R,)
        Number of the row in the file, from 1.
    has_context
        Whether the KV was recorded.
    about
        Machine and file, as far as known.
    dropped
        Rows left out, by reason.
    pairs : shape (R,) [tokens^2]
        Pairs of a prefill token and a token that it attends; None where each row has one chunk.
    """

    prefill_tokens: NDArray[np.float64]
    requests: NDArray[np.float64]
    context: NDArray[np.float64]
    prefill_context: NDArray[np.float64]
    time: NDArray[np.float64]
    row: NDArray[np.int64]
    has_context: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    pairs: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        requests: ArrayLike,
        context: ArrayLike | None,
        time: ArrayLike,
        *,
        prefill_tokens: ArrayLike = 0,
        prefill_context: ArrayLike = 0,
    ) -> StepRows:
        """Return the rows that arrays hold; scalars are broadcast, times are seconds.

        Raises
        ------
        WorkloadError
            Naming the first row and column whose value is not allowed.
        """
        duration = np.asarray(time, float)
        held = 0 if context is None else context
        columns: dict[str, Any] = {
            name: np.broadcast_to(np.asarray(values, float), duration.shape)
            for name, values in (
                ("prefill_tokens", prefill_tokens), ("requests", requests), ("context", held),
                ("prefill_context", prefill_context), ("time", duration),
            )
        }  # fmt: skip
        for name, values in columns.items():
            finite = np.isfinite(values)
            refuse_first(~finite, "is no finite number", column=name, values=values)
        refuse_no_duration(duration, column="time", values=duration)
        refuse_implausible(columns)
        row = np.arange(1, duration.size + 1)
        return cls(**columns, row=row, has_context=context is not None)

    def __len__(self) -> int:
        return self.time.size

    @property
    def computed(self) -> NDArray[np.float64]:
        """Return the tokens that each batch computes: prefill tokens and one per request."""
        return self.prefill_tokens + self.requests

    @property
    def attention(self) -> NDArray[np.float64]:
        """Return the pairs of a prefill token and a token that it attends."""
        if self.pairs is not None:
            return self.pairs
        return self.prefill_tokens * (self.prefill_context + (self.prefill_tokens + 1) / 2)

    @property
    def regime(self) -> NDArray[np.str_]:
        """Return ``decode``, ``mixed`` or ``prefill`` for each row."""
        decodes, prefills = self.requests > 0, self.prefill_tokens > 0
        return np.where(prefills, np.where(decodes, "mixed", "prefill"), "decode")

    def __getitem__(self, chosen: Any) -> StepRows:
        """Return some of the rows."""
        names = ("prefill_tokens", "requests", "context", "prefill_context", "time", "row")
        columns = {name: getattr(self, name)[chosen] for name in names}
        return StepRows(
            **columns, has_context=self.has_context, about=self.about, dropped=self.dropped,
            pairs=None if self.pairs is None else self.pairs[chosen],
        )  # fmt: skip
