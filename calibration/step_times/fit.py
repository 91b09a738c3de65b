"""A fit to step times gives a batch-time law, and figures that say how good the fit is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from calibration.step_times.diagnostics import (
    Coefficient,
    Identifiability,
    Outlier,
    coefficients,
    identifiability,
    outliers,
)
from calibration.step_times.holdout import HeldOut, held_out, level_numbers
from calibration.step_times.recipes import Recipe, fit_decode, fit_prefill, predict
from calibration.step_times.rows import StepRows
from serving import BatchTimeLaw, ConfigError, WorkloadError

LAWS = ("auto", "linear", "tabulated")
"""Forms of the decode law that a user can ask for."""

FEWEST = 12
"""Smallest number of decode-only rows that a fit needs."""

WORTH = 0.9
"""Held-out error of a table, over that of the linear law, below which the table is chosen."""

LARGE_ERROR = 0.1
"""Held-out error of the chosen law above which the fit warns."""


@dataclass(frozen=True, slots=True)
class FitQuality:
    """Errors on seen and on held-out rows say how good a fit is.

    Parameters
    ----------
    rows
        Number of rows by regime.
    mape
        Mean absolute relative error on the rows of the fit, as a share, by regime.
    held_out
        Errors on rows that were not in the fit, of the chosen recipe and of the others, so that
        the choice can be judged.
    """

    rows: Mapping[str, int]
    mape: Mapping[str, float]
    held_out: tuple[HeldOut, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StepTimeFit:
    """A fit holds a law, and figures that say how good the fit is.

    Parameters
    ----------
    law
        Batch-time law [s].
    recipe
        Form of the law.
    coefficients
        Coefficients with 95 % intervals.
    decode, prefill
        Columns that the rows of each regime tell apart; ``prefill`` is None without such rows.
    quality
        Errors, in and out of the fit.
    outliers
        Rows far from the law, farthest first, at most 20.
    warnings
        Cautions for the user of the law, in words.
    rows
        Rows that the law was fitted to.
    """

    law: BatchTimeLaw
    recipe: Recipe
    coefficients: tuple[Coefficient, ...]
    decode: Identifiability
    prefill: Identifiability | None
    quality: FitQuality
    outliers: tuple[Outlier, ...]
    warnings: tuple[str, ...]
    rows: StepRows

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows as plain values."""
        about = {key: value for key, value in self.rows.about.items()}
        return {
            "about": about,
            "dropped": dict(self.rows.dropped),
            "time_unit": "s",
            "law": {key: value for key, value in asdict(self.law).items() if value is not None},
            "recipe": asdict(self.recipe),
            "coefficients": [asdict(each) for each in self.coefficients],
            "identifiability": {
                "decode": _said(self.decode),
                "prefill": None if self.prefill is None else _said(self.prefill),
                "not_identified": [c.name for c in self.coefficients if not c.identified],
            },
            "quality": {
                "rows": dict(self.quality.rows),
                "mape": dict(self.quality.mape),
                "held_out": [
                    asdict(each)
                    | {"recipe": each.recipe.name, "chosen": each.recipe == self.recipe}
                    for each in self.quality.held_out
                ],
            },
            "outliers": [asdict(each) for each in self.outliers],
            "warnings": list(self.warnings),
        }


def _said(found: Identifiability) -> dict[str, Any]:
    """Return an identifiability as plain values."""
    one, other, correlation = found.collinear
    return {"condition": found.condition, "most_alike": [one, other], "cosine": correlation}


def fit_step_times(
    rows: StepRows,
    *,
    law: str = "auto",
    kv: bool = True,
    compare: bool = True,
    progress: Callable[[str], None] | None = None,
) -> StepTimeFit:
    """Fit a batch-time law to measured steps.

    Decode-only rows give d_0, d_decode (or a table) and d_kv; batches with prefill, which run
    other kernels, give the prefill terms (model, section 1: tau = d_0 + d_prefill * prefill_tokens
    + d_decode * requests + d_kv * context). All by robust non-negative least squares on relative
    errors.

    Parameters
    ----------
    rows
        Of :func:`read_step_times` or :meth:`StepRows.of`.
    law
        ``linear``, ``tabulated``, or ``auto``: what is better on held-out levels.
    kv
        Whether the KV read is a term.
    compare
        Whether the recipes that were not chosen are scored too, and those without the KV term.
    progress
        Called with the name of what begins.

    Raises
    ------
    WorkloadError
        If there are too few rows, or a column does not vary.
    ConfigError
        If ``law`` is none of these.
    """
    if law not in LAWS:
        raise ConfigError("law", law, " | ".join(LAWS))
    kv = kv and rows.has_context
    _check(rows, kv)
    scores: list[HeldOut] = []

    def scored(recipe: Recipe, regimes: tuple[str, ...]) -> float:
        if progress is not None:
            progress(f"{recipe.name}: {', '.join(regimes)} rows")
        found = held_out(rows, recipe, regimes)
        scores.extend(found)
        errors = [each.mape for each in found if each.regime == regimes[0]]
        return float(np.mean(errors)) if errors else float("inf")

    decode, prefill = _choice(rows, law, kv, scored)
    recipe = Recipe(decode, prefill, kv)
    if compare and kv:
        scored(Recipe(decode, prefill, kv=False), ("decode", "mixed"))
    # a line is of the recipe as far as its regime depends on it
    scores = [_of(each, recipe) for each in scores]
    return _fit(rows, recipe, tuple(scores))


