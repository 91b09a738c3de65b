"""An engine that decides like the server tells what was in the steps that a client saw.

The client sees when each request got each token, and so which step gave it. An engine whose steps
all take one unit of time needs to know only in which step each request began. If it then gives
every token in the step in which the client saw it, it has decided what the server decided: which
prompts were computed in which chunks, what the prefix cache had, who was preempted, and what was
computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.requests import RequestLog
from calibration.server_runs.token_steps import TokenSteps, steps_of_tokens
from serving import BatchTimeLaw

ROUNDS, REPLAYED = 60, 200_000
"""Largest number of replays that seek the step in which each request began, and of requests in all
of them."""

AHEAD = 200
"""Steps beyond the first wrong one in which beginnings are corrected: later ones follow from it."""

UNIT = BatchTimeLaw(d_0=1.0, d_decode=0.0, d_kv=0.0)
"""Law by which every step takes 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What an engine did with the requests of a log.

    Parameters
    ----------
    start, end : shape (S,) [time]
        Of every step that computed something, in order.
    prefill_tokens, decode_tokens, context : shape (S,) [tokens]
        What it computed, and the KV of everyone in it after it.
    token_time : shape (T,) [time]
        When each token came, one request of the log after the other.
    count : shape (R,)
        Tokens of each request.
    cached, recomputed, preemptions : shape (R,)
        Tokens found in the prefix cache and computed again, and preemptions, of each request.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    prefill_tokens: NDArray[np.float64]
    decode_tokens: NDArray[np.float64]
    context: NDArray[np.float64]
    token_time: NDArray[np.float64]
    count: NDArray[np.int64]
    cached: NDArray[np.float64]
    recomputed: NDArray[np.float64]
    preemptions: NDArray[np.float64]

    @property
    def first_token(self) -> NDArray[np.float64]:
        """Return when each request got its first token [time], shape (R,)."""
        return self.token_time[np.cumsum(self.count) - self.count]

    @property
    def finish(self) -> NDArray[np.float64]:
        """Return when each request got its last token [time], shape (R,)."""
        return self.token_time[np.cumsum(self.count) - 1]


Replay = Callable[[NDArray[np.float64], BatchTimeLaw], Replayed]
"""Let the requests of a log arrive at given times, in any order, at an engine with a law."""


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """The steps of a log with what was in them.

    Parameters
    ----------
    rows
        Mean content and duration of consecutive steps.
    share
        Tokens that the engine gave in the step in which the client saw them, over all.
    replayed
        What the engine did.
    """

    rows: BatchRows
    share: float
    replayed: Replayed


def reconstruct(log: RequestLog, replay: Replay, steps_per_row: int) -> Reconstruction:
    """Return the steps of a log with token times, as an engine reconstructs them.

    A request begins one step before that of its first token, unless its prompt takes several
    steps, or an engine decides ahead: then the engine gives the first token late, and the request
    is let in as much sooner in the next replay.
    """
    seen = steps_of_tokens(log)
    best = _sought(log, replay, seen, in_order=True)
    if best.share < 1.0:  # two requests may pass each other between the client and the engine
        best = max(best, _sought(log, replay, seen, in_order=False), key=lambda each: each.share)
    rows = _rows(best.replayed, seen, best.given == seen.rank[seen.step], steps_per_row)
    return Reconstruction(rows, best.share, best.replayed)


class _Attempt(NamedTuple):
    """A replay, when it gave each token that the client saw, and the share that is right."""

    share: float
    replayed: Replayed
    given: NDArray[np.float64]


