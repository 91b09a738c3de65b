"""Worker processes: started safely, ended at once on Ctrl-C and with their parent.

The standard executor shares one queue of results among its workers. A worker that is killed may
leave half a result there, and whoever reads it waits for the rest. Here each worker has a
connection of its own: when the worker goes, its connection ends, and so does the thread that reads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from traceback import format_exc
from typing import Any

from serving import FluidServeError
from serving.unfinished import undone

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that say how many threads linear algebra may take."""

Job = Callable[[Any, Any], Any]
"""A function of a module, from what all tasks share and a task to a result."""

Tasks = SimpleQueue[tuple[Future[Any], Any] | None]
"""Tasks to do, each with the future that gets its result; None ends the worker that takes it."""


class WorkerLost(Exception):
    """A worker process ended before it answered, by a kill from outside or for lack of memory."""


def default_workers() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(function: Job, shared: Any, workers: int) -> Iterator[Callable[[Any], Future[Any]]]:
    """Start worker processes and yield what hands them a task.

    A task's future raises what the task raised, or :class:`WorkerLost`. Tasks that are not done
    when the block ends are finished first; if an exception ends it, they are dropped.

    Parameters
    ----------
    function
        Of a module: from ``shared`` and a task to a result.
    shared
        What all tasks need; sent once to each worker.
    workers
        Processes.

    Raises
    ------
    FluidServeError
        If the function is of the script that runs, which workers do not run again.
    """
    if function.__module__ == "__main__":
        raise FluidServeError(
            "worker processes cannot have a function of the script that runs; put it into a module"
        )
    context, tasks = _context(function.__module__), Tasks()
    crew: list[_Worker] = []

    def submit(task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        tasks.put((future, task))
        return future

    def kill() -> None:
        for worker in crew:
            worker.kill()

    with undone(kill):
        try:
            with _main_module_hidden():
                for _ in range(workers):
                    crew.append(_Worker(context, function, shared, tasks))
            yield submit
        except BaseException:
            # Ctrl-C included: drop what waits and stop what runs, a task may take minutes.
            kill()
            raise
        finally:
            for _ in crew:
                tasks.put(None)
        for worker in crew:
            worker.join()


class _Worker:
    """One worker process, and the thread of this process that hands it tasks.

    Parameters
    ----------
    context
        How processes are started.
    function, shared
        What the worker does with a task.
    tasks
        Where the thread takes tasks from, one at a time.
    """

    def __init__(self, context: Any, function: Job, shared: Any, tasks: Tasks) -> None:
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, function, shared))
        self._process.start()
        theirs.close()  # the worker alone holds that end now: it closes with the worker
        # a daemon, so that it never keeps this process from ending
        self._thread = threading.Thread(target=_serve, args=(self._ours, tasks), daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """End the process now, whatever it does."""
        self._process.kill()

    def join(self) -> None:
        """Wait until the thread has seen the end of the tasks and the process has gone."""
        self._thread.join()
        self._process.join()


def _serve(worker: Connection, tasks: Tasks) -> None:
    """Hand tasks to a worker, one at a time, until there is none."""
    with worker:
        while (entry := tasks.get()) is not None:
            _hand_over(worker, *entry)
            del entry  # or a result would be kept until the next task


def _hand_over(worker: Connection, future: Future[Any], task: Any) -> None:
    """Have a worker do a task and fulfil its future; a worker that is lost fails it."""
    try:
        worker.send(task)
        done, result = worker.recv()
    except (EOFError, OSError):
        future.set_exception(WorkerLost("a worker process was ended from outside"))
    except Exception as error:  # a task or a result that cannot be pickled
        future.set_exception(error)
    else:
        future.set_result(result) if done else future.set_exception(result)


def _context(module: str) -> Any:
    """Return a start method that never copies this process, whose solvers own threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not on every platform

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    with _single_threaded(), _deaf():
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
def _deaf() -> Iterator[None]:
    """Have processes that start now hear no Ctrl-C, nor SIGTERM: their parent ends them.

    A terminal interrupts all processes of a command at once, those too that still import.
    """
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _work(tasks: Connection, function: Job, shared: Any) -> None:
    """Do tasks until their giver closes the connection; the life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    while True:
        try:
            task = tasks.recv()
        except EOFError:
            return
        tasks.send_bytes(_answer(function, shared, task))


def _answer(function: Job, shared: Any, task: Any) -> memoryview:
    """Return whether a task went well and its result or exception, pickled."""
    try:
        return ForkingPickler.dumps((True, function(shared, task)))
    except Exception as error:
        error.add_note(f"in a worker process:\n{format_exc()}")
        return ForkingPickler.dumps((False, error))


def _end_with(sentinel: Any) -> None:
    """End this worker when its parent has gone, even by a kill that let it tell nobody."""
    connection.wait([sentinel])
    os._exit(1)
