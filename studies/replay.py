"""Replay the requests of a server's log on an engine that decides like the server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs import Replay, Replayed, RequestLog
from discrete import Run, simulate
from serving import BatchTimeLaw, Contents, Instance, RequestTable, UnsupportedError


def replay_of(log: RequestLog, instance: Instance, contents: Contents | None = None) -> Replay:
    """Return the function that replays a log on the engine of an instance.

    Parameters
    ----------
    log
        Requests of a run, in order of arrival.
    instance
        The server. Its law is not used.
    contents
        What the requests of the log consist of, in the same order; where nobody knows, each shares
        nothing with any other.

    Raises
    ------
    UnsupportedError
        If the engine gives several tokens in a step or works on several batches at once.
    """
    _refuse(instance)
    node: Any = instance
    prompt, output = log.prompt_tokens.astype(np.int64), log.output_tokens.astype(np.int64)

    def replay(arrival: NDArray[np.float64], law: BatchTimeLaw) -> Replayed:
        order = np.argsort(arrival, kind="stable")
        table = RequestTable.validated(
            arrival[order], prompt[order], output[order],
            contents=None if contents is None else contents.take(order),
        )  # fmt: skip
        run = simulate(table, replace(node, batch_time=law, time_unit="s"))
        return _replayed(run, order)

    return replay


def _refuse(instance: Instance) -> None:
    """Refuse servers whose steps a client cannot tell apart, and a time that the law contains."""
    for key, most in (("num_speculative_tokens", 0), ("pipeline_parallel_size", 1)):
        if getattr(instance, key, most) > most:
            raise UnsupportedError(f"a replay needs {key} {most}: each step gives one token")
    if getattr(instance, "cpu_gap", 0):
        raise UnsupportedError("a fitted law contains the gap between steps: leave cpu_gap out")


def _replayed(run: Run, order: NDArray[np.int64]) -> Replayed:
    """Return what a run did, its requests, sorted by ``order``, in the order of the log again."""
    batches, requests, outputs = run.batches, run.requests, run.outputs()
    back = np.argsort(order)
    count = outputs.count[back]
    first = (np.cumsum(outputs.count) - outputs.count)[back]
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    real = np.flatnonzero(batches["batch_tokens"] > 0)

    def of_steps(name: str) -> NDArray[np.float64]:
        return batches[name][real].astype(float)

    def of_requests(name: str) -> NDArray[np.float64]:
        return requests[name][back].astype(float)

    return Replayed(
        start=of_steps("start_time"),
        end=of_steps("time"),
        prefill_tokens=of_steps("prefill_tokens"),
        decode_tokens=of_steps("decode_tokens"),
        context=of_steps("context_tokens"),
        token_time=outputs.time[np.repeat(first, count) + nth],
        count=count,
        cached=of_requests("cached_tokens"),
        recomputed=of_requests("recomputed_tokens"),
        preemptions=of_requests("preemption_count"),
    )
