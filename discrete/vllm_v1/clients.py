"""Clients that wait for answers: the tables from which the kernel tells who is sent next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from discrete.vllm.layout import UNLIMITED
from serving import ConfigError, RequestTable, WorkloadError


@dataclass(eq=False)
class Clients:
    """What is known of who sends when.

    Parameters
    ----------
    arrivals : shape (R,) [time]
        When each request was sent, or the earliest time at which it may be.
    ready, order : shape (R,)
        Rows that may be sent, a heap of which the kernel counts the members; rows in the order in
        which they were sent.
    turns : shape (R,)
        The next turn of each row's session; -1 for none.
    thinks : shape (R,) [time]
        From the end of the turn before.
    is_closed
        Whether anybody waits for an answer.
    limit
        Most requests that have been sent and have not ended.
    num_ready
        Members of the heap at first.
    """

    arrivals: NDArray[np.float64]
    ready: NDArray[np.int64]
    order: NDArray[np.int64]
    turns: NDArray[np.int64]
    thinks: NDArray[np.float64]
    is_closed: bool
    limit: int
    num_ready: int

    @classmethod
    def of(cls, requests: RequestTable, max_concurrency: int | None) -> Clients:
        """Return the clients of a table at their start.

        Raises
        ------
        ConfigError
            If ``max_concurrency`` is below 1.
        WorkloadError
            If a client that waits for answers gives up: when is not known.
        """
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigError("max_concurrency", max_concurrency, "a whole number >= 1, or none")
        limit = UNLIMITED if max_concurrency is None else int(max_concurrency)
        if max_concurrency is None and not requests.has_sessions:
            none = np.zeros(1, np.int64)
            arrivals = np.ascontiguousarray(requests.arrival_time)
            return cls(arrivals, none, none, none, np.zeros(1), False, limit, 0)
        if requests.has_aborts:
            raise WorkloadError(
                "clients who give up are known only where requests come at given times; allowed: "
                "no abort_time beside session_id or --max-concurrency"
            )
        turns = requests.next_turns()
        first = np.ones(len(requests), bool)
        first[turns[turns >= 0]] = False
        # in order of time, as the table is, they are a heap
        rows = np.flatnonzero(first)
        ready = np.zeros(len(requests), np.int64)
        ready[: rows.size] = rows
        return cls(
            requests.arrival_time.copy(), ready, np.zeros_like(ready), turns,
            np.ascontiguousarray(requests.think_time), True, limit, rows.size,
        )  # fmt: skip

    def tables(self) -> dict[str, NDArray]:
        """Return the tables by the names of their addresses."""
        return {
            "arrivals": self.arrivals, "ready": self.ready, "order": self.order,
            "turns": self.turns, "thinks": self.thinks,
        }  # fmt: skip

    def arrays(self) -> dict[str, NDArray]:
        """Return what changes."""
        if not self.is_closed:
            return {}
        return {"arrivals": self.arrivals, "ready": self.ready, "order": self.order}

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Take over what :meth:`arrays` returned."""
        if self.is_closed:
            self.arrivals, self.ready = arrays["arrivals"], arrays["ready"]
            self.order = arrays["order"]

    def sent(self, count: int, now: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return all rows, in the order in which they were sent, and when [time].

        Parameters
        ----------
        count
            How many were sent so far; the others follow by the earliest time, not before ``now``.
        now : [time]
        """
        done = self.order[:count]
        left = np.setdiff1d(np.arange(self.arrivals.size), done, assume_unique=True)
        earliest = np.maximum(self.arrivals[left], now)
        by_time = np.argsort(earliest, kind="stable")
        rows = np.concatenate([done, left[by_time]])
        return rows, np.concatenate([self.arrivals[done], earliest[by_time]])
