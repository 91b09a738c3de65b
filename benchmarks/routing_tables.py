"""Markdown of the study of cells: paired intervals, and where prediction is no help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.paired import interval

MEASURES = {"mean_ttft": "TTFT", "mean_e2el": "E2EL"}
WORST, SHOWN_LOAD = 12, 0.9
"""Cells at most of the last table, and the load that is shown where not every one is."""

Cell = tuple[str, str, float]
"""Fleet, arrivals and load."""


class Runs:
    """The numbers of the runs by cell, policy and seed.

    Parameters
    ----------
    rows
        Of the study.
    about
        Its sizes; ``seeds`` judge, ``chosen_from`` choose.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
        self._found = {
            (row["fleet"], row["arrivals"], row["load"], row["policy"], row["seed"]): row
            for row in rows
        }
        self._about = about
        self.cells = list(dict.fromkeys(key[:3] for key in self._found))
        self.policies = list(dict.fromkeys(key[3] for key in self._found))
        chosen = set(about["chosen_from"])
        self.heuristics = list(dict.fromkeys(key[3] for key in self._found if key[4] in chosen))

    def values(
        self, cell: Cell, policy: str, measure: str, which: str = "seeds"
    ) -> NDArray[np.float64]:
        """Return a measure by seed [time]."""
        return np.array([self._found[*cell, policy, s][measure] for s in self._about[which]])

    def best(self, cell: Cell, measure: str) -> str:
        """Return the heuristic with the lowest mean on the seeds that choose."""
        means = {
            name: self.values(cell, name, measure, "chosen_from").mean() for name in self.heuristics
        }
        return min(means, key=lambda name: means[name])

    def change(self, cell: Cell, policy: str, to: str, measure: str) -> tuple[float, float]:
        """Return the relative change of a mean and half the width of its paired interval."""
        mine, other = (self.values(cell, name, measure) for name in (policy, to))
        found, half = interval(mine - other)
        scale = float(other.mean())
        return found / scale, (math.nan if half is None else half) / scale


def base_of(cell: Cell) -> str:
    """Return the policy that others are held against: that for unequal instances where they are."""
    return "jsq-capacity" if "slow" in cell[0] else "jsq"


def percent(change: tuple[float, float]) -> str:
    """Return a change in words."""
    return f"{100 * change[0]:+.1f} ± {100 * change[1]:.1f} %"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table in Markdown whose first columns are words."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def tables(
    about: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    predicted: Sequence[str],
    *,
    every_load: bool,
) -> str:
    """Return all tables.

    Parameters
    ----------
    about, rows
        Of the study.
    predicted
        Policies that ask the predictor: for TTFT, for E2EL, and for both.
    every_load
        Whether cells of every load are listed.
    """
    runs = Runs(rows, about)
    words = (
        f"`{about['engine']}`, a base of `jsq`, or `jsq-capacity` where 4 instances take "
        f"{about['slower']:g} times as long, {about['requests']} requests a run, "
        f"seeds {about['seeds']}, best heuristic chosen on seeds {about['chosen_from']}, "
        f"{len(rows)} runs in {about['cpu'] / 60:.0f} minutes of one core."
    )
    parts = [words, summary(runs)]
    shown = [c for c in runs.cells if every_load or math.isclose(c[2], SHOWN_LOAD)]
    parts += [by_cell(runs, shown, measure, predicted) for measure in MEASURES]
    return "\n\n".join([*parts, no_help(runs, predicted)])


def summary(runs: Runs) -> str:
    """Return by how much each policy is better than the base, over all cells of a fleet."""
    fleets = list(dict.fromkeys(cell[0] for cell in runs.cells))
    columns = [(fleet, measure) for fleet in fleets for measure in MEASURES]
    found = {
        policy: [
            math.expm1(
                np.mean([
                    math.log1p(runs.change(cell, policy, base_of(cell), measure)[0])
                    for cell in runs.cells
                    if cell[0] == fleet
                ])
            )
            for fleet, measure in columns
        ]
        for policy in runs.policies
    }  # fmt: skip
    head = ["policy", *(f"{fleet}: {MEASURES[measure]}" for fleet, measure in columns)]
    ordered = sorted(found.items(), key=lambda each: each[1][0])
    return grid(head, [[f"`{name}`", *(f"{100 * x:+.1f} %" for x in row)] for name, row in ordered])


def by_cell(
    runs: Runs, cells: Sequence[Cell], measure: str, predicted: Sequence[str]
) -> str:  # fmt: skip
    """Return a row per cell: the base, the best heuristic, and the predicted policies."""
    own = predicted[list(MEASURES).index(measure)]
    found = []
    for cell in cells:
        base, best = base_of(cell), runs.best(cell, measure)
        found.append([
            f"{cell[0]}, {cell[1]}, {cell[2]:g}",
            f"{runs.values(cell, base, measure).mean():.4g}",
            f"`{best}` {percent(runs.change(cell, best, base, measure))}",
            percent(runs.change(cell, own, base, measure)),
            *(percent(runs.change(cell, each, best, measure)) for each in predicted),
        ])  # fmt: skip
    head = [
        f"{MEASURES[measure]}: cell", "base", "best heuristic", f"`{own}`",
        *(f"`{each}` to best" for each in predicted),
    ]  # fmt: skip
    return grid(head, found)


def no_help(runs: Runs, predicted: Sequence[str]) -> str:
    """Return how often prediction beats the best heuristic, and where it does not, worst first."""
    words, worse = [], []
    for measure, own in zip(MEASURES, predicted, strict=False):
        for policy in (own, predicted[-1]):
            found = []
            for cell in runs.cells:
                best = runs.best(cell, measure)
                found.append((runs.change(cell, policy, best, measure), cell, best))
            better = [change for change, *_ in found if change[0] < 0]
            words.append([
                MEASURES[measure], f"`{policy}`", f"{len(found)}", f"{len(better)}",
                f"{sum(change < -half for change, half in better)}",
                f"{sum(change > half for (change, half), *_ in found)}",
            ])  # fmt: skip
            worse += [(*each, measure, policy) for each in found if each[0][0] > 0]
    worse.sort(key=lambda each: -each[0][0])
    rows = [
        [f"{cell[0]}, {cell[1]}, {cell[2]:g}", MEASURES[measure], f"`{policy}`", f"`{best}`",
         percent(change)]
        for change, cell, best, measure, policy in worse[:WORST]
    ]  # fmt: skip
    head = ["", "against the best heuristic", "cells", "better", "surely better", "surely worse"]
    parts = [grid(head, words, left=2)]
    if rows:
        head = ["where prediction is no help", "", "policy", "best heuristic", "change"]
        parts.append(grid(head, rows, left=4))
    return "\n\n".join(parts)
