"""The state of a predictor as arrays, so that another process can go on where one was ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.bounds import Track
from scheduling.instance_state import InstanceState, SyncCounts, Waiting
from scheduling.predictor import Predictor
from scheduling.record import Record
from scheduling.running_set import GROUPS, RunningSet
from serving import FluidServeError

VERSION = 3
"""Of the arrays."""

COUNTS = ("applied", "duplicate", "late", "lost", "unknown", "silent_corrections")
TIMES = (
    "boundary", "last_heard", "last_duration", "waiting_tokens", "computed_ahead", "kv_used",
    "num_running",
)  # fmt: skip
TRACKS = ("ttft", "e2el")
RATES = ("_count", "_last", "_time")
SETS = ("running", "queue")

Arrays = dict[str, NDArray[Any]]


def to_arrays(predictor: Predictor) -> Arrays:
    """Return everything that the answers of a predictor depend on, but its fleet and its lengths.

    Returns
    -------
    dict
        Arrays of whole numbers, numbers and truth values, none of objects.
    """
    states, size = predictor.states, len(predictor.states)
    steps = int(predictor._about[:, 0].max(initial=0.0))
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
        "batch_id": np.array([each.batch_id for each in states], np.int64),
        "times": np.array([[getattr(each, name) for name in TIMES] for each in states]),
        "counts": np.array([[float(getattr(each.counts, name)) for name in COUNTS]
                            for each in states]),
        "waiting": _whole(
            [(i, key, each.prompt, each.of)
             for i, of in enumerate(states) for key, each in of.waiting.items()],
            4,
        ),
        "waiting_at": np.array([each.at for of in states for each in of.waiting.values()], float),
        "fresh": _whole([(i, key) for i, of in enumerate(states) for key in of.fresh], 2),
        "stopped": _whole(
            [(i, key, each[2]) for i, of in enumerate(states) for key, each in of.stopped.items()],
            3,
        ),
        "stopped_tokens": np.array(
            [each[:2] for of in states for each in of.stopped.values()], float
        ).reshape(-1, 2),
    }  # fmt: skip
    for name in SETS:
        out |= _of_sets(name, [getattr(each, name) for each in states])
    return out | _of_record(predictor.record)


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


def _of_sets(name: str, sets: list[RunningSet]) -> Arrays:
    """Return the groups of running sets, who belongs to which, and what holds them together."""
    groups = [np.column_stack([np.full(len(each.rows), i), each.rows])
              for i, each in enumerate(sets)]  # fmt: skip
    members = [(i, *pair) for i, each in enumerate(sets) for pair in each._group_of.items()]
    return {
        f"{name}_groups": np.concatenate(groups),
        f"{name}_members": _whole(members, 3),
        f"{name}_first": np.array([each._base + each._front for each in sets], np.int64),
        f"{name}_total": np.array([each.total for each in sets]),
    }


def _whole(rows: list[Any], columns: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, columns)


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
        raise FluidServeError(f"the state is not of version {VERSION}")
    model = to_arrays(predictor)
    for name, like in model.items():
        found = arrays.get(name)
        if found is None or found.dtype != like.dtype or found.ndim != like.ndim:
            raise FluidServeError(f"the state lacks {name}, or it is of another kind")
        if found.shape[1:] != like.shape[1:] and name != "curves":
            raise FluidServeError(f"the state holds {name} of another size")
    if any(len(arrays[name]) != size for name, like in model.items() if _is_per_instance(name)):
        raise FluidServeError(f"the state is not one of {size} instances")
    _check(predictor, arrays)
    states, record = [_state(arrays, i) for i in range(size)], _record(arrays)
    curves = arrays["curves"]
    for state, of in zip(states, predictor._forecasters, strict=True):
        state.restarts = of.again
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


def _is_per_instance(name: str) -> bool:
    of_sets = (f"{each}_{part}" for each in SETS for part in ("first", "total"))
    return name in {
        "about", "curves", "dirty", "short", "under_way", "marched_running", "marched_number",
        "sent", "batch_id", "times", "counts", *of_sets,
    }  # fmt: skip


def _check(predictor: Predictor, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse numbers that would lead out of the tables."""
    size, classes = len(predictor.states), len(predictor.lengths.parts) + 1
    _, rows, most = predictor._curves.shape
    steps = arrays["about"][:, 0]
    fits = arrays["curves"].shape[1] == rows and arrays["curves"].shape[2] <= most
    fits &= bool(((steps >= 0) & (steps <= arrays["curves"].shape[2])).all())
    of_class = [arrays["waiting"][:, 3], arrays["stopped"][:, 2]]
    of_instance = [arrays[name][:, 0] for name in ("waiting", "fresh", "stopped")]
    of_instance.append(arrays["failed"])
    for name in SETS:
        groups, members = arrays[f"{name}_groups"], arrays[f"{name}_members"]
        of_class.append(groups[:, 4])
        of_instance += [groups[:, 0], members[:, 0]]
        here = np.bincount(groups[:, 0].astype(np.int64), minlength=size) if _within(
            groups[:, 0], size) else np.array([GROUPS + 1])  # fmt: skip
        fits &= bool((here <= GROUPS).all()) and bool(np.isfinite(groups).all())
        fits &= bool((groups[:, 1] >= 0).all())
    fits &= all(_within(each, size) for each in of_instance)
    fits &= all(_within(each, classes) for each in of_class)
    fits &= arrays["rates"].shape == (len(RATES),) and bool((arrays["sent"] >= 0).all())
    fits &= len(arrays["waiting_at"]) == len(arrays["waiting"])
    fits &= len(arrays["stopped_tokens"]) == len(arrays["stopped"])
    fits &= len(arrays["open_predictions"]) == len(arrays["open"])
    for name in TRACKS:
        about = arrays[f"{name}_widening"]
        fits &= len(about) == 3 and bool(about[0] >= 0) and bool(0 < about[2] < 1)
    if not fits:
        raise FluidServeError("the state is damaged")


