"""Let an engine serve the requests of a measured run, on one replica or dealt among several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from discrete import Run
from serving import Instance, RequestTable, UnsupportedError
from studies.validation.prediction import EMPTY, Prediction
from studies.validation.requests import Replayed


def dealt(table: RequestTable, replicas: int) -> list[NDArray[np.int64]]:
    """Return the rows of each replica: requests are dealt in turn."""
    rows = np.arange(len(table))
    return [rows[k::replicas] for k in range(replicas)]


def simulated(requests: Replayed, instance: Instance, replicas: int = 1) -> list[Run]:
    """Return the run of the engine on each replica.

    Raises
    ------
    UnsupportedError
        If a client that waits for answers is dealt among several engines.
    """
    closed = requests.max_concurrency is not None
    if closed and replicas > 1:
        raise UnsupportedError("a closed loop on several engines has no replay: which serves whom?")
    runs = []
    for rows in dealt(requests.table, replicas):
        table = requests.table.take(rows)
        own: dict[str, Any] = {"max_concurrency": requests.max_concurrency} if closed else {}
        engine = discrete.engine_for(table, instance, **own)
        engine.advance()
        runs.append(engine.run())
    return runs


def replay(
    requests: Replayed,
    instance: Instance,
    replicas: int = 1,
    grid: NDArray[np.float64] = EMPTY,
) -> tuple[Prediction, list[Run]]:
    """Return what the engine says of the requests of a run, and its own runs.

    Parameters
    ----------
    requests
        The requests of the run.
    instance
        The server; its time unit is the second.
    replicas
        Engines among which the requests are dealt in turn, each as large as the instance.
    grid : shape (T,) [s]
        Times at which running and waiting requests are wanted.
    """
    runs = simulated(requests, instance, replicas)
    table = requests.table
    arrays = {name: np.full(len(table), np.nan) for name in ("ttft", "e2el", "tpot", "arrival")}
    for rows, run in zip(dealt(table, replicas), runs, strict=True):
        for name, values in _latencies(run).items():
            arrays[name][rows] = values
    samples = [run.samples() for run in runs]
    return Prediction(
        ttft=arrays["ttft"],
        e2el=arrays["e2el"],
        tpot=arrays["tpot"],
        arrival=arrays["arrival"],
        gaps=np.concatenate([each.itl for each in samples]),
        gap_weight=np.concatenate([each.itl_weight for each in samples]),
        finish=arrays["arrival"] + arrays["e2el"],
        grid=grid,
        series=_series(runs, grid),
    ), runs


def _latencies(run: Run) -> dict[str, NDArray[np.float64]]:
    records = run.requests
    done = np.asarray(records["completion_time"], float)
    arrival = records["arrival_time"]
    first = np.where(np.isfinite(done), records["first_token_time"], np.nan)
    more = np.asarray(records["output_tokens"] if "output_tokens" in records
                      else records["decode_length"]) - 1  # fmt: skip
    tpot = np.where(more > 0, (done - first) / np.maximum(more, 1), np.nan)
    return {"ttft": first - arrival, "e2el": done - arrival, "tpot": tpot, "arrival": arrival}


def _series(runs: Sequence[Run], grid: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    if not grid.size:
        return {}
    paths = [run.trajectory(np.maximum(grid, 0.0)) for run in runs]
    counted = {
        name: np.sum([path.outputs[name] for path in paths], axis=0)
        for name in ("running", "waiting")
    }
    produced = np.sum([_produced(run, grid) for run in runs], axis=0)
    width = np.diff(grid, prepend=0.0)
    rate = np.where(width > 0, np.diff(produced, prepend=0.0) / np.where(width > 0, width, 1), 0)
    return {**counted, "output_throughput": rate}


def _produced(run: Run, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many output tokens there are by each time of a grid, shape (T,)."""
    end = np.asarray(run.batches["time"], float)
    decoded = np.concatenate([[0.0], np.cumsum(np.asarray(run.batches["decode_tokens"], float))])
    first = run.requests["first_token_time"]
    begun = np.searchsorted(np.sort(first[np.isfinite(first)]), grid, side="right")
    return decoded[np.searchsorted(end, grid, side="right")] + begun.astype(float)
