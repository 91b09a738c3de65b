"""Recipes: which rows give which coefficients of the batch-time law."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.step_times.broken_lines import broken_line, chosen_knots, fit_relative
from calibration.step_times.reading import StepRows
from serving import BatchTimeLaw

MOST_KNOTS, MOST_STAIRS = 8, 16
"""Rows of a table, and of one with stairs."""

TILE = 128
"""Tokens that the matrix kernels of NVIDIA cards compute together."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a law is fitted.

    Parameters
    ----------
    decode
        ``linear``: d_0 + d_decode * requests; ``tabulated``: a broken line in the requests.
    prefill
        ``added``: prefill tokens and attention on top of the decode law; ``tabulated``: batches
        with prefill by a broken line in the tokens computed and one in the KV read.
    kv
        Whether the KV read is a term.
    """

    decode: str = "linear"
    prefill: str = "added"
    kv: bool = True

    @property
    def name(self) -> str:
        """Words for tables."""
        return f"{self.decode}, prefill {self.prefill}{'' if self.kv else ', without KV'}"


def fit_law(rows: StepRows, recipe: Recipe, *, robust: bool = True) -> BatchTimeLaw:
    """Return the law [s] of ``rows``: decode terms from decode-only rows, the rest from others.

    Batches with prefill run other kernels: fitted to all rows at once, one coefficient of KV
    would be wrong for both.
    """
    is_decode = rows.prefill_tokens == 0
    law = fit_decode(rows[is_decode], recipe, robust=robust)
    if is_decode.all():
        return law
    return fit_prefill(rows[~is_decode], law, recipe, robust=robust)


def decode_columns(rows: StepRows, recipe: Recipe, knots: Array | None) -> tuple[Array, list[str]]:
    """Return the columns of the decode law, shape (R, K), and their coefficients' names."""
    if knots is None:
        columns, names = [np.ones(len(rows)), rows.requests], ["d_0", "d_decode"]
    else:
        columns = list(broken_line(rows.requests, knots).T)
        names = ["d_0", *(f"d_decode_table[{k:g}]" for k in knots[1:])]
    if recipe.kv:
        columns.append(rows.context)
        names.append("d_kv")
    return np.column_stack(columns), names


def decode_knots(rows: StepRows, recipe: Recipe) -> Array | None:
    """Return where the decode law bends; None if it is linear."""
    if recipe.decode == "linear" or np.unique(rows.requests).size < 3:
        return None
    others = np.column_stack([rows.context]) if recipe.kv else np.empty((len(rows), 0))
    return chosen_knots(rows.requests, others, rows.time, most=MOST_KNOTS)


def fit_decode(rows: StepRows, recipe: Recipe, *, robust: bool = True) -> BatchTimeLaw:
    """Return the law [s] of decode-only rows."""
    knots = decode_knots(rows, recipe)
    A, _ = decode_columns(rows, recipe, knots)
    return decode_law(fit_relative(A, rows.time, robust=robust), recipe, knots)


def decode_law(c: Array, recipe: Recipe, knots: Array | None) -> BatchTimeLaw:
    """Return the law of the coefficients of :func:`decode_columns`."""
    d_kv = float(c[-1]) if recipe.kv else 0.0
    if knots is None:
        return BatchTimeLaw(d_0=float(c[0]), d_decode=float(c[1]), d_kv=d_kv)
    table = _table(knots, np.append(0.0, c[1 : knots.size]))
    return BatchTimeLaw.tabulated(table, d_kv, d_0=float(c[0]))


@dataclass(frozen=True, slots=True, eq=False)
class PrefillKnots:
    """Where the time of batches with prefill bends: by tokens computed, and by KV read if at all.

    Notes
    -----
    Kernels compute tiles of tokens, which makes stairs in the first; once the contexts of many
    requests no longer fit the cache of the card, KV costs more, which bends the second upwards.
    """

    computed: Array
    read: Array | None


def prefill_knots(rows: StepRows, recipe: Recipe) -> PrefillKnots | None:
    """Return where the time of batches with prefill bends; None if it comes on top of decode."""
    if recipe.prefill == "added":
        return None
    computed = rows.prefill_tokens + rows.requests
    others = np.column_stack([rows.requests, rows.attention, rows.prefill_context])
    read = None
    if recipe.kv:
        ends = np.array([computed.min(), computed.max()])
        beside = np.column_stack([others, broken_line(computed, ends)])
        read = chosen_knots(rows.context, beside, rows.time, most=MOST_KNOTS)
        others = np.column_stack([others, broken_line(rows.context, read)[:, 1:]])
    stairs = chosen_knots(computed, others, rows.time, most=MOST_STAIRS, tile=TILE)
    return PrefillKnots(stairs, read)


def prefill_columns(
    rows: StepRows, law: BatchTimeLaw, recipe: Recipe, knots: PrefillKnots | None
) -> tuple[Array, Array | float, list[str]]:
    """Return the columns of a batch with prefill, what is known already, and names."""
    attended = [rows.attention, rows.prefill_context]
    names = ["d_prefill_attention", "d_prefill_context"]
    if knots is None:
        base = law.mixed_duration(rows.requests, rows.context, 0.0)
        return np.column_stack([rows.prefill_tokens, *attended]), base, ["d_prefill", *names]
    columns = [broken_line(rows.prefill_tokens + rows.requests, knots.computed)]
    names = [*(f"d_prefill_table[{k:g}]" for k in knots.computed), "d_mixed_decode", *names]
    if knots.read is not None:
        columns.append(broken_line(rows.context, knots.read)[:, 1:])
        names[-3:-3] = [f"d_mixed_kv_table[{k:g}]" for k in knots.read[1:]]
    return np.column_stack([*columns, rows.requests, *attended]), 0.0, names


def fit_prefill(
    rows: StepRows, law: BatchTimeLaw, recipe: Recipe, *, robust: bool = True
) -> BatchTimeLaw:
    """Return ``law`` with what batches with prefill add, from such rows."""
    knots = prefill_knots(rows, recipe)
    A, base, _ = prefill_columns(rows, law, recipe, knots)
    return prefill_law(fit_relative(A, rows.time, base=base, robust=robust), law, knots)


def prefill_law(c: Array, law: BatchTimeLaw, knots: PrefillKnots | None) -> BatchTimeLaw:
    """Return ``law`` with the coefficients of :func:`prefill_columns`."""
    decode, attention, context = c[-3:].tolist()
    law = replace(law, d_prefill_attention=attention, d_prefill_context=context)
    if knots is None:
        return replace(law, d_prefill=decode)
    split = knots.computed.size
    computed = _table(knots.computed, c[:split])
    read = None if knots.read is None else _table(knots.read, np.append(0.0, c[split:-3]))
    return replace(law, d_prefill_table=computed, d_mixed_kv_table=read, d_mixed_decode=decode)


def _table(knots: Array, rises: Array) -> tuple[tuple[float, float], ...]:
    return tuple(zip(knots.tolist(), np.cumsum(rises).tolist(), strict=True))


def predict(law: BatchTimeLaw, rows: StepRows) -> Array:
    """Return the duration [s] that ``law`` gives each row, shape (R,)."""
    decode = law.duration(rows.context + rows.requests, rows.requests)
    mixed = law.mixed_duration(
        rows.requests, rows.context, rows.prefill_tokens, rows.attention, rows.prefill_context
    )
    return np.where(rows.prefill_tokens > 0, mixed, decode)
