"""Replications of the discrete engine, from a question to an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

import discrete
from serving import ConfigError
from studies.comparison.gathering import Ensemble, gathered
from studies.comparison.replicate import Sampling, first_replicate, replicates
from studies.comparison.settings import WORTH_A_POOL, Replications, Told
from studies.pool import default_workers
from studies.question import Question


def run_ensemble(
    question: Question,
    replications: Replications | None = None,
    *,
    drain: bool = True,
    goodput: Mapping[str, float] | None = None,
    told: Told | None = None,
) -> Ensemble:
    """Run replications of the discrete engine.

    Parameters
    ----------
    question
        With ``num_requests``, the last arrival of the first replication is the horizon of all. So
        is the last arrival of a file, or its last completion where all arrive at time 0.
    replications
        How many, and what is kept of them; 32 by default.
    drain
        Run replications to the end, for their latencies; otherwise to the horizon.
    goodput
        Thresholds by latency name [time].
    told
        Called with the replications done and to do.

    Raises
    ------
    ConfigError, WorkloadError
        For options that are not allowed, or requests that cannot be drawn or run.
    """
    settings = Replications() if replications is None else replications
    grid = np.linspace(0.0, _end(question), settings.points)
    sampling = Sampling(question.until(grid[-1]), grid, settings.outputs, drain, goodput)
    first = first_replicate(sampling, question.requests)
    workers = settings.workers
    if workers is None:
        workers = default_workers() if first.seconds * settings.count > WORTH_A_POOL else 1
    later = partial(replicates, sampling, workers=workers)
    return gathered(sampling, first, later, settings, told)


def _end(question: Question) -> float:
    """Return the end of arrivals [time], or the last completion where all arrive at time 0."""
    if question.end > 0:
        return question.end
    run = discrete.simulate(
        question.requests, question.instance, seed=question.seed, record_batches=False
    )
    end = run.duration
    if not 0 < end < float("inf"):
        raise ConfigError("horizon", end, "a finite time > 0")
    return end
