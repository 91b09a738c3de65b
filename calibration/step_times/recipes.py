"""A recipe says which rows give which coefficients of the batch-time law."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.step_times.broken_lines import broken_line, chosen_knots
from calibration.step_times.design import Design, Line
from calibration.step_times.rows import StepRows
from serving import BatchTimeLaw

MOST_KNOTS = 8
"""Largest number of rows of a table whose line bends freely."""

MOST_STAIRS = 16
"""Largest number of rows of a table that may have stairs."""

TILE = 128
"""Tokens that the matrix kernels of NVIDIA cards compute together."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe says which form each part of a law takes.

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
        """Return the recipe in words, for tables."""
        return f"{self.decode}, prefill {self.prefill}{'' if self.kv else ', without KV'}"


@dataclass(frozen=True, slots=True, eq=False)
class PartFit:
    """Decode-only batches give one part of a law, batches with prefill the other.

    Parameters
    ----------
    law
        Batch-time law [s] with the coefficients of this part.
    design
        Rows and columns that the part was fitted to.
    coefficients : shape (K,)
        One number per column of the design.
    """

    law: BatchTimeLaw
    design: Design
    coefficients: Array


def fit_law(rows: StepRows, recipe: Recipe) -> BatchTimeLaw:
    """Return the law [s] of ``rows``: decode terms from decode-only rows, the rest from others.

    Batches with prefill run other kernels, so one coefficient of the KV read, fitted to all rows
    at once, would be wrong for both.
    """
    is_decode = rows.prefill_tokens == 0
    law = fit_decode(rows[is_decode], recipe).law
    if is_decode.all():
        return law
    return fit_prefill(rows[~is_decode], law, recipe).law


def fit_decode(rows: StepRows, recipe: Recipe) -> PartFit:
    """Return the fit of decode-only rows."""
    knots = _decode_knots(rows, recipe)
    terms: dict[str, Array | Line] = {"d_0": np.ones(len(rows))}
    if knots is None:
        terms["d_decode"] = rows.requests
    else:
        terms["d_decode_table"] = Line(broken_line(rows.requests, knots)[:, 1:], knots[1:])
    if recipe.kv:
        terms["d_kv"] = rows.context
    design = Design.of(rows.time, terms)
    coefficients = design.fit()
    found = design.by_term(coefficients)
    d_0, d_kv = float(found["d_0"].item()), float(found["d_kv"].item()) if recipe.kv else 0.0
    if knots is None:
        law = BatchTimeLaw(d_0=d_0, d_decode=float(found["d_decode"].item()), d_kv=d_kv)
    else:
        table = _table(knots, np.append(0.0, found["d_decode_table"]))
        law = BatchTimeLaw.tabulated(table, d_kv, d_0=d_0)
    return PartFit(law, design, coefficients)


def _decode_knots(rows: StepRows, recipe: Recipe) -> Array | None:
    """Return the numbers of requests where the decode law bends; None if the law is linear."""
    if recipe.decode == "linear" or np.unique(rows.requests).size < 3:
        return None
    others = np.column_stack([rows.context]) if recipe.kv else np.empty((len(rows), 0))
    return chosen_knots(rows.requests, others, rows.time, most=MOST_KNOTS)


def fit_prefill(rows: StepRows, law: BatchTimeLaw, recipe: Recipe) -> PartFit:
    """Return ``law`` with the prefill terms that rows with prefill give.

    Parameters
    ----------
    rows
        Batches with prefill.
    law
        Law of decode-only batches.
    recipe
        Form of the prefill terms: on top of ``law``, or tables of their own.
    """
    attended = {
        "d_prefill_attention": rows.attention,
        "d_prefill_context": rows.prefill_context,
    }
    if recipe.prefill == "added":
        knots, base = None, law.mixed_duration(rows.requests, rows.context, 0.0)
        terms: dict[str, Array | Line] = {"d_prefill": rows.prefill_tokens}
    else:
        knots, base = _prefill_knots(rows, recipe), 0.0
        terms = {
            "d_prefill_table": Line(broken_line(rows.computed, knots.computed), knots.computed)
        }
        if knots.read is not None:
            line = broken_line(rows.context, knots.read)
            terms["d_mixed_kv_table"] = Line(line[:, 1:], knots.read[1:])
        terms["d_mixed_decode"] = rows.requests
    design = Design.of(rows.time, terms | attended, base)
    coefficients = design.fit()
    found = design.by_term(coefficients)
    single = {term: float(each.item()) for term, each in found.items() if "table" not in term}
    tables = {}
    if knots is not None:
        tables["d_prefill_table"] = _table(knots.computed, found["d_prefill_table"])
        if knots.read is not None:
            rises = np.append(0.0, found["d_mixed_kv_table"])
            tables["d_mixed_kv_table"] = _table(knots.read, rises)
    return PartFit(replace(law, **single, **tables), design, coefficients)


@dataclass(frozen=True, slots=True, eq=False)
class PrefillKnots:
    """The time of a batch with prefill bends at these contents.

    Parameters
    ----------
    computed : [tokens]
        Tokens computed. Kernels compute tiles of tokens, which makes stairs.
    read : [tokens]
        KV read; None without the KV term. Once the contexts of many requests no longer fit the
        cache of the card, KV costs more, which bends the line upwards.
    """

    computed: Array
    read: Array | None


def _prefill_knots(rows: StepRows, recipe: Recipe) -> PrefillKnots:
    """Return the contents at which the time of batches with prefill bends."""
    computed = rows.computed
    others = np.column_stack([rows.requests, rows.attention, rows.prefill_context])
    read = None
    if recipe.kv:
        ends = np.array([computed.min(), computed.max()])
        beside = np.column_stack([others, broken_line(computed, ends)])
        read = chosen_knots(rows.context, beside, rows.time, most=MOST_KNOTS)
        others = np.column_stack([others, broken_line(rows.context, read)[:, 1:]])
    stairs = chosen_knots(computed, others, rows.time, most=MOST_STAIRS, tile=TILE)
    return PrefillKnots(stairs, read)


def _table(knots: Array, rises: Array) -> tuple[tuple[float, float], ...]:
    """Return the rows (content, time [s]) of a table from the rise up to each knot."""
    return tuple(zip(knots.tolist(), np.cumsum(rises).tolist(), strict=True))


def predict(law: BatchTimeLaw, rows: StepRows) -> Array:
    """Return the duration [s] that ``law`` gives each row, shape (R,)."""
    decode = law.duration(rows.context + rows.requests, rows.requests)
    mixed = law.mixed_duration(
        rows.requests, rows.context, rows.prefill_tokens, rows.attention, rows.prefill_context
    )
    return np.where(rows.prefill_tokens > 0, mixed, decode)
