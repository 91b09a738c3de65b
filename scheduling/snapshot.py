"""The state of a predictor as arrays, so that another process can go on where one was ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.answering import STEPS
from scheduling.bounds import Track
from scheduling.predictor import Predictor
from scheduling.record import Record
from scheduling.seldom import SeldomToldPredictor
from scheduling.state_arrays import (
    PER_STATE,
    Arrays,
    check_kinds,
    state_of,
    states_fit,
    states_to_arrays,
    within,
)
from serving import FluidServeError

VERSION = 6
"""Of the arrays."""

TRACKS = ("ttft", "e2el")
RATES = ("_count", "_last", "_time", "_behind")
BELIEF = "belief_"
"""What the names of the arrays begin with that hold what instances are believed to be."""

PER_INSTANCE = PER_STATE | {
    "about", "curves", "dirty", "short", "under_way", "marched_running", "marched_number", "sent",
    "is_believed", "is_marched", "used_at",
}  # fmt: skip
"""Arrays with a row for each instance."""


def to_arrays(predictor: Predictor) -> Arrays:
    """Return everything that the answers of a predictor depend on, but its fleet and its lengths.

    Returns
    -------
    dict
        Arrays of whole numbers, numbers and truth values, none of objects.
    """
    size = len(predictor.states)
    steps = int(predictor._about[:, STEPS].max(initial=0.0))
    dirty = np.zeros(size, bool)
    dirty[sorted(predictor._dirty)] = True
    short = np.zeros(size, bool)
    short[sorted(predictor._short)] = True
    out: Arrays = {
        "version": np.array([VERSION]),
        "about": predictor._about.copy(),
        "curves": predictor._curves[:, :, :steps].copy(),
        "dirty": dirty,
        "short": short,
        "under_way": np.array(predictor._under_way, np.int64),
        "marched_running": np.array(predictor._marched_running, float),
        "marched_number": np.array(predictor._marched_number, float),
        "rates": np.array([getattr(predictor._inflow.fleet, name) for name in RATES]),
        "sent": predictor._inflow._sent.copy(),
        "marches": np.array([predictor.marches]),
    }
    out |= states_to_arrays(predictor.states) | _of_record(predictor.record)
    return out | _of_beliefs(predictor) if isinstance(predictor, SeldomToldPredictor) else out


def _of_beliefs(predictor: SeldomToldPredictor) -> Arrays:
    """Return what instances are believed to be beyond their reports."""
    beliefs = states_to_arrays([each for each in predictor._beliefs if each is not None])
    return {
        "is_believed": np.array([each is not None for each in predictor._beliefs], bool),
        "is_marched": np.array(predictor._is_marched, bool),
        "used_at": predictor._used_at.copy(),
        "left_unheard": np.array([predictor.left_unheard]),
        **{f"{BELIEF}{name}": each for name, each in beliefs.items()},
    }


def _of_record(record: Record) -> Arrays:
    """Return how predictions came true, and those whose truth is still to come."""
    nan = np.nan
    out: Arrays = {
        "failed": np.array(sorted(record.failed), np.int64),
        "open": np.array(list(record._open), np.int64),
        "open_predictions": np.array(
            [(at, ttft, *((nan, nan, nan) if e2el is None else e2el))
             for at, ttft, e2el in record._open.values()],
            float,
        ).reshape(-1, 5),
    }  # fmt: skip
    for name in TRACKS:
        track: Track = getattr(record, name)
        out[f"{name}_scores"] = np.array([track._scores, track._off], float).reshape(2, -1).T
        out[f"{name}_widening"] = np.array([track._since, track.widening, track._share], float)
    return out


def _record(arrays: Mapping[str, NDArray[Any]]) -> Record:
    made = Record()
    made.failed.update(arrays["failed"].tolist())
    for key, (at, ttft, *e2el) in zip(
        arrays["open"].tolist(), arrays["open_predictions"].tolist(), strict=True
    ):
        made._open[key] = at, ttft, None if e2el[0] != e2el[0] else (e2el[0], e2el[1], e2el[2])
    for name in TRACKS:
        track: Track = getattr(made, name)
        for score, off in arrays[f"{name}_scores"].tolist():
            track._scores.append(score)
            track._off.append(off)
        since, track.widening, track._share = arrays[f"{name}_widening"].tolist()
        track._since = int(since)
    return made


def from_arrays(predictor: Predictor, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Let a predictor go on where another one of the same fleet and lengths was.

    Parameters
    ----------
    predictor
        A new one.
    arrays
        As of :func:`to_arrays`.

    Raises
    ------
    FluidServeError
        If the arrays are of another version or another fleet, or are damaged; the predictor is as
        it was.
    """
    size = len(predictor.states)
    version = arrays.get("version")
    if version is None or version.shape != (1,) or int(version[0]) != VERSION:
        raise FluidServeError(
            f"the state is not of version {VERSION}; give another file, or delete this one to "
            "begin anew"
        )
    is_seldom = isinstance(predictor, SeldomToldPredictor)
    if ("is_believed" in arrays) != is_seldom:
        other = "with every batch" if is_seldom else "seldom"
        raise FluidServeError(f"the state is one of instances that report {other}")
    check_kinds(to_arrays(predictor), arrays)
    if any(len(each) != size for name, each in arrays.items() if name in PER_INSTANCE):
        raise FluidServeError(f"the state is not one of {size} instances")
    beliefs = _beliefs(arrays) if is_seldom else {}
    if not _fits(predictor, arrays) or not _beliefs_fit(predictor, arrays, beliefs):
        raise FluidServeError("the state is damaged")
    restarts = [each.again for each in predictor._forecasters]
    states = [state_of(arrays, i, again) for i, again in enumerate(restarts)]
    record = _record(arrays)
    curves = arrays["curves"]
    predictor.states[:] = states
    predictor.record = record
    predictor._curves[:, :, : curves.shape[2]] = curves
    predictor._about[:] = arrays["about"]
    predictor._dirty = set(np.flatnonzero(arrays["dirty"]).tolist())
    predictor._short = set(np.flatnonzero(arrays["short"]).tolist())
    predictor._under_way[:] = arrays["under_way"].tolist()
    predictor._marched_running[:] = arrays["marched_running"].tolist()
    predictor._marched_number[:] = arrays["marched_number"].tolist()
    predictor.marches = int(arrays["marches"][0])
    for name, value in zip(RATES, arrays["rates"].tolist(), strict=True):
        setattr(predictor._inflow.fleet, name, value)
    predictor._inflow._sent[:] = arrays["sent"]
    if isinstance(predictor, SeldomToldPredictor):
        for k, i in enumerate(np.flatnonzero(arrays["is_believed"]).tolist()):
            predictor.believe(i, state_of(beliefs, k, restarts[i]))
        predictor._is_marched[:] = arrays["is_marched"].tolist()
        predictor._used_at[:] = arrays["used_at"]
        predictor.left_unheard = int(arrays["left_unheard"][0])


