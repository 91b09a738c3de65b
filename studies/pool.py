"""Worker processes: started safely, ended at once on Ctrl-C and with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_job: tuple[Callable[[Any, Any], Any], Any] | None = None


def default_workers() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(
    function: Callable[[Any, Any], Any], shared: Any, workers: int
) -> Iterator[Callable[[Any], Future[Any]]]:
    """Start worker processes and yield what hands them a task.

    Parameters
    ----------
    function
        Of a module: from ``shared`` and a task to a result.
    shared
        What all tasks need; sent once to each worker.
    workers
        Processes.
    """
    executor = ProcessPoolExecutor(
        workers,
        mp_context=_context(function.__module__),
        initializer=_start,
        initargs=(function, shared),
    )
    try:
        with _main_module_hidden():
            yield lambda task: executor.submit(_run, task)
    except BaseException:
        # Ctrl-C included: drop what waits and stop what runs, a task may take minutes.
        processes = list((getattr(executor, "_processes", None) or {}).values())
        results = getattr(executor, "_result_queue", None)
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        # A killed worker may leave half a result. The thread that reads it, and the exit of this
        # process with it, would wait for the rest as long as anybody could write: we could.
        if results is not None:
            results._writer.close()
        raise
    executor.shutdown()


def _context(module: str) -> Any:
    """Return a start method that never copies this process, whose solvers own threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not on every platform

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
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


def _start(function: Callable[[Any, Any], Any], shared: Any) -> None:
    global _job
    _job = function, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: Any) -> None:
    """End this worker when its parent has gone, even by a kill that let it tell nobody."""
    connection.wait([sentinel])
    os._exit(1)


def _run(task: Any) -> Any:
    assert _job is not None
    function, shared = _job
    return function(shared, task)
