"""Requests come, a policy sends each to an instance, and the instances serve them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scheduling.fleet import Fleet
from scheduling.fleet_run import FleetRun
from scheduling.listening import Listener, Predicts
from scheduling.messages import RequestMeta
from scheduling.policies import Policy, policy_of
from scheduling.post import Faults, Post
from scheduling.signals import Signals
from serving import ConfigError, FluidServeError, Instance, RequestTable

EVERY = 1000
"""Requests between two looks of whoever watches the progress."""


def route(
    requests: RequestTable,
    instances: Sequence[Instance],
    policy: str | Policy = "jsq",
    *,
    signals: Signals | None = None,
    decision_time: float = 0.0,
    capacity: Sequence[float] | None = None,
    predicted_lengths: bool = False,
    slo: tuple[float | None, float | None] = (None, None),
    predictor: Predicts | None = None,
    listeners: Sequence[Listener] = (),
    faults: Faults | None = None,
    seed: int = 42,
    progress: Callable[[int], None] | None = None,
) -> FleetRun:
    """Send requests to the instances of a fleet, each by the word of a policy.

    Parameters
    ----------
    requests
        Who comes when; their times are those at which clients send.
    instances
        The fleet, of any kinds.
    policy
        Name of one of :data:`scheduling.policies.POLICIES`, where ``NAME@K`` looks at K instances
        at random; ``file.py:function`` or ``module:function`` of a user; or a function of a
        :class:`View` and a :class:`RequestMeta` that returns the number of an instance.
    signals
        When instances tell of themselves; with every batch and at once by default.
    decision_time : [time]
        From the arrival at the router until the request arrives at its instance. Latencies count
        from the former.
    capacity : shape (N,)
        Requests per time that each can serve, of which policies for unequal instances make use; by
        default what the fluid model says, and 1 for all where none answers.
    predicted_lengths
        Whether policies and predictors are told the column ``predicted_decode_length``.
    slo : [time]
        What requests are promised of TTFT and of E2EL; None promises nothing.
    predictor
        Whom predictive policies ask; it listens too.
    listeners
        Who else hears of dispatches and of batches.
    faults
        What happens to batch traces on their way to those who listen.
    seed
        Of engines and of policies that draw at random.
    progress
        Called with the number of requests sent so far, every :data:`EVERY` of them.

    Raises
    ------
    ConfigError
        If there is no such policy, it names no instance, or a number is not allowed.
    UnsupportedError
        If an engine cannot be one of a fleet, or clients give up or wait for answers.
    FluidServeError
        If a policy that asks a predictor got no prediction at all.
    """
    if not 0 <= decision_time < math.inf:
        raise ConfigError("decision_time", decision_time, "a finite time >= 0")
    if capacity is not None and not _are_capacities(capacity, len(instances)):
        raise ConfigError("capacity", list(capacity), "a finite number > 0 for each instance")
    name, choose = policy_of(policy, seed)
    hearers: list[Any] = [each for each in (predictor, *listeners) if each is not None]
    if hasattr(choose, "sync_batch_result"):
        hearers.append(choose)
    fleet = Fleet(
        instances,
        requests,
        signals=signals or Signals(),
        capacity=_capacities(requests, instances) if capacity is None else capacity,
        seed=seed,
        record_events=bool(hearers),
    )
    fleet.view.predictor = predictor
    post = Post(fleet.engines, hearers, faults) if hearers else None
    metas = _metas(requests, predicted_lengths, slo)
    chosen = np.zeros(len(requests), np.int64)
    view, size = fleet.view, len(instances)
    prefixes = _prefixes(requests)
    for row, (now, meta) in enumerate(zip(requests.arrival_time.tolist(), metas, strict=True)):
        fleet.look(now)
        if post is not None:
            post.deliver(view.reports["batches"])
        view.prefix = prefixes[row]
        instance = _checked(choose(view, meta), size, name)
        chosen[row] = instance
        fleet.send(instance, row, now + decision_time)
        if post is not None:
            post.sent(instance, meta, now + decision_time)
        if progress is not None and row % EVERY == EVERY - 1:
            progress(row + 1)
    told = view.predictions
    if told.asked and told.failed == told.asked:
        raise FluidServeError(
            f"every prediction of the policy {name} failed; the first: {told.first}"
        )
    runs = fleet.finish()
    if post is not None:
        post.deliver(view.reports["batches"])
        post.flush()
    return FleetRun(
        requests,
        name,
        chosen,
        requests.arrival_time + decision_time,
        tuple(engine.sent_rows.copy() for engine in fleet.engines),
        runs,
        told,
    )


def _checked(choice: object, size: int, policy: str) -> int:
    try:
        instance = operator.index(choice)  # pyright: ignore[reportArgumentType]
    except TypeError:
        instance = -1
    if not 0 <= instance < size:
        raise FluidServeError(
            f"the policy {policy} chose {choice!r}; allowed: an instance from 0 to {size - 1}"
        )
    return instance


def _metas(
    requests: RequestTable, predicted: bool, slo: tuple[float | None, float | None]
) -> list[RequestMeta]:
    lengths = requests.predicted_decode_length.tolist() if predicted else [None] * len(requests)
    return [
        RequestMeta(row, prompt, length, 0, *slo)
        for row, (prompt, length) in enumerate(
            zip(requests.prefill_length.tolist(), lengths, strict=True)
        )
    ]


def _prefixes(requests: RequestTable) -> list[int]:
    """Return the first content of every prompt; 0 where nobody knows it."""
    contents, found = requests.contents, np.zeros(len(requests), np.int64)
    if contents is not None:
        has = np.diff(contents.first) > 0
        found[has] = contents.piece_id[contents.first[:-1][has]]
    return found.tolist()


def _are_capacities(capacity: Sequence[float], size: int) -> bool:
    return len(capacity) == size and all(0 < each < math.inf for each in capacity)


def _capacities(requests: RequestTable, instances: Sequence[Instance]) -> list[float]:
    """Return what the fluid model says that each instance can serve [requests/time]."""
    from studies.question import Question

    known: dict[Instance, float] = {}
    for instance in instances:
        if instance not in known:
            known[instance] = Question(requests, instance).capacity
    found = [known[each] for each in instances]
    return found if all(0 < each < math.inf for each in found) else [1.0] * len(found)
