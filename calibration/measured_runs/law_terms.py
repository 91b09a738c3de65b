"""How a measured run can correct a batch-time law: few numbers, in which the law is linear.

A law from step times of kernels, or from data sheets, does not know what a server spends between
two steps, nor how its kernels bend with the number of requests. A running server corrects it by a
constant time per step, by a factor each on what decoding requests, the KV that is read and prompts
cost, and by a curve over the decoding requests.

A law without a table for steps with prefill gets one. Such a step takes as long as a decode step of
as many tokens, which is bound by reading weights, until its multiplications take longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import BatchTimeLaw

KNOTS = (0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
"""Decoding requests at which the curve of a correction may bend."""

KV = ("d_kv", "d_mixed_kv_table")
PREFILL = (
    "d_prefill", "d_prefill_attention", "d_prefill_context", "d_mixed_decode", "d_prefill_table",
)  # fmt: skip

SMALLEST = 0.02
"""Smallest factor, and smallest share of the fixed time of a step that a correction leaves."""

STEEPNESS = 0.003
"""How far the slope of the curve may be off per request, as a share of the shortest step, before
anything was measured; between two knots it bends by half as much."""

SPREAD = {"gap": 0.3, "decode": 0.5, "kv": 0.7, "prefill": 0.3}
"""How far the others may be off: the gap as a share of the shortest step, factors of themselves."""

FACTORS = len(SPREAD)
"""Numbers of a correction before the slopes of its curve."""

NOTHING: Mapping[str, Any] = {
    "d_0": 0.0, "d_decode": 0.0, "d_kv": 0.0, "d_prefill": 0.0, "d_swap": 0.0,
    "d_prefill_attention": 0.0, "d_prefill_context": 0.0, "d_mixed_decode": 0.0,
    "d_decode_table": None, "d_prefill_table": None, "d_mixed_kv_table": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What corrects a law.

    Parameters
    ----------
    gap : [time]
        Comes on top of every step; may be negative.
    decode, kv, prefill
        Factors of the terms.
    slopes : shape (K,) [time/request]
        What comes on top per decoding request between :data:`KNOTS`, from the first on; the last
        goes on for ever.
    """

    gap: float
    decode: float
    kv: float
    prefill: float
    slopes: NDArray[np.float64]

    @classmethod
    def nothing(cls, most_requests: float) -> Terms:
        """Return a correction that changes nothing, with knots up to so many requests."""
        size = max(1, sum(1 for knot in KNOTS[:-1] if knot < most_requests))
        return cls(0.0, 1.0, 1.0, 1.0, np.zeros(size))

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Terms:
        """Return the correction of numbers in the order of :meth:`values`."""
        gap, decode, kv, prefill = map(float, values[:FACTORS])
        return cls(gap, decode, kv, prefill, values[FACTORS:])

    def values(self) -> NDArray[np.float64]:
        """Return gap, factors and slopes as one list of numbers."""
        return np.concatenate([[self.gap, self.decode, self.kv, self.prefill], self.slopes])

    def curve(self, requests: ArrayLike) -> NDArray[np.float64]:
        """Return what comes on top for so many decoding requests [time]."""
        return _lengths(requests, self.slopes.size) @ self.slopes

    def corrected(self, law: BatchTimeLaw) -> BatchTimeLaw:
        """Return a law with this correction."""
        factors = {**dict.fromkeys(KV, self.kv), **dict.fromkeys(PREFILL, self.prefill)}
        changed: dict[str, Any] = {}
        for key, factor in factors.items():
            value = getattr(law, key)
            if isinstance(value, tuple):
                plus = self.gap if key == "d_prefill_table" else 0.0
                changed[key] = tuple((x, max(t * factor + plus, SMALLEST * t)) for x, t in value)
            elif value is not None:
                changed[key] = value * factor
        rows = _rows(law, self.slopes.size)
        decode = self.decode * decode_time(law, rows) + self.curve(rows)
        fixed = law.d_0 + self.gap
        decode = np.maximum.accumulate(np.maximum(decode + min(fixed, 0.0), 0.0))
        fixed = max(fixed, SMALLEST * shortest_step(law) - float(decode[0]))
        table = tuple(zip(rows.tolist(), decode.tolist(), strict=True))
        found = replace(law, d_0=fixed, d_decode=0.0, d_decode_table=table, **changed)
        if not _bends(law):
            return found
        return replace(found, d_prefill=0.0, d_prefill_table=self._roof(law, found, rows))

    def _roof(
        self, law: BatchTimeLaw, found: BatchTimeLaw, rows: NDArray[np.float64]
    ) -> tuple[tuple[float, float], ...]:
        """Return the time of steps with prefill by tokens: reading or multiplying, the longer."""
        x = np.unique(np.append(rows, (FARTHEST / 2, FARTHEST)))
        above = self._multiplying(law, x) - self._reading(found, x)
        cross = np.flatnonzero(np.diff(np.sign(above)) != 0)
        share = above[cross] / (above[cross] - above[cross + 1])
        x = np.unique(np.append(x, x[cross] + share * np.diff(x)[cross]))
        time = np.maximum.accumulate(np.maximum(self._multiplying(law, x), self._reading(found, x)))
        return tuple(zip(x.tolist(), time.tolist(), strict=True))

    def _multiplying(self, law: BatchTimeLaw, tokens: ArrayLike) -> NDArray[np.float64]:
        return self.gap + self.prefill * law.d_prefill * np.asarray(tokens, float)

    def multiplies(self, law: BatchTimeLaw, tokens: ArrayLike) -> NDArray[np.bool_]:
        """Return which steps with prefill of so many tokens are bound by multiplications."""
        return self._multiplying(law, tokens) > self._reading(self.corrected(law), tokens)

    def as_requests(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the requests whose decode step takes as long as reading for so many tokens.

        Beyond the last knot no more tokens make the reading longer.
        """
        return np.minimum(np.asarray(tokens, float), KNOTS[self.slopes.size])

    def _reading(self, found: BatchTimeLaw, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the time of a decode step of so many tokens, without KV [time]."""
        return found.d_0 + decode_time(found, self.as_requests(tokens))


FARTHEST = 65536.0
"""Tokens of the last row of a table of steps with prefill."""


def _bends(law: BatchTimeLaw) -> bool:
    """Return whether a correction gives the law a table for steps with prefill."""
    return law.d_prefill_table is None and law.d_prefill > 0


def decode_time(law: BatchTimeLaw, requests: ArrayLike) -> NDArray[np.float64]:
    """Return what so many decoding requests add to a step without their KV [time]."""
    requests = np.asarray(requests, float)
    return law.d_decode * requests + law.table_time(requests)


def _rows(law: BatchTimeLaw, segments: int) -> NDArray[np.float64]:
    """Return the requests at which a corrected law has rows: knots, and rows that it had."""
    own = [] if law.d_decode_table is None else [x for x, _ in law.d_decode_table]
    return np.unique(np.array([*KNOTS[: segments + 1], *own], float))


def _lengths(requests: ArrayLike, segments: int) -> NDArray[np.float64]:
    """Return how far so many requests reach into each segment between knots, shape (N, K)."""
    n = np.asarray(requests, float)[..., None]
    first = np.array(KNOTS[:segments], float)
    width = np.append(np.diff(first), np.inf)
    return np.clip(n - first, 0.0, width)


def shortest_step(law: BatchTimeLaw) -> float:
    """Return the time [time] of a step that decodes one request without KV."""
    return float(law.duration(1, 1))


def least(law: BatchTimeLaw, terms: Terms) -> NDArray[np.float64]:
    """Return the smallest value of each number of a correction that leaves a law."""
    fixed = shortest_step(law)
    if law.d_prefill_table is not None:
        fixed = min(fixed, law.d_prefill_table[0][1])
    knots = np.array(KNOTS[: terms.slopes.size + 1], float)
    falling = -np.diff(decode_time(law, knots)) / np.diff(knots)
    return np.concatenate([[-(1 - SMALLEST) * fixed], [SMALLEST] * (FACTORS - 1), falling])


def penalty(law: BatchTimeLaw, terms: Terms, doubt: float = 1.0) -> NDArray[np.float64]:
    """Return the rows whose squares say how unlikely a correction is, shape (P, numbers).

    Gap and factors are near nothing, the first slope too, and each slope is near the one before.

    Parameters
    ----------
    law
        The law before the correction.
    terms
        A correction with as many knots.
    doubt
        How far the terms of the law may be off, over what is assumed of a law from data sheets;
        the gap, which no step of a kernel shows, is as open for every law.
    """
    step, size = shortest_step(law), terms.slopes.size
    rows = np.zeros((FACTORS + size, FACTORS + size))
    off = [SPREAD["gap"] * step, *(doubt * SPREAD[name] for name in list(SPREAD)[1:])]
    rows[range(FACTORS), range(FACTORS)] = 1 / np.array(off)
    steep = doubt * STEEPNESS * step
    rows[FACTORS, FACTORS] = 1 / steep
    for k in range(FACTORS + 1, FACTORS + size):
        rows[k, k - 1], rows[k, k] = -2 / steep, 2 / steep
    return rows


def reads_by_table(law: BatchTimeLaw, prefill_tokens: ArrayLike) -> NDArray[np.bool_]:
    """Return which steps take their whole time from the table of steps with prefill."""
    return (np.asarray(prefill_tokens) > 0) & (law.d_prefill_table is not None)


def parts(
    law: BatchTimeLaw, terms: Terms, steps: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how the duration of each step is made of the numbers of a correction, and the rest.

    Parameters
    ----------
    law
        The law before the correction.
    terms
        The correction by whose law the steps were timed.
    steps
        Columns of a run's batches: ``decode_tokens``, ``context_tokens``, ``prefill_tokens``
        [tokens] and ``batch_duration`` [time].

    Returns
    -------
    features : shape (N, numbers)
        So that ``features @ terms.values() + rest`` are the durations.
    rest : shape (N,) [time]
        What no correction touches.
    """
    decode = np.asarray(steps["decode_tokens"], float)
    context = np.asarray(steps["context_tokens"], float)
    prefill = np.asarray(steps["prefill_tokens"], float)
    total = np.asarray(steps["batch_duration"], float)
    ran = total > 0
    by_table, tokens = reads_by_table(law, prefill), decode
    if _bends(law):
        mixed = prefill > 0
        by_table = mixed & terms.multiplies(law, decode + prefill)
        tokens = np.where(mixed, terms.as_requests(decode + prefill), decode)
    only_kv = replace(law, **{k: v for k, v in NOTHING.items() if k not in KV})
    reading = np.asarray(only_kv.step_duration(decode, context, prefill), float) * ran
    in_curve = (ran & ~by_table)[:, None] * _lengths(tokens, terms.slopes.size)
    decoding = np.where(by_table | ~ran, 0.0, decode_time(law, tokens))
    rest = np.where(by_table | ~ran, 0.0, law.d_0)
    known = terms.gap * ran + terms.decode * decoding + terms.kv * reading
    known += in_curve @ terms.slopes + rest
    computing = np.where(prefill > 0, (total - known) / terms.prefill, 0.0)
    features = np.concatenate(
        [np.stack([ran.astype(float), decoding, reading, computing], axis=1), in_curve], axis=1
    )
    return features, rest
