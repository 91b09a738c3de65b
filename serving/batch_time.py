"""How long one batch (iteration) takes, as a function of what it holds.

Models and engines see a law through three doors: :meth:`BatchTimeLaw.duration` evaluates it,
:meth:`BatchTimeLaw.tangent` gives closed forms the affine law that they can solve, and
:meth:`BatchTimeLaw.vector` gives compiled code what :mod:`serving.batch_kernel` evaluates. Its
coefficients are read here, in the symbolic equations and where laws are fitted; a test holds this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import checked
from serving.errors import ConfigError
from serving.setting import check_settings, setting

Table = tuple[tuple[float, float], ...]
"""Rows (requests, time), strictly more requests in each row and no less time."""

TABLE_ALLOWED = "rows [requests, time] of finite numbers >= 0, requests rising, time never falling"
"""What a table may be, in words."""


LONGEST = 1e100
"""Largest coefficient of a law: sums and squares of times stay numbers."""

LAW_VECTOR = np.dtype(
    [
        (name, np.float64)
        for name in (
            "d_0", "d_kv", "per_request_extra", "d_swap", "d_decode", "d_prefill",
            "d_prefill_attention", "d_prefill_context", "d_mixed_decode", "pieces",
            "prefill_pieces", "mixed_kv_pieces",
        )
    ]
)  # fmt: skip
"""Head of :meth:`BatchTimeLaw.vector`; the pieces of its three tables follow, each from first to
slope, in the order of :data:`TABLES`."""


@dataclass(frozen=True, slots=True)
class Tangent:
    """An affine law ``tau = at_nothing + per_token * batch_tokens + per_request * requests``.

    Parameters
    ----------
    at_nothing : [time]
        Where the line meets an empty batch; below 0 where the law bends upwards.
    per_token : [time/token]
        Per batch token.
    per_request : [time/request]
        Per request, beyond its tokens.
    """

    at_nothing: float
    per_token: float
    per_request: float

    def duration(self, batch_tokens: Any, requests: Any) -> Any:
        """Return the duration [time] of a decode batch (scalars or arrays)."""
        return self.at_nothing + self.per_token * batch_tokens + self.per_request * requests


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

    A batch that computes prefill besides runs other kernels. Where that matters,
    ``d_prefill_table`` gives its time by tokens computed, prefill_tokens + requests, in place of
    ``d_0``, ``d_decode``, ``d_decode_table`` and ``d_prefill``, and ``d_mixed_kv_table`` its time
    by KV tokens read in place of ``d_kv``; ``d_mixed_decode`` comes on top per decoding request.
    """

    d_0: float = setting(1.0, "fixed time of a batch [time]", minimum=0, maximum=LONGEST)
    d_decode: float = setting(
        0.001, "time per decoding request [time/request]", minimum=0, maximum=LONGEST
    )
    d_kv: float = setting(0.001, "time per KV token read [time/token]", minimum=0, maximum=LONGEST)
    d_prefill: float = setting(
        0.0, "time per prefill token computed [time/token]", minimum=0, maximum=LONGEST
    )
    d_swap: float = setting(
        0.0, "time per token moved GPU <-> CPU [time/token]", minimum=0, maximum=LONGEST
    )
    d_prefill_attention: float = setting(
        0.0,
        "time per pair of a prefill token and a token it attends [time/token^2]",
        minimum=0,
        maximum=LONGEST,
    )
    d_prefill_context: float = setting(
        0.0,
        "time per token that a prefill chunk finds in the KV cache [time/token]",
        minimum=0,
        maximum=LONGEST,
    )
    d_mixed_decode: float = setting(
        0.0,
        "further time per decoding request in a batch with prefill [time/request]",
        minimum=0,
        maximum=LONGEST,
    )
    d_decode_table: Table | None = setting(  # noqa: RUF009
        None, "further time of so many decoding requests, interpolated [time]", rows=TABLE_ALLOWED
    )
    d_prefill_table: Table | None = setting(  # noqa: RUF009
        None, "time of a batch with prefill by tokens computed, interpolated", rows=TABLE_ALLOWED
    )
    d_mixed_kv_table: Table | None = setting(  # noqa: RUF009
        None, "time of a batch with prefill by KV tokens read; null = d_kv", rows=TABLE_ALLOWED
    )
    measured_requests: float | None = setting(
        None, "decoding requests in the largest measured batch; null = not known",
        exclusive_minimum=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        for key in TABLES:
            rows = getattr(self, key)
            if rows is not None:
                object.__setattr__(self, key, checked_table(rows, key))

    @classmethod
    def per_token(cls, d_0: float, d_1: float, d_swap: float = 0.0) -> BatchTimeLaw:
        """Return the decode-node law ``tau = d_0 + d_1 * batch_tokens``."""
        return cls(d_0=d_0, d_decode=d_1, d_kv=d_1, d_swap=d_swap)

    @classmethod
    def tabulated(
        cls, table: ArrayLike, d_kv: float = 0.0, *, d_0: float = 0.0, **others: Any
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
        linear: dict[str, Any] = {"d_decode": 0.0} | others
        return cls(d_0=d_0, d_kv=d_kv, d_decode_table=checked_table(table), **linear)

    @property
    def is_affine(self) -> bool:
        """Whether a decode batch's duration is a line, which is then its own tangent everywhere."""
        return self.d_decode_table is None

    @property
    def bends_in_prompts(self) -> bool:
        """Whether the time of a step is no line in its prompt tokens and their KV."""
        return self.d_prefill_table is not None or self.d_mixed_kv_table is not None

    @property
    def computed_bends(self) -> tuple[float, ...]:
        """Tokens computed in a step at which the time of a step with prompts changes its slope."""
        return tuple(at for at, _ in self.d_prefill_table or ())

    @property
    def most_requests(self) -> float:
        """Requests [requests] up to which the law was measured; infinite where that is unknown."""
        table = inf if self.d_decode_table is None else self.d_decode_table[-1][0]
        return table if self.measured_requests is None else min(table, self.measured_requests)

    @property
    def swaps_for_free(self) -> bool:
        """Whether tokens move between GPU and CPU in no time."""
        return self.d_swap == 0

    def prefill_time(self, prefill: Any) -> Any:
        """Return the least time [time] that computing a prompt adds to the batches that do it.

        Parameters
        ----------
        prefill
            Tokens of the prompt (scalar or array).

        Notes
        -----
        The prompt shares batches that run anyway, so a fixed time per batch is not counted. Of a
        table the mean slope counts, from its first row to its last.
        """
        prefill = np.asarray(prefill, float)
        per_token = self.d_prefill
        if self.d_prefill_table is not None:
            (few, short), (many, long) = self.d_prefill_table[0], self.d_prefill_table[-1]
            per_token = (long - short) / (many - few) if many > few else 0.0
        return prefill * (per_token + self.d_prefill_attention * (prefill + 1) / 2)

    @property
    def per_request_extra(self) -> float:
        """``d_decode - d_kv`` [time/request]: what a request costs beyond its tokens."""
        return self.d_decode - self.d_kv

    def for_whole_context(self) -> BatchTimeLaw:
        """Return the law for engines that count the KV of prefill chunks as read too.

        Fits know the KV of the decoding requests of a batch. Engines that compute prompts count the
        tokens of a chunk in, so that ``d_prefill``, which has all that a token of a chunk costs,
        gives ``d_kv`` of it away. Tables of whole batches have it in their rows, where it hardly
        shows.
        """
        if self.d_prefill_table is not None or self.d_mixed_kv_table is not None:
            return self
        return replace(self, d_prefill=max(self.d_prefill - self.d_kv, 0.0))

    @checked(n="> 0")
    def scaled(self, n: float) -> BatchTimeLaw:
        """Return the law by which a batch ``n`` times as large takes as long."""
        given: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {key: value for key, value in given.items() if key != "d_0" and value is not None}
        for key, value in values.items():
            is_table = key in TABLES
            values[key] = tuple((x * n, t) for x, t in value) if is_table else value / n
        if self.measured_requests is not None:
            values["measured_requests"] = self.measured_requests * n
        return replace(self, **values)

    @checked(factor="> 0")
    def in_unit(self, factor: float) -> BatchTimeLaw:
        """Return the law with every time multiplied by ``factor``: 1000 for s to ms."""
        given: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {key: value for key, value in given.items() if value is not None}
        for key, value in values.items():
            is_table = key in TABLES
            values[key] = tuple((x, t * factor) for x, t in value) if is_table else value * factor
        return replace(self, **values | {"measured_requests": self.measured_requests})

    def table_segments(self) -> NDArray[np.float64]:
        """Return the pieces of the table, shape (3, S): first requests, time there, slope.

        Within piece s the table is ``time[s] + slope[s] * (requests - first[s])``, also beyond
        the last; before the first it is ``time[0]``. Without a table S is 0.
        """
        return _segments(self.d_decode_table)

    def table_time(self, requests: Any) -> Any:
        """Return what the table adds [time] for so many requests; 0 without a table."""
        return 0.0 if self.d_decode_table is None else _looked_up(self.d_decode_table, requests)

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

    def tangent(self, batch_tokens: float, requests: float) -> Tangent:
        """Return the affine law that equals this one at a batch and changes with it there.

        Parameters
        ----------
        batch_tokens, requests
            The batch [tokens], [requests]. At a bend of the table the slope is the one above it.
        """
        slope, linear = 0.0, self.per_request_extra
        if self.d_decode_table is not None:
            first, _, slopes = self.table_segments()
            piece = int(np.searchsorted(first, requests, side="right")) - 1
            slope = float(slopes[piece]) if piece >= 0 else 0.0
        table = float(self.table_time(requests))
        return Tangent(self.d_0 + table - slope * requests, self.d_kv, linear + slope)

    def vector(self) -> NDArray[np.float64]:
        """Return the law as compiled code reads it, see :mod:`serving.batch_kernel`.

        The array is read-only; whoever hands on its address keeps the array.
        """
        return _vector(self)

    def mixed_duration(
        self,
        requests: Any,
        context_tokens: Any,
        prefill_tokens: Any,
        prefill_attention: Any = 0,
        prefill_context: Any = 0,
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
        prefill_context
            Sum of ``h`` over its chunks [tokens].
        """
        if self.d_mixed_kv_table is None:
            read = self.d_kv * context_tokens
        else:
            read = _looked_up(self.d_mixed_kv_table, context_tokens)
        if self.d_prefill_table is None:
            linear = self.d_0 + self.d_decode * requests + self.d_prefill * prefill_tokens
            computed = linear + self.table_time(requests)
        else:
            computed = _looked_up(self.d_prefill_table, prefill_tokens + requests)
        decoded = self.d_mixed_decode * requests
        attended = self.d_prefill_attention * prefill_attention
        return computed + decoded + read + attended + self.d_prefill_context * prefill_context

    def step_duration(
        self,
        decode_tokens: Any,
        context_tokens: Any,
        prefill_tokens: Any = 0,
        prefill_attention: Any = 0,
        prefill_context: Any = 0,
        swapped_blocks: Any = 0,
    ) -> Any:
        """Return the duration [time] of a step of an engine that computes prompts itself.

        Parameters
        ----------
        decode_tokens
            Tokens of requests that decode, drafts included.
        context_tokens
            KV of everyone in the batch after the step: what a request had computed and what it
            computes now, chunks of prompts included [tokens].
        prefill_tokens
            Prompt tokens computed in the step.
        prefill_attention, prefill_context
            As for :meth:`mixed_duration`.
        swapped_blocks
            Blocks moved between GPU and CPU; ``d_swap`` counts per block here.

        Notes
        -----
        A step without prefill takes what :meth:`duration` gives, to the bit.
        """
        decode = self.duration(context_tokens + decode_tokens, decode_tokens, swapped_blocks)
        mixed = self.mixed_duration(
            decode_tokens, context_tokens, prefill_tokens, prefill_attention, prefill_context
        )
        return np.where(prefill_tokens == 0, decode, mixed + self.d_swap * swapped_blocks)


TABLES = ("d_decode_table", "d_prefill_table", "d_mixed_kv_table")
"""Coefficients of a law that are tables."""

CARRIED = (
    "d_prefill", "d_prefill_attention", "d_prefill_context", "d_mixed_decode", "d_prefill_table",
    "d_mixed_kv_table", "measured_requests",
)  # fmt: skip
"""What an instance keeps of a law even where its kind spends none of it: the terms of a batch with
prefill and the range of the measurement. Studies say what an answer leaves out by them."""


@lru_cache(maxsize=256)
def _vector(law: BatchTimeLaw) -> NDArray[np.float64]:
    tables = [_segments(getattr(law, key)) for key in TABLES]
    counts = dict(zip(("pieces", "prefill_pieces", "mixed_kv_pieces"), tables, strict=True))
    head = [
        counts[name].shape[1] if name in counts else getattr(law, name)
        for name in LAW_VECTOR.names or ()
    ]
    vector = np.concatenate([head, *(each.ravel() for each in tables)])
    vector.flags.writeable = False
    return vector


def _segments(table: Table | None) -> NDArray[np.float64]:
    if table is None:
        return np.empty((3, 0))
    x, time = np.array(table).T
    if x.size == 1:
        return np.array([x, time, [0.0]])
    return np.array([x[:-1], time[:-1], np.diff(time) / np.diff(x)])


def _looked_up(table: Table, x: Any) -> Any:
    """Return the table at ``x``, a scalar or an array of NumPy or JAX."""
    first, time, slope = _segments(table)
    if isinstance(x, int | float | list | np.ndarray | np.generic):
        xp: Any = np
    else:
        import jax.numpy as xp
    x = xp.maximum(xp.asarray(x), first[0])
    piece = xp.searchsorted(xp.asarray(first), x, side="right") - 1
    first, time, slope = (xp.asarray(each)[piece] for each in (first, time, slope))
    return slope * (x - first) + time


def checked_table(rows: Any, key: str = "d_decode_table") -> Table:
    """Return the rows of a table as pairs of floats.

    Raises
    ------
    ConfigError
        Naming the row that is not allowed.
    """
    found: list[tuple[float, float]] = []
    if (
        isinstance(rows, str | bytes)
        or not isinstance(rows, Sequence | np.ndarray)
        or not len(rows)
    ):
        raise ConfigError(key, rows, TABLE_ALLOWED)
    for number, row in enumerate(rows, 1):
        pair = _pair(row)
        falls = pair is not None and found and (pair[0] <= found[-1][0] or pair[1] < found[-1][1])
        if pair is None or falls:
            given = row.tolist() if hasattr(row, "tolist") else row
            raise ConfigError(f"{key}, row {number}", given, TABLE_ALLOWED)
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
