"""Let an engine serve the requests of a measured run, on one replica or dealt among several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import discrete
from discrete import Run
from serving import Instance, RequestTable
from studies.validation.prediction import EMPTY, Prediction


def dealt(table: RequestTable, replicas: int) -> list[NDArray[np.int64]]:
    """Return the rows of each replica: requests are dealt in turn."""
    rows = np.arange(len(table))
    return [rows[k::replicas] for k in range(replicas)]


def simulated(table: RequestTable, instance: Instance, replicas: int = 1) -> list[Run]:
    """Return the run of the engine on each replica."""
    return [discrete.simulate(table.take(rows), instance) for rows in dealt(table, replicas)]


def replay(
    table: RequestTable,
    instance: Instance,
    replicas: int = 1,
    grid: NDArray[np.float64] = EMPTY,
) -> tuple[Prediction, list[Run]]:
    """Return what the engine says of the requests of a run, and its own runs.

    Parameters
    ----------
    table
        The requests.
    instance
        The server; its time unit is the second.
    replicas
        Engines among which the requests are dealt in turn, each as large as the instance.
    grid : shape (T,) [s]
        Times at which running and waiting requests are wanted.
    """
    runs = simulated(table, instance, replicas)
    size = len(table)
    arrays = {name: np.full(size, np.nan) for name in ("ttft", "e2el", "tpot")}
    for rows, run in zip(dealt(table, replicas), runs, strict=True):
        for name, values in _latencies(run).items():
            arrays[name][rows] = values
    samples = [run.samples() for run in runs]
    return Prediction(
        **arrays,
        gaps=np.concatenate([each.itl for each in samples]),
        gap_weight=np.concatenate([each.itl_weight for each in samples]),
        arrival=table.arrival_time,
        finish=table.arrival_time + arrays["e2el"],
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
    return {"ttft": first - arrival, "e2el": done - arrival, "tpot": tpot}


def _series(runs: Sequence[Run], grid: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    if not grid.size:
        return {}
    paths = [run.trajectory(np.maximum(grid, 0.0)) for run in runs]
    return {
        name: np.sum([path.outputs[name] for path in paths], axis=0)
        for name in ("running", "waiting")
    }