def _within(places: NDArray[Any], size: int) -> bool:
    return bool(((places >= 0) & (places < size)).all())


def _state(arrays: Mapping[str, NDArray[Any]], i: int) -> InstanceState:
    """Return the state of an instance."""
    times = dict(zip(TIMES, arrays["times"][i].tolist(), strict=True))
    counts = dict(zip(COUNTS, arrays["counts"][i].tolist(), strict=True))
    counts |= {name: int(counts[name]) for name in COUNTS[:-1]}
    mine = arrays["waiting"][:, 0] == i
    waiting = {
        key: Waiting(prompt, of, at)
        for (_, key, prompt, of), at in zip(
            arrays["waiting"][mine].tolist(), arrays["waiting_at"][mine].tolist(), strict=True
        )
    }
    mine = arrays["stopped"][:, 0] == i
    stopped = {
        key: (age, ever, of)
        for (_, key, of), (age, ever) in zip(
            arrays["stopped"][mine].tolist(), arrays["stopped_tokens"][mine].tolist(), strict=True
        )
    }
    return InstanceState(
        running=_set(arrays, "running", i), queue=_set(arrays, "queue", i), waiting=waiting,
        stopped=stopped, counts=SyncCounts(**counts), batch_id=int(arrays["batch_id"][i]),
        fresh=arrays["fresh"][arrays["fresh"][:, 0] == i, 1].tolist(), **times,
    )  # fmt: skip


def _set(arrays: Mapping[str, NDArray[Any]], name: str, i: int) -> RunningSet:
    made = RunningSet()
    groups, members = arrays[f"{name}_groups"], arrays[f"{name}_members"]
    rows = groups[groups[:, 0] == i, 1:]
    made.groups[: len(rows)] = rows
    made._base, made._size = int(arrays[f"{name}_first"][i]), len(rows)
    made.total = float(arrays[f"{name}_total"][i])
    made._group_of = {key: serial for _, key, serial in members[members[:, 0] == i].tolist()}
    return made


def forget(predictor: Predictor, instance_id: int) -> None:
    """Let an instance be empty again; what was counted of its reports stays."""
    state = predictor.states[instance_id]
    for request_id in (*state.waiting, *state.running._group_of, *state.stopped):
        predictor.record._open.pop(request_id, None)
    counts = state.counts
    again = predictor._forecasters[instance_id].again
    predictor.states[instance_id] = InstanceState(counts=counts, restarts=again)
    predictor._dirty.add(instance_id)
