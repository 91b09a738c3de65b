"""What a client would have noted of the requests of a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from discrete._log import Log
from discrete._outputs import TellsOutputs
from discrete._records import Records
from serving import SECONDS, ClientRecords, UnsupportedError

FINISHED = "finished"
"""Status of a request that completed, where an engine tells more ways to end."""

UNANSWERED = "not answered when the run ended"
"""Why a request failed that was still waiting or running."""


def client_records(log: Log, requests: Records) -> ClientRecords:
    """Return what a client would have noted of each request that had been sent, in seconds.

    Parameters
    ----------
    log
        Of an engine that :class:`discrete._outputs.TellsOutputs`.
    requests
        Its request records.

    Raises
    ------
    UnsupportedError
        If times have no unit, or the engine does not tell when outputs came.
    """
    kind, unit = log.instance.engine, log.instance.time_unit
    if unit not in SECONDS:
        raise UnsupportedError(
            f"time_unit {unit}: a client notes seconds; set time_unit to {' | '.join(SECONDS)}"
        )
    if not isinstance(log, TellsOutputs):
        raise UnsupportedError(f"the engine {kind} does not tell when outputs came")
    sent = log.num_arrived
    errors = _errors(requests, sent)
    done = np.array([not error for error in errors], dtype=bool)
    outputs = log.outputs()
    count = outputs.count[:sent]
    total = int(count.sum())
    time = outputs.time[:total]
    first = np.cumsum(count) - count
    answered = count > 0
    inside = np.ones(total, bool)
    inside[first[answered]] = False

    start = requests["arrival_time"][:sent]
    ttft, latency, tokens = np.zeros(sent), np.zeros(sent), np.zeros(sent, np.int64)
    ttft[answered] = time[first[answered]] - start[answered]
    last = first + np.maximum(count, 1) - 1
    latency[done] = time[last[done]] - start[done]
    tokens[done] = outputs.tokens[:sent][done]
    seconds = SECONDS[unit]
    return ClientRecords(
        start=start * seconds,
        prompt_tokens=np.asarray(requests["prefill_length"][:sent], np.int64),
        output_tokens=tokens,
        ttft=ttft * seconds,
        latency=latency * seconds,
        gaps=np.diff(time, prepend=0.0)[inside] * seconds,
        gap_count=np.maximum(count - 1, 0),
        errors=errors,
    )


def completed(requests: Records) -> NDArray[np.bool_]:
    """Return whether each request completed, shape (R,).

    Where an engine tells more ways to end, a request that left in another way may have a time at
    which it did.
    """
    if "status" in requests:
        return np.asarray(requests["status"]) == FINISHED
    return np.isfinite(requests["completion_time"])


def _errors(requests: Records, sent: int) -> tuple[str, ...]:
    """Return why each request failed, in words; empty for one that completed."""
    done = completed(requests)[:sent]
    if "status" not in requests:
        return tuple("" if each else UNANSWERED for each in done)
    words = {FINISHED: "", "pending": UNANSWERED}
    return tuple(words.get(str(word), str(word)) for word in requests["status"][:sent])
