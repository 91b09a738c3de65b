"""States of instances as arrays, so that they can be kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduling.instance_state import InstanceState
from scheduling.running_set import GROUPS, RunningSet
from scheduling.sync_counts import COUNTS, SyncCounts
from scheduling.waiting import Waiting
from serving import FluidServeError

TIMES = (
    "boundary", "last_heard", "last_duration", "waiting_tokens", "computed_ahead",
    "computed_again", "kv_used", "num_running",
)  # fmt: skip
SETS = ("running", "queue")

Arrays = dict[str, NDArray[Any]]

PER_STATE = frozenset(
    ["batch_id", "times", "counts", "in_parts", *(f"{each}_{part}" for each in SETS
                                      for part in ("first", "total"))]
)  # fmt: skip
"""Arrays with a row for each state."""


def states_to_arrays(states: Sequence[InstanceState]) -> Arrays:
    """Return everything that states hold.

    Returns
    -------
    dict
        Arrays of whole numbers and numbers, none of objects.
    """
    out: Arrays = {
        "batch_id": np.array([each.batch_id for each in states], np.int64),
        "times": np.array(
            [[getattr(each, name) for name in TIMES] for each in states], float
        ).reshape(-1, len(TIMES)),
        "counts": np.array(
            [[float(getattr(each.counts, name)) for name in COUNTS] for each in states]
        ).reshape(-1, len(COUNTS)),
        "in_parts": np.array([each.in_parts for each in states], bool),
        "gaps": whole([(i, each) for i, of in enumerate(states) for each in of.gaps], 2),
        "waiting": whole(
            [(i, key, each.prompt, each.of)
             for i, of in enumerate(states) for key, each in of.waiting.items()],
            4,
        ),
        "waiting_at": np.array([each.at for of in states for each in of.waiting.values()], float),
        "fresh": whole([(i, key) for i, of in enumerate(states) for key in of.fresh], 2),
        "stopped": whole(
            [(i, key, *each[2:])
             for i, of in enumerate(states) for key, each in of.stopped.items()],
            4,
        ),
        "stopped_tokens": np.array(
            [each[:2] for of in states for each in of.stopped.values()], float
        ).reshape(-1, 2),
    }  # fmt: skip
    for name in SETS:
        out |= _of_sets(name, [getattr(each, name) for each in states])
    return out


def _of_sets(name: str, sets: list[RunningSet]) -> Arrays:
    """Return the groups of running sets, who belongs to which, and what holds them together."""
    groups = [np.column_stack([np.full(len(each.rows), i), each.rows])
              for i, each in enumerate(sets)]  # fmt: skip
    members = [
        (i, key, serial, each._prompt_of[key])
        for i, each in enumerate(sets)
        for key, serial in each._group_of.items()
    ]
    return {
        f"{name}_groups": np.concatenate([np.empty((0, 5)), *groups]),
        f"{name}_members": whole(members, 4),
        f"{name}_first": np.array([each._base + each._front for each in sets], np.int64),
        f"{name}_total": np.array([each.total for each in sets], float),
    }


def whole(rows: Sequence[Any], columns: int) -> NDArray[np.int64]:
    """Return rows of whole numbers, shape (R, columns)."""
    return np.array(rows, np.int64).reshape(-1, columns)


def states_fit(arrays: Mapping[str, NDArray[Any]], size: int, classes: int) -> bool:
    """Return whether nothing in arrays of ``size`` states would lead out of a table.

    Parameters
    ----------
    arrays
        Of the kinds that :func:`states_to_arrays` returns.
    size, classes
        States, and classes of lengths.
    """
    fits = all(len(arrays[name]) == size for name in PER_STATE)
    of_class = [arrays["waiting"][:, 3], arrays["stopped"][:, 2]]
    of_state = [arrays[name][:, 0] for name in ("waiting", "fresh", "stopped", "gaps")]
    for name in SETS:
        groups, members = arrays[f"{name}_groups"], arrays[f"{name}_members"]
        of_class.append(groups[:, 4])
        of_state += [groups[:, 0], members[:, 0]]
        if not within(groups[:, 0], size):
            return False
        here = np.bincount(groups[:, 0].astype(np.int64), minlength=size)
        fits &= bool((here <= GROUPS).all()) and bool(np.isfinite(groups).all())
        fits &= bool((groups[:, 1] >= 0).all())
    fits &= all(within(each, size) for each in of_state)
    fits &= all(within(each, classes) for each in of_class)
    fits &= len(arrays["waiting_at"]) == len(arrays["waiting"])
    return fits and len(arrays["stopped_tokens"]) == len(arrays["stopped"])


def check_kinds(model: Arrays, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays of which one of a model's is missing, or is of another kind.

    Raises
    ------
    FluidServeError
        In words.
    """
    for name, like in model.items():
        found = arrays.get(name)
        if found is None or found.dtype != like.dtype or found.ndim != like.ndim:
            raise FluidServeError(f"the state lacks {name}, or it is of another kind")
        if found.shape[1:] != like.shape[1:] and name != "curves":
            raise FluidServeError(f"the state holds {name} of another size")


def within(places: NDArray[Any], size: int) -> bool:
    """Return whether all of some places are from 0 to ``size`` - 1."""
    return bool(((places >= 0) & (places < size)).all())


def state_of(arrays: Mapping[str, NDArray[Any]], i: int, restarts: bool) -> InstanceState:
    """Return one of the states.

    Parameters
    ----------
    arrays
        As of :func:`states_to_arrays`.
    i
        Its place.
    restarts
        See :class:`InstanceState`.
    """
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
        key: (age, ever, of, prompt)
        for (_, key, of, prompt), (age, ever) in zip(
            arrays["stopped"][mine].tolist(), arrays["stopped_tokens"][mine].tolist(), strict=True
        )
    }
    return InstanceState(
        running=_set(arrays, "running", i), queue=_set(arrays, "queue", i), waiting=waiting,
        stopped=stopped, counts=SyncCounts(**counts), batch_id=int(arrays["batch_id"][i]),
        fresh=dict.fromkeys(arrays["fresh"][arrays["fresh"][:, 0] == i, 1].tolist()),
        gaps=arrays["gaps"][arrays["gaps"][:, 0] == i, 1].tolist(), restarts=restarts,
        in_parts=bool(arrays["in_parts"][i]), **times,
    )  # fmt: skip


def _set(arrays: Mapping[str, NDArray[Any]], name: str, i: int) -> RunningSet:
    made = RunningSet()
    groups, members = arrays[f"{name}_groups"], arrays[f"{name}_members"]
    rows = groups[groups[:, 0] == i, 1:]
    made.groups[: len(rows)] = rows
    made._base, made._size = int(arrays[f"{name}_first"][i]), len(rows)
    made.total = float(arrays[f"{name}_total"][i])
    mine = members[members[:, 0] == i].tolist()
    made._group_of = {key: serial for _, key, serial, _ in mine}
    made._prompt_of = {key: prompt for _, key, _, prompt in mine}
    return made
