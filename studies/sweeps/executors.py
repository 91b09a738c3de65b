"""Where the points of a sweep run: here, on worker processes, or on a Dask cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

from serving import FluidServeError
from studies.pool import WorkerLost, worker_pool

CONNECT = "10s"
"""How long a scheduler may take to answer."""

Row = Mapping[str, Any]
Chunk = list[tuple[int, Row]]
Function = Callable[[Any, Any], Row]
"""From what all points share and a point to its row; of a module, so that workers find it."""


def on_processes(
    function: Function, shared: Any, chunks: Sequence[Sequence[tuple[int, Any]]], workers: int
) -> Generator[Chunk]:
    """Yield the rows of each chunk as it is finished, in any order.

    Parameters
    ----------
    function, shared
        What is done at each point.
    chunks
        Numbered points, some per task.
    workers
        Processes; 1 runs them here.

    Raises
    ------
    FluidServeError
        If a worker was ended from outside.
    """
    if workers == 1:
        for chunk in chunks:
            yield rows_of(function, shared, chunk)
        return
    job = functools.partial(rows_of, function)
    functools.update_wrapper(job, function)
    try:
        with worker_pool(job, shared, min(workers, max(len(chunks), 1))) as submit:
            todo, running = iter(chunks), set()
            while True:
                for chunk in todo:
                    running.add(submit(chunk))
                    if len(running) >= 3 * workers:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
    except WorkerLost:
        raise FluidServeError(
            "a worker process was ended from outside (out of memory?); what was finished is kept"
        ) from None


def on_dask(
    function: Function, shared: Any, chunks: Sequence[Sequence[tuple[int, Any]]], scheduler: str
) -> Generator[Chunk]:
    """Yield the rows of each chunk as a Dask cluster finishes it, in any order.

    Parameters
    ----------
    scheduler
        Address, such as ``tcp://10.0.0.1:8786``; its workers have this version installed.

    Raises
    ------
    FluidServeError
        If dask.distributed is not installed, nobody answers, or a task is lost for good.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise FluidServeError(
            "--scheduler needs dask.distributed: pip install 'fluidserve[cluster]'"
        ) from None
    try:
        client = Client(scheduler, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise FluidServeError(f"--scheduler {scheduler}: no Dask scheduler: {said}") from None
    try:
        futures = [client.submit(rows_of, function, shared, chunk, pure=False) for chunk in chunks]
        try:
            for future in as_completed(futures, loop=client.loop):
                yield future.result()
                future.release()
        except BaseException as error:
            client.cancel(futures)
            if isinstance(error, FluidServeError) or not isinstance(error, Exception):
                raise
            raise FluidServeError(f"the cluster gave up: {error}") from error
    finally:
        client.close()


def rows_of(function: Function, shared: Any, chunk: Sequence[tuple[int, Any]]) -> Chunk:
    """Return the rows of a chunk of numbered points."""
    return [(index, function(shared, point)) for index, point in chunk]