def _choice(
    rows: StepRows, law: str, kv: bool, scored: Callable[[Recipe, tuple[str, ...]], float]
) -> tuple[str, str]:
    """Return the forms of decode and of prefill that have the smaller error on held-out levels."""
    kinds = LAWS[1:] if law == "auto" else (law,)
    errors = {kind: scored(Recipe(kind, "added", kv), ("decode",)) for kind in kinds}
    decode = kinds[0]
    if len(kinds) > 1 and errors["tabulated"] < WORTH * errors["linear"]:
        decode = "tabulated"
    if not (rows.prefill_tokens > 0).any():
        return decode, "added"
    ways = ("added", "tabulated")
    errors = {way: scored(Recipe(decode, way, kv), ("mixed", "prefill")) for way in ways}
    return decode, "tabulated" if errors["tabulated"] < WORTH * errors["added"] else "added"


def _of(line: HeldOut, recipe: Recipe) -> HeldOut:
    """Return a decode score under the chosen recipe where both recipes agree on decode."""
    same = (line.recipe.decode, line.recipe.kv) == (recipe.decode, recipe.kv)
    if line.regime != "decode" or not same:
        return line
    return replace(line, recipe=recipe)


def _fit(rows: StepRows, recipe: Recipe, scores: tuple[HeldOut, ...]) -> StepTimeFit:
    """Return the fit of all rows by one recipe, with intervals, outliers and warnings."""
    is_decode = rows.prefill_tokens == 0
    some = rows[is_decode]
    part = fit_decode(some, recipe)
    law, decode, prefill = part.law, identifiability(part.design), None
    known = coefficients(part.design, part.coefficients, level_numbers(some.requests), decode)
    if not is_decode.all():
        others = rows[~is_decode]
        part = fit_prefill(others, law, recipe)
        law, prefill = part.law, identifiability(part.design)
        level = level_numbers(others.prefill_tokens)
        known += coefficients(part.design, part.coefficients, level, prefill)
    predicted = predict(law, rows)
    far = outliers(rows, predicted)
    error, regime = np.abs(predicted / rows.time - 1), rows.regime
    present = [name for name in ("decode", "mixed", "prefill") if (regime == name).any()]
    quality = FitQuality(
        rows={name: int((regime == name).sum()) for name in present},
        mape={name: float(error[regime == name].mean()) for name in present},
        held_out=scores,
    )
    return StepTimeFit(
        law=law,
        recipe=recipe,
        coefficients=tuple(known),
        decode=decode,
        prefill=prefill,
        quality=quality,
        outliers=tuple(far),
        warnings=tuple(_warnings(known, decode, quality, recipe, rows)),
        rows=rows,
    )


def _warnings(
    known: list[Coefficient],
    decode: Identifiability,
    quality: FitQuality,
    recipe: Recipe,
    rows: StepRows,
) -> list[str]:
    """Return the cautions that the fit calls for."""
    found = []
    loose = [each.name for each in known if not each.identified and "[" not in each.name]
    if loose:
        one, other, _ = decode.collinear
        found.append(
            f"not identified: {', '.join(loose)} (most alike in decode batches: {one} and {other});"
            " predictions within the measured range are, the split between terms is not"
        )
    if not rows.has_context:
        found.append("no kv_tokens: the time per KV token is part of the other terms")
    for each in quality.held_out:
        if each.recipe == recipe and each.mape > LARGE_ERROR:
            found.append(
                f"{100 * each.mape:.0f} % off in {each.regime} batches, {each.split} in"
                f" {each.levels_of} (worst at {each.worst_level:g})"
            )
    return found


def _check(rows: StepRows, kv: bool) -> None:
    """Refuse rows that are too few, or that do not vary enough, to tell a law."""
    path = rows.about.get("file")
    decode = rows[rows.prefill_tokens == 0]
    if len(decode) < FEWEST:
        raise WorkloadError(
            f"{len(decode)} decode-only rows (no prefill tokens) are too few; {FEWEST} are needed",
            path=path,
        )
    columns = [("step time", decode.time), ("decode_tokens", decode.requests)]
    for name, values in columns + ([("kv_tokens", decode.context)] if kv else []):
        if values.min() == values.max():
            raise WorkloadError(
                "is the same in every decode-only row: its part of the time cannot be told"
                + ("; without the KV term (--no-kv) it can" if name == "kv_tokens" else ""),
                path=path, column=name, value=float(values[0]),
            )  # fmt: skip
