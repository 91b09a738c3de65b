"""Recipes: which rows give which coefficients of the batch-time law."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.step_times._solver import broken_line, chosen_knots, fit_relative
from calibration.step_times.reading import StepRows
from serving import BatchTimeLaw

MOST_KNOTS = 8
"""Rows of a table."""

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
        with prefill by a broken line in the tokens computed, and their own KV coefficient.
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
    rise = np.concatenate([[0.0], np.cumsum(c[1 : knots.size])])
    table = tuple(zip(knots.tolist(), rise.tolist(), strict=True))
    return BatchTimeLaw.tabulated(table, d_kv, d_0=float(c[0]))


def prefill_knots(rows: StepRows, recipe: Recipe) -> Array | None:
    """Return where the time by tokens computed bends; None if it comes on top of decode."""
    if recipe.prefill == "added":
        return None
    columns = [rows.attention, rows.prefill_context, *([rows.context] if recipe.kv else [])]
    computed = rows.prefill_tokens + rows.requests
    return chosen_knots(computed, np.column_stack(columns), rows.time, most=MOST_KNOTS)


def prefill_columns(
    rows: StepRows, law: BatchTimeLaw, recipe: Recipe, knots: Array | None
) -> tuple[Array, Array | float, list[str]]:
    """Return the columns of a batch with prefill, what is known already, and names."""
    attended = [rows.attention, rows.prefill_context]
    names = ["d_prefill_attention", "d_prefill_context"]
    if knots is None:
        base = law.mixed_duration(rows.requests, rows.context, 0.0)
        return np.column_stack([rows.prefill_tokens, *attended]), base, ["d_prefill", *names]
    line = broken_line(rows.prefill_tokens + rows.requests, knots)
    kv = [rows.context] if recipe.kv else []
    names = [f"d_prefill_table[{k:g}]" for k in knots] + ["d_mixed_kv"] * len(kv) + names
    return np.column_stack([line, *kv, *attended]), 0.0, names


def fit_prefill(
    rows: StepRows, law: BatchTimeLaw, recipe: Recipe, *, robust: bool = True
) -> BatchTimeLaw:
    """Return ``law`` with what batches with prefill add, from such rows."""
    knots = prefill_knots(rows, recipe)
    A, base, _ = prefill_columns(rows, law, recipe, knots)
    return prefill_law(fit_relative(A, rows.time, base=base, robust=robust), law, recipe, knots)


def prefill_law(c: Array, law: BatchTimeLaw, recipe: Recipe, knots: Array | None) -> BatchTimeLaw:
    """Return ``law`` with the coefficients of :func:`prefill_columns`."""
    attention, context = c[-2:].tolist()
    law = replace(law, d_prefill_attention=attention, d_prefill_context=context)
    if knots is None:
        return replace(law, d_prefill=float(c[0]))
    rows = zip(knots.tolist(), np.cumsum(c[: knots.size]).tolist(), strict=True)
    d_kv = float(c[knots.size]) if recipe.kv else 0.0
    return replace(law, d_prefill_table=tuple(rows), d_mixed_kv=d_kv)


def predict(law: BatchTimeLaw, rows: StepRows) -> Array:
    """Return the duration [s] that ``law`` gives each row, shape (R,)."""
    decode = law.duration(rows.context + rows.requests, rows.requests)
    mixed = law.mixed_duration(
        rows.requests, rows.context, rows.prefill_tokens, rows.attention, rows.prefill_context
    )
    return np.where(rows.prefill_tokens > 0, mixed, decode)
