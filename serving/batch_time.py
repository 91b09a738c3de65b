"""How long one batch (iteration) takes, as a function of what it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.errors import ConfigError
from serving.setting import check_settings, setting

Table = tuple[tuple[float, float], ...]
"""Rows (requests, time), strictly more requests in each row and no less time."""

TABLE_ALLOWED = "rows [requests, time] of finite numbers >= 0, requests rising, time never falling"
"""What a table may be, in words."""


@dataclass(frozen=True, slots=True)
class BatchTimeLaw:
    """Duration of one batch, linear in what it holds except for an optional table.

    ``tau = d_0 + d_decode * requests + table(requests) + d_kv * context_tokens
    + d_prefill * prefill_tokens + d_prefill_attention * prefill_attention
    + d_swap * swapped_tokens``, where ``context_tokens`` is the KV held by the decoding requests of
    the batch, sum of p + k, and every decoding request adds one token. A chunk of c prefill
    tokens whose request already holds h tokens attends ``c * (h + (c + 1) / 2)`` pairs;
    ``prefill_attention`` sums them over the chunks.

    The decode-node shorthand ``d_1`` is ``d_decode = d_kv = d_1``, for which
    ``tau = d_0 + d_1 * batch_tokens`` with ``batch_tokens = sum(p + k + 1)``.

    ``d_decode_table`` is for decode that is not linear in the requests, such as the experts of a
    mixture that a few requests load already: time comes on top of the linear terms, is
    interpolated linearly between rows, constant before the first, and goes on at the last slope
    after the last. :meth:`tabulated` gives a law whose table says it all but the KV.
    """

    d_0: float = setting(1.0, "fixed time of a batch [time]", minimum=0)
    d_decode: float = setting(0.001, "time per decoding request [time/request]", minimum=0)
    d_kv: float = setting(0.001, "time per KV token read [time/token]", minimum=0)
    d_prefill: float = setting(0.0, "time per prefill token computed [time/token]", minimum=0)
    d_swap: float = setting(0.0, "time per token moved GPU <-> CPU [time/token]", minimum=0)
    d_prefill_attention: float = setting(
        0.0, "time per pair of a prefill token and a token it attends [time/token^2]", minimum=0
    )
    d_decode_table: Table | None = setting(
        None, "further time of so many decoding requests, interpolated [time]", rows=TABLE_ALLOWED
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.d_decode_table is not None:
            object.__setattr__(self, "d_decode_table", checked_table(self.d_decode_table))

    @classmethod
    def per_token(cls, d_0: float, d_1: float, d_swap: float = 0.0) -> BatchTimeLaw:
        """Return the decode-node law ``tau = d_0 + d_1 * batch_tokens``."""
        return cls(d_0=d_0, d_decode=d_1, d_kv=d_1, d_swap=d_swap)

    @classmethod
    def tabulated(
        cls, table: ArrayLike, d_kv: float = 0.0, *, d_0: float = 0.0, **others: float
    ) -> BatchTimeLaw:
        """Return the law ``tau = d_0 + table(requests) + d_kv * context_tokens``.

        Parameters
        ----------
        table : shape (R, 2)
            Rows (requests, time); see the class.
        d_kv, d_0, **others
            Further coefficients of the law, 0 unless given.

        Raises
        ------
        ConfigError
            If a row or a coefficient is not allowed.
        """
        linear = {"d_decode": 0.0} | others
        return cls(d_0=d_0, d_kv=d_kv, d_decode_table=checked_table(table), **linear)

    @property
    def per_request_extra(self) -> float:
        """``d_decode - d_kv`` [time/request]: what a request costs beyond its tokens."""
        return self.d_decode - self.d_kv

    def scaled(self, n: float) -> BatchTimeLaw:
        """Return the law by which a batch ``n`` times as large takes as long."""
        rates = ("d_decode", "d_kv", "d_prefill", "d_swap", "d_prefill_attention")
        values: dict[str, Any] = {name: getattr(self, name) / n for name in rates}
        if self.d_decode_table is not None:
            values["d_decode_table"] = tuple((x * n, t) for x, t in self.d_decode_table)
        return replace(self, **values)

    def table_segments(self) -> NDArray[np.float64]:
        """Return the pieces of the table, shape (3, S): first requests, time there, slope.

        Within piece s the table is ``time[s] + slope[s] * (requests - first[s])``, also beyond
        the last; before the first it is ``time[0]``. Without a table S is 0.
        """
        if self.d_decode_table is None:
            return np.empty((3, 0))
        x, time = np.array(self.d_decode_table).T
        if x.size == 1:
            return np.array([x, time, [0.0]])
        return np.array([x[:-1], time[:-1], np.diff(time) / np.diff(x)])

    def table_time(self, requests: Any) -> Any:
        """Return what the table adds [time] for so many requests; 0 without a table."""
        if self.d_decode_table is None:
            return 0.0
        first, time, slope = self.table_segments()
        if isinstance(requests, int | float | list | np.ndarray | np.generic):
            xp: Any = np
        else:
            import jax.numpy as xp
        n = xp.maximum(xp.asarray(requests), first[0])
        piece = xp.searchsorted(xp.asarray(first), n, side="right") - 1
        first, time, slope = (xp.asarray(each)[piece] for each in (first, time, slope))
        return slope * (n - first) + time

    def duration(self, batch_tokens: Any, requests: Any, swapped_tokens: Any = 0) -> Any:
        """Return the duration [time] of a decode batch (scalars, NumPy or JAX arrays alike).

        Parameters
        ----------
        batch_tokens
            sum(p + k + 1) over the batch [tokens].
        requests
            Decoding requests in the batch.
        swapped_tokens
            Tokens moved between GPU and CPU since the last batch.

        Notes
        -----
        This order of operations is the engine's: with ``d_decode == d_kv`` the third term is an
        exact zero, so ``d_1`` given as a shorthand yields the very bits of ``d_0 + d_1 * tokens``.
        """
        return (
            self.d_0
            + self.d_kv * batch_tokens
            + (self.per_request_extra * requests + self.table_time(requests))
            + self.d_swap * swapped_tokens
        )

    def mixed_duration(
        self,
        requests: Any,
        context_tokens: Any,
        prefill_tokens: Any,
        prefill_attention: Any = 0,
    ) -> Any:
        """Return the duration [time] of a batch that also computes prefill (chunks).

        Parameters
        ----------
        requests
            Decoding requests in the batch.
        context_tokens
            KV that they read, sum(p + k) [tokens].
        prefill_tokens
            Prefill tokens computed in the batch.
        prefill_attention
            Sum of ``c * (h + (c + 1) / 2)`` over its chunks [tokens^2].
        """
        decode = self.duration(context_tokens + requests, requests)
        return (
            decode + self.d_prefill * prefill_tokens + self.d_prefill_attention * prefill_attention
        )


def checked_table(rows: Any) -> Table:
    """Return the rows of a table as pairs of floats.

    Raises
    ------
    ConfigError
        Naming the row that is not allowed.
    """
    found: list[tuple[float, float]] = []
    if isinstance(rows, str | bytes) or not hasattr(rows, "__len__") or not len(rows):
        raise ConfigError("d_decode_table", rows, TABLE_ALLOWED)
    for number, row in enumerate(rows, 1):
        pair = _pair(row)
        falls = pair is not None and found and (pair[0] <= found[-1][0] or pair[1] < found[-1][1])
        if pair is None or falls:
            given = row.tolist() if hasattr(row, "tolist") else row
            raise ConfigError(f"d_decode_table, row {number}", given, TABLE_ALLOWED)
        found.append(pair)
    return tuple(found)


def _pair(row: Any) -> tuple[float, float] | None:
    """Return a row as two finite numbers >= 0; None if it is anything else."""
    if isinstance(row, str | bytes) or not hasattr(row, "__len__") or len(row) != 2:
        return None
    if any(isinstance(each, bool | str) for each in row):
        return None
    try:
        x, time = (float(each) for each in row)
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, time) if 0 <= x < inf and 0 <= time < inf else None
