"""Worker processes for replications: started safely, fed in order, ended at once on Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from calibration._replicate import Experiment, Replicate, replicate

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_experiment: Experiment | None = None


def replicates(experiment: Experiment, first: int, last: int, workers: int) -> Iterator[Replicate]:
    """Yield replications ``first`` to ``last - 1`` in order, each a function of its number alone.

    Parameters
    ----------
    workers
        Processes; 1 runs them here.
    """
    if workers == 1 or last - first < 2:
        for replication in range(first, last):
            yield replicate(experiment, replication)
        return
    # A few tasks per worker balance the load; one message per task keeps the overhead small.
    size = max(1, min(8, (last - first) // (4 * workers)))
    tasks = [range(r, min(r + size, last)) for r in range(first, last, size)]
    with _executor(experiment, min(workers, len(tasks))) as executor:
        waiting: deque[Future[list[Replicate]]] = deque()
        for task in tasks:
            waiting.append(executor.submit(_replicate_all, task))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def default_workers() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _executor(experiment: Experiment, workers: int) -> Iterator[ProcessPoolExecutor]:
    executor = ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_start, initargs=(experiment,)
    )
    try:
        with _main_module_hidden():
            yield executor
    except BaseException:
        # Ctrl-C included: drop what waits and stop what runs, a replication may take minutes.
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        raise
    executor.shutdown()


def _context() -> Any:
    """Return a start method that never copies this process, whose solvers own threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not on every platform

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_replicate_all.__module__])
    with _single_threaded():
        forkserver.ensure_running()
    return context


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Have processes that start now keep their linear algebra to one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep workers from running the caller's script again, which they need nothing of."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


def _start(experiment: Experiment) -> None:
    global _experiment
    _experiment = experiment
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _replicate_all(replications: range) -> list[Replicate]:
    assert _experiment is not None
    return [replicate(_experiment, replication) for replication in replications]
