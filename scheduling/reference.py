"""The level ``reference``: forks of the engine itself, for the truth and for who pays for it.

A fork begins with the very state of an engine, gets one request more and runs until that has ended.
It knows the lengths that the engine knows, so it is no predictor that a control plane could have;
it says what a perfect one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from discrete import engine_for
from serving import FluidServeError, RequestTable


@dataclass(frozen=True, slots=True)
class Truth:
    """What happens to a request, and to the others because of it.

    Parameters
    ----------
    ttft, e2el : [time]
        Of the request.
    externality : [time]
        By how much the E2EL of all others together grow, those included that come later.
    """

    ttft: float
    e2el: float
    externality: float


def fork(engine: Any) -> Any:
    """Return an engine in the state of another one, which does not change with it.

    Parameters
    ----------
    engine
        An engine (:class:`discrete.Engine`) at rest.
    """
    copy = engine_for(
        engine.requests,
        engine.instance,
        seed=engine.seed,
        record_batches=engine.record_batches,
        record_events=engine.record_events,
    )
    copy.restore({name: np.array(table) for name, table in engine.arrays().items()})
    return copy


def truth(engine: Any, prompt: int, answer: int, at: float) -> Truth:
    """Return what becomes of one more request, and of all others of the engine's table.

    Parameters
    ----------
    engine
        At rest, not after ``at``.
    prompt, answer : [tokens]
        Of the request.
    at : [time]
        When it arrives.

    Raises
    ------
    FluidServeError
        If the engine is past ``at``.
    """
    if engine.time > at:
        raise FluidServeError(f"the engine is at {engine.time!r}, past the arrival at {at!r}")
    known = len(engine.requests)
    without, with_it = fork(engine), fork(engine)
    one = RequestTable.validated([0.0], [prompt], [answer])
    with_it.inject(one, at=at, replace=False)
    row = int(np.searchsorted(engine.requests.arrival_time, at, side="right"))
    ends = []
    for each in (without, with_it):
        each.advance()
        ends.append(each.run().requests)
    others = np.delete(np.asarray(ends[1]["completion_time"]), row)
    assert len(others) == known
    return Truth(
        float(ends[1]["first_token_time"][row]) - at,
        float(ends[1]["completion_time"][row]) - at,
        float(np.nansum(others - np.asarray(ends[0]["completion_time"]))),
    )
