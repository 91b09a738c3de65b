"""How far the doubt of a fitted law makes the latencies doubtful that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs import (
    COEFFICIENTS,
    Replay,
    Replayed,
    RequestLog,
    RunCalibration,
    half_widths_of,
    laws_without_parts,
)
from discrete import simulate
from serving import BatchTimeLaw, ConfigError, FluidServeError, Instance, RequestTable

LATENCIES = ("ttft", "tpot", "e2el")
"""Mean latencies, by their names in results of clients."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A mean latency as a client measured it, and as a replay under a fitted law has it.

    Parameters
    ----------
    measured, replayed : [s]
        Of the same requests. A replay has no front end, whose part of every TTFT and E2EL is not in
        it.
    half_width : [s]
        Of the 95 % interval that the doubt of the law gives to the replay; NaN where the run is too
        short to say.
    """

    measured: float
    replayed: float
    half_width: float


def latency_doubts(log: RequestLog, found: RunCalibration, replay: Replay) -> dict[str, Doubt]:
    """Return the mean latencies of a run, replayed under its law, with the doubt of the law.

    The law is fitted again without each tenth of the run, and the run replayed under each of these
    laws. Their latencies spread as the coefficients do together: coefficients that take one
    another's place leave the latencies as they are, which intervals of single coefficients do not
    show. The interval is of this load. Where the law is wrong in its form, another load may be off
    by more.

    Parameters
    ----------
    log
        The run.
    found
        Its calibration.
    replay
        The engine; see :func:`studies.replay.replay_of`.
    """
    arrival = log.arrival
    measured = _means(arrival, log.first_token, log.finish, log.output_tokens)
    stretch = 1 + found.beyond_law

    def means(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        known = np.nan_to_num(coefficients).tolist()
        law = BatchTimeLaw(**dict(zip(COEFFICIENTS, known, strict=True)))
        law = law if found.of_everyone else law.for_whole_context()
        return _of_replay(arrival, replay(arrival, law.in_unit(stretch)))

    replayed, half = means(found.law.value), np.full(3, np.nan)
    try:
        half = half_widths_of(np.array([means(each) for each in laws_without_parts(found.rows)]))
    except FluidServeError:  # too few rows for a law without a part
        pass
    return {
        name: Doubt(*map(float, values))
        for name, *values in zip(LATENCIES, measured, replayed, half, strict=True)
    }


def latencies_within(
    requests: RequestTable, instance: Instance, error: float, *, seed: int = 42
) -> dict[str, tuple[float, float]]:
    """Return each mean latency [time] where batches take ``error`` less, and more, than by the law.

    Near saturation the ends are far apart: queues multiply an error of batch times.

    Parameters
    ----------
    requests
        The same at both ends.
    instance
        What serves them.
    error
        Relative error of the batch times, above 0 and below 1.
    seed
        Of what is random in the engine.

    Raises
    ------
    ConfigError
        If the error is out of range.
    """
    if not 0 < error < 1:
        raise ConfigError("law_error", error, "a number above 0 and below 1")
    node: Any = instance
    ends = []
    for factor in (1 - error, 1 + error):
        changed = replace(node, batch_time=node.batch_time.in_unit(factor))
        run = simulate(requests, changed, seed=seed, record_batches=False)
        ends.append(run.metrics().latencies)
    return {name: (ends[0][name].mean, ends[1][name].mean) for name in LATENCIES}


def _of_replay(arrival: NDArray[np.float64], replayed: Replayed) -> NDArray[np.float64]:
    return _means(arrival, replayed.first_token, replayed.finish, replayed.count)


def _means(
    arrival: NDArray[np.float64], first: NDArray[np.float64], finish: NDArray[np.float64],
    tokens: NDArray,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the mean TTFT, TPOT and E2EL [s]."""
    several = tokens > 1
    per_token = (finish - first)[several] / (tokens[several] - 1)
    tpot = float(per_token.mean()) if several.any() else np.nan
    return np.array([(first - arrival).mean(), tpot, (finish - arrival).mean()])
