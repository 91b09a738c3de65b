"""Requests that are sent to an engine one at a time, out of a table of all who may be sent."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, RequestTable, UnsupportedError


class Sent:
    """Who was sent so far, and when; an engine that holds its requests back keeps one.

    Parameters
    ----------
    offered
        All who may be sent, each once.

    Raises
    ------
    UnsupportedError
        If a request waits for the end of another, or its client gives up.
    """

    def __init__(self, offered: RequestTable) -> None:
        if offered.has_sessions or offered.has_aborts:
            raise UnsupportedError(
                "requests are sent one at a time where they come at given times and clients wait "
                "for their answers; allowed: no session_id and no abort_time"
            )
        self.offered = offered
        self.count, self.last = 0, 0.0
        self._rows = np.zeros(len(offered), np.int64)
        self._times = np.zeros(len(offered))
        self._is_sent = bytearray(len(offered))
        self._table: RequestTable | None = None

    def note(self, row: int, time: float) -> int:
        """Note that the request of a row of ``offered`` arrives at ``time``; return its number.

        Raises
        ------
        ConfigError
            If it was sent before, or would arrive before the one that was sent last.
        """
        if not time >= self.last:
            raise ConfigError("time", time, f"not before the request sent last, {self.last!r}")
        if self._is_sent[row]:
            raise ConfigError("row", row, "a request that was not sent before")
        number = self.count
        self._is_sent[row] = 1
        self._rows[number], self._times[number] = row, time
        self.count, self.last, self._table = number + 1, time, None
        return number

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of ``offered`` in the order in which they were sent, shape (S,)."""
        return self._rows[: self.count]

    @property
    def times(self) -> NDArray[np.float64]:
        """When they arrive, shape (S,) [time]."""
        return self._times[: self.count]

    @property
    def table(self) -> RequestTable:
        """Those who were sent, as a table of their own."""
        if self._table is None:
            self._table = self.offered.in_order(self.rows.copy(), self.times.copy())
        return self._table


class SendsOneAtATime(ABC):
    """The part of an engine that lets requests arrive by themselves, or one by one when told."""

    state: NDArray
    grid: NDArray[np.float64]
    finished: bool
    _given: RequestTable
    _sent: Sent | None
    _bound: bool

    @abstractmethod
    def _empty_tables(self) -> None:
        """Keep what was filled in for all who are offered, and make room for those who are sent."""

    @abstractmethod
    def _put(self, number: int, row: int, time: float) -> None:
        """Fill in that the offered request of a row is the one of a number and comes at a time."""

    @property
    def requests(self) -> RequestTable:
        """Everyone who arrives, or who was sent so far."""
        return self._given if self._sent is None else self._sent.table

    @property
    def _total(self) -> int:
        """Requests that arrive, or were sent so far."""
        return len(self._given) if self._sent is None else self._sent.count

    @property
    def sent_rows(self) -> NDArray[np.int64]:
        """Rows of the requests that were sent so far, in that order, shape (S,)."""
        return np.empty(0, np.int64) if self._sent is None else self._sent.rows

    def hold_back(self) -> None:
        """Let nobody arrive but whom :meth:`send` sends; see :meth:`discrete.Engine.hold_back`."""
        if self.state["arrived"][0] or self.grid.size:
            raise UnsupportedError(
                "requests are held back before the first has come, and without sample_times"
            )
        self._sent = Sent(self._given)
        self._empty_tables()
        self._bound = False

    def send(self, row: int, time: float) -> int:
        """Let the request of a row arrive at a time; see :meth:`discrete.Engine.send`."""
        if self._sent is None:
            raise UnsupportedError("this engine holds no requests back")
        number = self._sent.note(row, time)
        self._put(number, row, time)
        self.state["total"] = number + 1
        self.finished = False
        return number
