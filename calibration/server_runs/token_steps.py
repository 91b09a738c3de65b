"""The times of all tokens tell the steps of a server: each gives a running request one token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.requests import RequestLog

APART = 0.9
"""Time between two tokens, over a short step, from which on they are of two steps."""

SHORT = 0.05
"""Share of the times between tokens that are shorter than a short step."""

IDLE = 64
"""Steps by which the clock of steps goes on where the server was idle."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSteps:
    """The steps that gave tokens, as a client saw them.

    Parameters
    ----------
    time : shape (S,) [s]
        When the tokens of each step came, on average.
    rank : shape (S,)
        End of each step on a clock on which every step takes 1 and idle times :data:`IDLE`.
    step : shape (T,)
        Number of the step of each token, one request after the other.
    count : shape (R,)
        Tokens of each request.
    """

    time: NDArray[np.float64]
    rank: NDArray[np.float64]
    step: NDArray[np.int64]
    count: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """Return the place of the first token of each request among all tokens, shape (R,)."""
        return np.cumsum(self.count) - self.count


def steps_of_tokens(log: RequestLog) -> TokenSteps:
    """Return the steps of a log with token times.

    Tokens are taken in order of time. A step ends where a request would get its second token of it,
    or where nothing came for nearly as long as a short step takes: the client sees the tokens of a
    step one after the other.
    """
    gaps = log.inter_token or ()
    count = np.array([each.size + 1 for each in gaps])
    time = np.concatenate(
        [begin + np.append(0.0, np.cumsum(each))
         for begin, each in zip(log.first_token, gaps, strict=True)]
    )  # fmt: skip
    between = np.concatenate(gaps)
    short = float(np.quantile(between[between > 0], SHORT))
    request = np.repeat(np.arange(count.size), count)
    order = np.argsort(time, kind="stable")
    late = np.diff(time[order], prepend=time[order[0]]) > APART * short
    step = np.empty(time.size, np.int64)
    step[order] = _numbered(request[order].tolist(), late.tolist())
    size = np.bincount(step)
    return TokenSteps(
        time=np.bincount(step, time) / size, rank=_rank(step, count), step=step, count=count
    )


def _numbered(requests: list[int], late: list[bool]) -> list[int]:
    """Return the step of each token in order of time."""
    seen: set[int] = set()
    number, found = 0, []
    for request, is_late in zip(requests, late, strict=True):
        if is_late or request in seen:
            number += 1
            seen = set()
        seen.add(request)
        found.append(number)
    return found


def _rank(step: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the clock of steps: it jumps where no request got tokens before and after."""
    steps = int(step.max()) + 1
    ends = np.cumsum(count)
    change = np.zeros(steps + 1)
    np.add.at(change, step[ends - count], 1)
    np.subtract.at(change, step[ends - 1], 1)
    going_on = np.cumsum(change)[: steps - 1] > 0
    return IDLE + np.append(0.0, np.cumsum(np.where(going_on, 1.0, IDLE)))
