"""What a client that sends requests and streams the answers notes of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECONDS = {"s": 1.0, "ms": 1e-3}
"""Seconds of each unit of time that has some: a client's clock counts seconds."""

CELLS = 1 << 21
"""Numbers of a matrix of requests and outputs that is added up at once: 16 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class ClientRecords:
    """Times [s] and lengths of requests in the order in which they were sent.

    They are what ``vllm bench serve`` notes. A client sees chunks: where a server sends several
    tokens at once, there are fewer gaps between outputs than tokens.

    Parameters
    ----------
    start : shape (R,) [s]
        When each request was sent.
    prompt_tokens, output_tokens : shape (R,) [tokens]
        Lengths of prompt and answer; a request that failed has an answer of 0.
    ttft : shape (R,) [s]
        From the start to the first output; 0 where none came.
    latency : shape (R,) [s]
        From the start to the last output; 0 for a request that failed.
    gaps : shape (G,) [s]
        Times between the outputs of a request, one request after the other.
    gap_count : shape (R,)
        Gaps of each request.
    errors
        Why each request failed; empty for one that completed.
    """

    start: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    ttft: NDArray[np.float64]
    latency: NDArray[np.float64]
    gaps: NDArray[np.float64]
    gap_count: NDArray[np.int64]
    errors: tuple[str, ...]

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Whether each request completed, shape (R,)."""
        return np.array([not error for error in self.errors], dtype=bool)

    def completed_only(self) -> ClientRecords:
        """Return the records of the requests that completed."""
        done = self.completed
        if done.all():
            return self
        return ClientRecords(
            self.start[done], self.prompt_tokens[done], self.output_tokens[done],
            self.ttft[done], self.latency[done], self.gaps[np.repeat(done, self.gap_count)],
            self.gap_count[done], ("",) * int(done.sum()),
        )  # fmt: skip

    @property
    def tpot(self) -> NDArray[np.float64]:
        """Time per output token after the first [s]; 0 for an answer of one token, shape (R,)."""
        several = self.output_tokens > 1
        return np.where(
            several, (self.latency - self.ttft) / np.maximum(self.output_tokens - 1, 1), 0.0
        )

    @property
    def ntpot(self) -> NDArray[np.float64]:
        """Latency per output token, the first one included [s]; 0 without tokens, shape (R,)."""
        return self.latency / np.maximum(self.output_tokens, 1)

    def gaps_by_request(self) -> Iterator[NDArray[np.float64]]:
        """Yield the gaps of each request [s]."""
        first = 0
        for last in np.cumsum(self.gap_count).tolist():
            yield self.gaps[first:last]
            first = last

    def outputs_per_second(self, seconds: int) -> NDArray[np.int64]:
        """Return how many outputs came in each second from the first start on.

        Parameters
        ----------
        seconds
            How many seconds to count; later outputs are left out.

        Notes
        -----
        The time of an output is the start plus the TTFT plus one gap after the other, added in this
        order: an output on the border of two seconds falls where a client that adds up its own
        notes finds it.
        """
        origin = self.start.min(initial=np.inf)
        found = np.zeros(seconds, np.int64)
        ends = np.cumsum(self.gap_count)
        order = np.argsort(self.gap_count, kind="stable")  # rows of a matrix are about as long
        while order.size:
            rows = order[-max(1, CELLS // (int(self.gap_count[order[-1]]) + 1)) :]
            order = order[: -rows.size]
            count = self.gap_count[rows]
            column = np.arange(count[-1] + 1)
            time = np.zeros((rows.size, column.size))
            time[:, 0] = self.start[rows] + self.ttft[rows]
            there = column[1:] <= count[:, None]
            which = (ends[rows] - count)[:, None] + column[1:] - 1
            time[:, 1:][there] = self.gaps[which[there]]
            time = np.cumsum(time, axis=1)
            is_output = np.concatenate([np.ones((rows.size, 1), bool), there], axis=1)
            second = (time[is_output] - origin).astype(np.int64)
            found += np.bincount(second[second < seconds], minlength=seconds)
        return found

    def in_flight_per_second(self, seconds: int) -> NDArray[np.int64]:
        """Return how many requests touched each second from the first start on.

        A request counts in the whole second in which it starts, in the one in which it ends and in
        all between: more than are in flight at one time.
        """
        origin = self.start.min(initial=np.inf)
        begins = (self.start - origin).astype(np.int64)
        stops = (self.start + self.latency - origin).astype(np.int64) + 1
        change = np.zeros(seconds + 1, np.int64)
        np.add.at(change, begins, 1)
        np.add.at(change, stops, -1)
        return np.cumsum(change)[:-1]