def _beliefs(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the arrays of what instances are believed to be."""
    return {
        name.removeprefix(BELIEF): each for name, each in arrays.items() if name.startswith(BELIEF)
    }


def _beliefs_fit(predictor: Predictor, arrays: Mapping[str, NDArray[Any]], beliefs: Arrays) -> bool:
    if not beliefs:
        return True
    size, classes = int(arrays["is_believed"].sum()), len(predictor.lengths.parts) + 1
    return arrays["left_unheard"].shape == (1,) and states_fit(beliefs, size, classes)


def _fits(predictor: Predictor, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether no number would lead out of the tables."""
    size, classes = len(predictor.states), len(predictor.lengths.parts) + 1
    _, rows, most = predictor._curves.shape
    steps = arrays["about"][:, STEPS]
    fits = arrays["curves"].shape[1] == rows and arrays["curves"].shape[2] <= most
    fits &= bool(((steps >= 0) & (steps <= arrays["curves"].shape[2])).all())
    fits &= states_fit(arrays, size, classes) and within(arrays["failed"], size)
    fits &= arrays["rates"].shape == (len(RATES),) and bool((arrays["sent"] >= 0).all())
    fits &= len(arrays["open_predictions"]) == len(arrays["open"])
    for name in TRACKS:
        about = arrays[f"{name}_widening"]
        fits &= len(about) == 3 and bool(about[0] >= 0) and bool(0 < about[2] < 1)
    return fits
