"""Make a failing case small: fewer requests, shorter ones, plainer settings."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

from case import DEFAULTS, Case, Request

MOST_TRIALS = 600


def smaller(case: Case, fails: Callable[[Case], bool], trials: int = MOST_TRIALS) -> Case:
    """Return a case for which ``fails`` still holds and from which no single step leads on.

    Parameters
    ----------
    case
        A case for which ``fails`` holds.
    fails
        Run both sides and say whether they differ.
    trials
        Most calls of ``fails``.
    """
    found = True
    while found:
        found = False
        for candidate in _candidates(case):
            if trials <= 0:
                return case
            trials -= 1
            if fails(candidate):
                case, found = candidate, True
                break
    return case


def _candidates(case: Case) -> Iterator[Case]:
    """Cases that are one step smaller, the largest steps first."""
    yield from _with_fewer_requests(case)
    yield from _with_plainer_settings(case)
    yield from _with_plainer_requests(case)


def _with_fewer_requests(case: Case) -> Iterator[Case]:
    count = len(case.requests)
    size = count // 2
    while size >= 1:
        for start in range(0, count, size):
            left = case.requests[:start] + case.requests[start + size :]
            if left:
                yield _changed(case, requests=left)
        size //= 2


def _with_plainer_settings(case: Case) -> Iterator[Case]:
    keep = {"block_size", "num_gpu_blocks", "num_cpu_blocks", "max_num_seqs"}
    for key, value in case.settings.items():
        if key not in keep and value != DEFAULTS[key]:
            left = {name: given for name, given in case.settings.items() if name != key}
            yield _changed(case, settings=left)
    for key, value in case.batch_time.items():
        if value and key != "d_0":
            yield _changed(case, batch_time={**case.batch_time, key: 0.0})


def _with_plainer_requests(case: Case) -> Iterator[Case]:
    for place, one in enumerate(case.requests):
        for change in _plainer(one):
            requests = copy.deepcopy(case.requests)
            for key, value in change.items():
                setattr(requests[place], key, value)
            if all(a.arrival <= b.arrival for a, b in itertools.pairwise(requests)):
                yield _changed(case, requests=requests)


def _plainer(one: Request) -> Iterator[dict]:
    if one.arrival:
        yield {"arrival": 0.0}
    if one.abort is not None:
        yield {"abort": None}
    if one.content:
        yield {"content": ""}
    if one.answer is not None:
        yield {"answer": None}
    if one.priority:
        yield {"priority": 0}
    for key in ("prompt", "output"):
        length = getattr(one, key)
        for shorter in {length // 2, length - 1} - {0, length}:
            if key == "output" or not one.content:
                yield {key: shorter}


def _changed(case: Case, **changes: object) -> Case:
    made = copy.deepcopy(case)
    for key, value in changes.items():
        setattr(made, key, copy.deepcopy(value))
    return made