def _sought(log: RequestLog, replay: Replay, seen: TokenSteps, *, in_order: bool) -> _Attempt:
    """Return the best of the replays that seek the step in which each request began.

    In order, who came earlier never begins to wait later: requests that wait for one another's
    chunks show their own beginning only so.
    """
    wanted = seen.rank[seen.step]
    begun = wanted[seen.first]
    arrival, attempts = begun - 1.0, []
    for nth in range(max(min(ROUNDS, REPLAYED // len(log)), 3)):
        replayed = replay(np.maximum(arrival, 0.0), UNIT)
        given = _aligned(replayed, seen)
        wrong = given != wanted
        attempts.append(_Attempt(1.0 - float(np.mean(wrong)), replayed, given))
        late = np.nan_to_num(given[seen.first] - begun)
        if nth > 1 and wrong.any():
            late[begun > wanted[wrong].min() + AHEAD] = 0.0
        if not wrong.any() or not late.any():
            break
        arrival = arrival - late
        if in_order:
            arrival = np.minimum.accumulate(arrival[::-1])[::-1]
    return max(attempts, key=lambda each: each.share)


def _aligned(replayed: Replayed, seen: TokenSteps) -> NDArray[np.float64]:
    """Return when the engine gave each token that the client saw; NaN for other numbers of them."""
    alike = replayed.count == seen.count
    found = np.full(seen.step.size, np.nan)
    found[np.repeat(alike, seen.count)] = replayed.token_time[np.repeat(alike, replayed.count)]
    return found


def _rows(
    replayed: Replayed, seen: TokenSteps, agrees: NDArray[np.bool_], steps_per_row: int
) -> BatchRows:
    """Return rows of consecutive steps most of whose tokens came in them."""
    place = np.searchsorted(seen.rank, replayed.end)
    known = place < seen.rank.size
    known[known] = seen.rank[place[known]] == replayed.end[known]
    tokens = np.bincount(seen.step, minlength=seen.rank.size)
    right = np.bincount(seen.step, agrees, minlength=seen.rank.size)
    place = np.where(known, place, 0)
    known &= 2 * right[place] > tokens[place]
    follows = np.append(False, known[1:] & known[:-1] & (np.diff(replayed.end) == 1))
    chosen = np.flatnonzero(follows)
    lasted = seen.time[place[chosen]] - seen.time[place[chosen] - 1]
    run = np.cumsum(np.diff(chosen, prepend=-2) != 1)
    since = np.arange(chosen.size) - np.searchsorted(run, run)
    group = np.cumsum(since % steps_per_row == 0) - 1
    counts = np.bincount(group, minlength=1)
    full = counts == steps_per_row

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (np.bincount(group, values, minlength=1) / np.maximum(counts, 1))[full]

    return BatchRows(
        time=mean(seen.time[place[chosen]]),
        steps=counts[full].astype(float),
        prefill_tokens=mean(replayed.prefill_tokens[chosen]),
        decode_tokens=mean(replayed.decode_tokens[chosen]),
        kv_tokens=mean(replayed.context[chosen]),
        step_time=mean(lasted),
    )


def rows_of_replayed(log: RequestLog, replayed: Replayed) -> BatchRows:
    """Return one row per request that decodes more than one token: its steps from first to last.

    The engine says how many steps lie between, more than tokens where the request was preempted,
    and what was in them.
    """
    begin = np.searchsorted(replayed.end, replayed.first_token, side="right")
    end = np.searchsorted(replayed.end, replayed.finish, side="right")
    alike = (replayed.count == log.output_tokens) & (end > begin) & (log.finish > log.first_token)
    begin, end, steps = begin[alike], end[alike], (end - begin)[alike].astype(float)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.append(0.0, np.cumsum(values))
        return (total[end] - total[begin]) / steps

    first, finish = log.first_token[alike], log.finish[alike]
    rows = BatchRows(
        time=(first + finish) / 2,
        steps=steps,
        prefill_tokens=mean(replayed.prefill_tokens),
        decode_tokens=mean(replayed.decode_tokens),
        kv_tokens=mean(replayed.context),
        step_time=(finish - first) / steps,
        disjoint=False,
    )
    return rows.where(np.argsort(rows.time, kind="stable"))
