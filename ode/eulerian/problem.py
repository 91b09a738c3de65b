"""What every Eulerian back end integrates: parameters, initial state, arrival segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluid import LAW_PARAMETERS, LengthClasses, classes_by_length, classes_of_mix
from ode._initial_state import InitialState
from ode.eulerian.array_functions import OUTPUTS, Compiled, compiled
from serving import (
    BatchTimeLaw,
    DecodeNode,
    RateProfile,
    RequestMix,
    SolveError,
    UnsupportedError,
)

MOST_SEGMENTS = 2048
"""Profiles with more knots (a trace) are averaged over this many equal bins, mass exact."""

MOST_STATES, FEWEST_CLASSES, MOST_CLASSES = 8192, 8, 64
"""Bounds of classes x stages in sacrifice mode, where a class stands for a decode length."""

BOUNDARY_RATE = 2.0
"""beta [1/batch]: a batch boundary is on average half a batch away (model, section 3)."""


NEGLIGIBLE = 1e-4
"""The stages of the last requests empty exponentially, never exactly; this share is empty."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Arrivals as constant rates between edges and jumps at edges.

    Parameters
    ----------
    edge : shape (K + 1,) [time]
        Increasing from 0; the last is the end of arrivals.
    rate : shape (K,) [requests/time]
    jump : shape (K + 1,) [requests]
        Arrivals at the very time of each edge.
    """

    edge: NDArray[np.float64]
    rate: NDArray[np.float64]
    jump: NDArray[np.float64]

    def profile(self) -> RateProfile:
        """Return the arrivals that are integrated, as a cumulative curve."""
        after = np.cumsum(self.jump + np.append(0.0, self.rate * np.diff(self.edge)))
        pairs = np.column_stack([after - self.jump, after])
        return RateProfile(np.repeat(self.edge, 2), np.maximum.accumulate(pairs.ravel()))


@dataclass(frozen=True, slots=True, eq=False)
class EulerianProblem:
    """Everything a back end needs.

    Parameters
    ----------
    model
        Compiled for NumPy; a back end may compile the same symbols for its own library.
    classes
        Lengths by class and stage.
    values
        Parameters and constants by code name.
    Q, X, pool
        State at time 0, shapes (), (J, I) and (J, I) or (J,) [requests].
    segments
        Arrivals.
    drain
        Go on after the last edge until the system is empty.
    negligible
        Share of the largest in_system so far that counts as empty.
    """

    model: Compiled
    classes: LengthClasses
    values: dict[str, Any]
    Q: float
    X: NDArray[np.float64]
    pool: NDArray[np.float64]
    segments: Segments
    drain: bool
    negligible: float

    @property
    def nobody(self) -> float:
        """Mass [requests] that is rounding rather than somebody: below it the node is empty."""
        present = self.Q + self.X.sum() + self.pool.sum()
        return 1e-9 * float(self.segments.profile().total + present)


@dataclass(frozen=True, slots=True, eq=False)
class March:
    """What a back end returns: everything reported, at every step.

    ``march["theta"]`` reads a column by its name in the equations: an integral or an output.

    Parameters
    ----------
    time : shape (T,) [time]
    columns
        Arrays of shape (T,) by code name.
    swapping
        Whether the evicted are in SWAPPED rather than back in WAITING.
    stats
        Steps taken, right-hand sides evaluated.
    """

    time: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]
    swapping: bool
    stats: dict[str, float]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self.columns[name]

    @classmethod
    def of_rows(
        cls, problem: EulerianProblem, rows: NDArray[np.float64], stats: dict[str, float]
    ) -> March:
        """Return the march of rows (T, C): time, Q, integrals, outputs; cut where it is empty."""
        names = ("Q", *problem.model.integrals, *OUTPUTS)
        columns = dict(zip(names, np.ascontiguousarray(rows[:, 1:].T), strict=True))
        time = rows[:, 0]
        if problem.drain:
            inside = columns["Q"] + columns["N"] + columns["m"]
            peak = np.maximum.accumulate(inside)
            empty = (time >= problem.segments.edge[-1]) & (inside <= problem.negligible * peak)
            if empty.any():
                end = int(np.argmax(empty)) + 1
                time, columns = time[:end], {key: x[:end] for key, x in columns.items()}
        return cls(time, columns, problem.model.pool == "Z", stats)


def eulerian_problem(
    profile: RateProfile,
    mix: RequestMix,
    instance: DecodeNode,
    initial: InitialState,
    horizon: float,
    drain: bool,
    most_classes: int | None,
    transport: str,
) -> EulerianProblem:
    """Return the problem of an instance under a workload; see :func:`ode.solve`."""
    law = instance.batch_time
    if instance.mode == "sacrifice":
        classes = classes_by_length(mix, most_classes or _most_classes(mix))
    else:
        classes = classes_of_mix(mix)
    model = compiled(instance.mode, transport, "numpy", law.d_decode_table is not None)
    parameters = {
        "pi": classes.share,
        "q": classes.hazard,
        "p": classes.prefill,
        "M": float(instance.M_total),
        "B": float(min(instance.token_budget, instance.M_total)),
        "kappa": instance.admission_threshold,
        **_law_values(law, {item.code for item in model.equations.parameters}),
        "beta": BOUNDARY_RATE,
        "epsilon": 1e-12 * instance.M_total,
    }
    if law.d_decode_table is not None:
        knot, time, slope = law.table_segments()
        bend = np.diff(slope, prepend=0.0)
        parameters |= {"table_first": time[0], "table_knot": knot, "table_bend": bend}
    segments = _segments(profile, horizon)
    X = _by_stage(classes, initial.running)
    pool = _by_stage(classes, initial.swapped)
    if model.pool == "R":
        pool = pool.sum(axis=1)
    return EulerianProblem(
        model=model,
        classes=classes,
        values=model.constants(parameters),
        Q=initial.waiting,
        X=X,
        pool=pool,
        segments=segments,
        drain=drain,
        negligible=NEGLIGIBLE,
    )


def _law_values(law: BatchTimeLaw, known: set[str]) -> dict[str, float]:
    """Return the plain coefficients of a law by code name.

    Raises
    ------
    UnsupportedError
        If the law spends a coefficient that the symbolic equations have no term for.
    """
    values = {name: float(getattr(law, name)) for name in LAW_PARAMETERS}
    for name, value in values.items():
        if name not in known and value != 0:
            raise UnsupportedError(
                f"the symbolic equations have no term {name} of the batch-time law; use lagrangian"
            )
    return {name: value for name, value in values.items() if name in known}


def _most_classes(mix: RequestMix) -> int:
    """Return how many length classes keep the state at a few thousand numbers."""
    return int(np.clip(MOST_STATES // mix.longest_decode, FEWEST_CLASSES, MOST_CLASSES))


def _segments(profile: RateProfile, horizon: float) -> Segments:
    """Return the profile up to ``horizon`` as rates and jumps."""
    edge = np.unique(np.append(profile.time[profile.time < horizon], [0.0, horizon]))
    if edge.size > MOST_SEGMENTS + 1:
        edge = np.linspace(0.0, horizon, MOST_SEGMENTS + 1)
        count = profile.count(edge)
        count[0] = 0.0
        jump = np.zeros(edge.size)
        return Segments(edge, np.diff(count) / np.diff(edge), jump)
    after = profile.count(edge)
    left = np.searchsorted(profile.time, edge, side="left")
    inside = np.minimum(left, profile.time.size - 1)
    at_knot = profile.time[inside] == edge
    before = np.where(at_knot, profile.cumulative[inside], after)
    before[0] = 0.0
    return Segments(edge, (before[1:] - after[:-1]) / np.diff(edge), after - before)


def _by_stage(classes: LengthClasses, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (mass, age, furthest) rows as requests by class and stage (J, I).

    A request of age a produces token a + 1; an age between whole tokens is split between two.
    """
    out = np.zeros_like(classes.hazard)
    for mass, age, furthest in rows:
        if mass == 0:
            continue
        whole = int(np.floor(age))
        for stage, part in ((whole, 1 - (age - whole)), (whole + 1, age - whole)):
            if part == 0:
                continue
            share = classes.at_age(max(stage, int(np.floor(furthest))))
            if share.sum() <= 0:
                raise SolveError(
                    "eulerian", "initial_state",
                    f"no request of this mix is longer than {max(stage, furthest):g} tokens",
                )  # fmt: skip
            out[:, stage] += mass * part * share
    return out
