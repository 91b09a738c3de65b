"""The instances of a fleet, each stepped by its own kernel, and what they tell the router."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from discrete import Run, Stop, engine_for
from scheduling.signals import Signals, View
from serving import ConfigError, FluidServeError, Instance, RequestTable, UnsupportedError, kind_of

NEEDED = ("state", "refresh", "members", "token_since", "victims", "batch_rows", "bind")
"""What an engine needs besides those of every engine; see :class:`discrete.Reporting`."""


class Fleet:
    """Instances that requests of a table are sent to.

    Parameters
    ----------
    instances
        At least one, of any kinds.
    requests
        All who may be sent.
    signals
        When the instances tell of themselves.
    capacity : shape (N,)
        Weights of the instances, such as the requests per time that each can serve.
    seed
        Of the engines.
    record_events
        Whether somebody listens, who is to hear of evictions.

    Raises
    ------
    WorkloadError
        If a request can never finish on one of the instances.
    UnsupportedError
        If an engine cannot be sent requests one at a time.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        requests: RequestTable,
        *,
        signals: Signals,
        capacity: Sequence[float],
        seed: int = 42,
        record_events: bool = False,
    ) -> None:
        if not instances:
            raise ConfigError("instances", len(instances), "at least one")
        self.instances, self.requests = tuple(instances), requests
        self.engines: list[Any] = [
            _held_back(each, requests, seed, record_events) for each in instances
        ]
        self.view = View.of(capacity, [_kv_total(each) for each in instances])
        self._delay = float(signals.delay)
        self._period = -1.0 if signals.period is None else float(signals.period)
        self._groups: list[tuple[Any, Any, Any, list[Any]]] = []
        for kind in dict.fromkeys(type(each) for each in self.engines):
            self._group(kind)
        self._prompts = requests.prefill_length.tolist()
        self._number = 0

    def _group(self, kind: Any) -> None:
        """Put the states of the engines of one class into one array, for one call to them all."""
        where = np.array([i for i, each in enumerate(self.engines) if type(each) is kind])
        mine = [self.engines[i] for i in where]
        states = np.concatenate([each.state for each in mine])
        for k, engine in enumerate(mine):
            engine.state = states[k : k + 1]
            engine.bind()
        self._groups.append((kind.refresh, states, where, mine))

    def look(self, now: float) -> None:
        """Advance every instance to ``now`` [time] and take in what they tell.

        Raises
        ------
        FluidServeError
            If an instance can do nothing any more.
        """
        self.view.time = now
        for refresh, states, where, engines in self._groups:
            first = 0
            while True:
                first = refresh(
                    states, self.view.reports, where, first, now, self._delay, self._period
                )
                if first == len(engines):
                    break
                if engines[first].advance(until=now) == Stop.STUCK:
                    raise FluidServeError(
                        f"instance {where[first]} is stuck at {engines[first].time!r}: it can "
                        "schedule nothing any more"
                    )

    def send(self, instance: int, row: int, time: float) -> None:
        """Let the request of a row arrive at an instance at ``time`` [time]."""
        self.engines[instance].send(row, time)
        view = self.view
        view.sent[instance] += 1
        view.sent_prompts[instance] += self._prompts[row]
        view.last_sent[instance] = self._number
        self._number += 1

    def finish(self) -> tuple[Run | None, ...]:
        """Run until everyone has finished; return each instance's run, None where it had nobody."""
        self.look(math.inf)
        runs = []
        for engine in self.engines:
            engine.advance()
            runs.append(engine.run() if engine.sent_rows.size else None)
        return tuple(runs)


def _held_back(instance: Instance, requests: RequestTable, seed: int, events: bool) -> Any:
    engine: Any = engine_for(requests, instance, seed=seed, record_events=events)
    if not all(hasattr(engine, name) for name in NEEDED):
        raise UnsupportedError(
            f"the engine {instance.engine} cannot be one of a fleet: it does not tell of itself "
            "while it runs"
        )
    engine.hold_back()
    return engine


def _kv_total(instance: Instance) -> float:
    """KV memory of an instance [tokens]; infinite where nothing limits it."""
    limits = kind_of(instance).limits(instance)
    return limits["memory"].value if "memory" in limits else math.inf
