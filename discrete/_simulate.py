"""One call from requests to a run."""

from __future__ import annotations

from collections.abc import Callable

from numpy.typing import ArrayLike

from discrete._engine import Progress, engine_for
from discrete._run import Run
from serving import DecodeNode, Instance, RequestTable
from serving.arguments import checked


@checked(sample_times="any")
def simulate(
    requests: RequestTable,
    instance: Instance | None = None,
    *,
    seed: int = 42,
    until: float | None = None,
    record_batches: bool = True,
    record_events: bool = False,
    sample_times: ArrayLike | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Simulate an instance batch by batch.

    Parameters
    ----------
    requests
        Who arrives when, with which lengths.
    instance
        What serves them; the default node where not given.
    seed
        Of the random victim policy; nothing else is random.
    until : [time]
        Stop at the first batch boundary at or after it; by default when everyone has finished.
    record_batches
        Keep one row per batch: needed for a full trajectory and inter-token latencies.
    record_events
        Keep one row per event, for the event files.
    sample_times : shape (G,) [time]
        Times at which to note the state, at next to no cost.
    progress
        Called every few tens of milliseconds.

    Returns
    -------
    Run

    Raises
    ------
    WorkloadError
        If a request can never finish.
    ConfigError
        If a user's policy cannot be used.

    Examples
    --------
    >>> from serving import RequestTable
    >>> run = simulate(RequestTable.validated([0.0, 0.5], [10, 20], [2, 1]))
    >>> run.requests["completion_time"].tolist()
    [2.0439999999999996, 2.0439999999999996]
    """
    engine = engine_for(
        requests,
        DecodeNode() if instance is None else instance,
        seed=seed,
        record_batches=record_batches,
        record_events=record_events,
        sample_times=sample_times,
    )
    engine.advance(until=until, progress=progress)
    return engine.run()
