"""The request table: a struct of arrays, validated once where it enters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import checked
from serving.contents import Contents
from serving.errors import ConfigError, WorkloadError
from serving.rate_profile import RateProfile
from serving.request_mix import RequestMix
from serving.table_checks import refuse_where, time_column, whole_column

NO_SESSION = -1
"""Session of a request that is a turn of none."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestTable:
    """Requests in arrival order. Build it with :meth:`validated`.

    Parameters
    ----------
    arrival_time : shape (R,) [time]
        Non-decreasing; ties keep the order of the file.
    prefill_length, decode_length : shape (R,) [tokens]
        KV tokens a request brings and tokens it generates, both >= 1, the latter at most
        :data:`serving.request_mix.LONGEST_DECODE`.
    priority : shape (R,)
        Lower first; 0 where not given.
    predicted_decode_length : shape (R,) [tokens]
        A scheduler's belief; equal to ``decode_length`` where not given.
    request_class : shape (R,)
        Index of the class a request was drawn from; 0 where not given.
    abort_time : shape (R,) [time]
        When the client gives up, not before the arrival; infinite where it never does.
    session : shape (R,)
        Number of the session of which a request is a turn; -1 for none. The first turn is sent at
        its arrival time, a later one also not before the turn before it in the table has ended.
    think_time : shape (R,) [time]
        From the end of the turn before to a later turn; 0 for others.
    contents
        Which prompts and answers have tokens in common; None where nobody knows.
    """

    arrival_time: NDArray[np.float64]
    prefill_length: NDArray[np.int64]
    decode_length: NDArray[np.int64]
    priority: NDArray[np.int64]
    predicted_decode_length: NDArray[np.int64]
    request_class: NDArray[np.int64]
    abort_time: NDArray[np.float64]
    session: NDArray[np.int64]
    think_time: NDArray[np.float64]
    contents: Contents | None = None

    @classmethod
    def validated(
        cls,
        arrival_time: ArrayLike,
        prefill_length: ArrayLike,
        decode_length: ArrayLike,
        *,
        priority: ArrayLike | None = None,
        predicted_decode_length: ArrayLike | None = None,
        request_class: ArrayLike | None = None,
        abort_time: ArrayLike | None = None,
        session: ArrayLike | None = None,
        think_time: ArrayLike | None = None,
        contents: Contents | None = None,
        path: str | Path | None = None,
    ) -> RequestTable:
        """Check every value and sort by arrival (stable).

        Parameters
        ----------
        path
            File the arrays came from, for the message.

        Raises
        ------
        WorkloadError
            Naming path, row (from 1), column and value of the first that is wrong.
        """
        try:
            arrival = np.asarray(arrival_time, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            arrival = np.empty((0, 0))
        if arrival.ndim != 1:
            raise WorkloadError("arrival times are a list of numbers", path=path)
        if arrival.size == 0:
            raise WorkloadError("there are no requests", path=path)
        refuse_where(
            ~np.isfinite(arrival) | (arrival < 0),
            arrival,
            "arrival_time",
            "allowed: a finite time >= 0",
            path,
        )
        columns = {
            "prefill_length": prefill_length,
            "decode_length": decode_length,
            "priority": np.zeros(arrival.size) if priority is None else priority,
            "predicted_decode_length": (
                decode_length if predicted_decode_length is None else predicted_decode_length
            ),
            "request_class": np.zeros(arrival.size) if request_class is None else request_class,
            "session": np.full(arrival.size, NO_SESSION) if session is None else session,
        }
        whole = {
            name: whole_column(column, name, arrival.size, path) for name, column in columns.items()
        }
        abort = time_column(abort_time, "abort_time", np.inf, arrival.shape, path)
        refuse_where(
            ~(abort >= arrival), abort, "abort_time", "allowed: a time >= arrival_time", path
        )
        think = time_column(think_time, "think_time", 0.0, arrival.shape, path)
        finite = np.isfinite(think) & (think >= 0)
        refuse_where(~finite, think, "think_time", "allowed: a finite time >= 0", path)
        if contents is not None and len(contents) != arrival.size:
            raise WorkloadError(
                f"has {len(contents)} values for {arrival.size} requests",
                path=path,
                column="content",
            )
        table = cls(arrival, **whole, abort_time=abort, think_time=think, contents=contents)
        return table._rows(np.argsort(arrival, kind="stable"))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> RequestTable:
        """Return the table that :meth:`arrays` returned, unchecked."""
        found = dict(arrays)
        parts = {name: found.pop(name) for name in arrays if name.startswith(_CONTENTS)}
        for name, nothing in _WHERE_ABSENT.items():
            found.setdefault(name, np.full(found["arrival_time"].size, nothing))
        contents = None
        if parts:
            contents = Contents(**{name[len(_CONTENTS) :]: part for name, part in parts.items()})
        return cls(**found, contents=contents)

    def arrays(self) -> dict[str, NDArray]:
        """Return every array by name, those of the contents after ``contents_``.

        Left out are ``abort_time`` where no client gives up, ``session`` and ``think_time`` where
        there are no sessions, and contents where there are none.
        """
        found = {name: getattr(self, name) for name in _COLUMNS}
        if not self.has_aborts:
            del found["abort_time"]
        if not self.has_sessions:
            del found["session"], found["think_time"]
        if self.contents is not None:
            for item in fields(Contents):
                found[_CONTENTS + item.name] = getattr(self.contents, item.name)
        return found

    @property
    def has_aborts(self) -> bool:
        """Whether some client gives up at some time."""
        return bool(np.isfinite(self.abort_time).any())

    @property
    def has_sessions(self) -> bool:
        """Whether some request waits for the end of another."""
        return bool((self.session > NO_SESSION).any())

    def next_turns(self) -> NDArray[np.int64]:
        """Return the row of the turn after each request; -1 where there is none."""
        found = np.full(len(self), -1)
        order = np.argsort(self.session, kind="stable")
        same = np.diff(self.session[order]) == 0
        same &= self.session[order[:-1]] > NO_SESSION
        found[order[:-1][same]] = order[1:][same]
        return found

    def __len__(self) -> int:
        return self.arrival_time.size

    @property
    def horizon(self) -> float:
        """Last arrival [time]."""
        return float(self.arrival_time[-1])

    def mix(self) -> RequestMix:
        """Return the empirical joint distribution of (p, D)."""
        return RequestMix.from_lengths(
            self.prefill_length, self.decode_length, request_class=self.request_class
        )

    def rate_profile(self) -> RateProfile:
        """Return the table's own cumulative arrival curve."""
        return RateProfile.from_arrivals(self.arrival_time)

    @checked()
    def take(self, rows: ArrayLike) -> RequestTable:
        """Return the requests of ``rows`` (indices or a mask), still in arrival order."""
        rows = np.asarray(rows)
        if rows.size == 0:
            rows = rows.astype(int)
        if rows.ndim != 1 or rows.dtype.kind not in "biu":
            raise ConfigError("rows", rows, "a list of indices, or a mask")
        if rows.dtype.kind == "b":
            in_range = rows.size == len(self)
        else:
            in_range = bool((np.abs(rows + 0.5) < len(self)).all())
        if not in_range:
            raise ConfigError("rows", rows, f"indices of {len(self)} requests, or as long a mask")
        taken = self._rows(rows)
        return taken._rows(np.argsort(taken.arrival_time, kind="stable"))

    def _rows(self, rows: NDArray) -> RequestTable:
        """Return the requests of ``rows`` in the order of ``rows``."""
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        contents = None if self.contents is None else self.contents.take(rows)
        return RequestTable(**columns, contents=contents)

    def arriving(self, times: NDArray[np.float64]) -> RequestTable:
        """Return the same requests, arriving at other, ordered times; clients wait as long."""
        later = times + (self.abort_time - self.arrival_time)
        abort = np.where(times == self.arrival_time, self.abort_time, later)
        return replace(self, arrival_time=times, abort_time=abort)

    def redrawn(self, rows: NDArray[np.int64], times: NDArray[np.float64]) -> RequestTable:
        """Return the requests of ``rows``, which may repeat, arriving at other, ordered times.

        Raises
        ------
        WorkloadError
            If a request waits for the end of another, which these rows may lack.
        """
        self.refuse_sessions("a table dealt out anew")
        return self._rows(rows).arriving(times)

    def in_order(self, rows: NDArray[np.int64], times: NDArray[np.float64]) -> RequestTable:
        """Return every request, sent in the order ``rows`` at ordered ``times`` [time]."""
        return self._rows(rows).arriving(times)

    def joined(self, other: RequestTable) -> RequestTable:
        """Return the requests of both in arrival order; at a tie, these come first."""
        contents = None
        if self.contents is not None or other.contents is not None:
            mine, theirs = (
                Contents.none(len(each)) if each.contents is None else each.contents
                for each in (self, other)
            )
            contents = mine.joined(theirs)
        columns = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS
        }
        theirs = columns["session"][len(self) :]
        theirs[theirs > NO_SESSION] += int(self.session.max(initial=NO_SESSION)) + 1
        both = RequestTable(**columns, contents=contents)
        return both._rows(np.argsort(both.arrival_time, kind="stable"))

    def continued(
        self, others: RequestTable, arrived: int, start: float, *, replace: bool
    ) -> RequestTable:
        """Return a table that keeps who has arrived and lets others come from a time on.

        Parameters
        ----------
        others
            Those who come; their arrival times count from ``start``.
        arrived
            Rows of this table that have arrived; they keep their places, and an arrival at this
            very instant comes after them.
        start : [time]
            When the others come, not before those who have arrived.
        replace
            Whether they take the place of those who would have arrived from ``start`` on, or come
            besides them.
        """
        kept = np.arange(len(self))
        if replace:
            kept = kept[(kept < arrived) | (self.arrival_time < start)]
        return self.take(kept).joined(others.arriving(others.arrival_time + start))

    @checked(factor=">= 0")
    def stretched(self, factor: float) -> RequestTable:
        """Return the table with every arrival time multiplied by ``factor``; 0: all at once.

        Clients who give up do so after as long a wait as before.
        """
        return self.arriving(self.arrival_time * factor)

    @checked(ticks="> 0")
    def in_unit(self, ticks: float) -> RequestTable:
        """Return the same requests with times in another unit, ``ticks`` of which make one."""
        names = ("arrival_time", "abort_time", "think_time")
        return replace(self, **{name: getattr(self, name) * ticks for name in names})

    @checked()
    def with_lengths_permuted(self, rng: np.random.Generator) -> RequestTable:
        """Return the same arrival times with the rest of each row dealt out anew."""
        return self.redrawn(rng.permutation(len(self)), self.arrival_time)

    @checked()
    def refuse_longer_than(self, tokens: int, words: str, path: str | Path | None = None) -> None:
        """Refuse a request whose prompt and answer together have more than ``tokens`` tokens.

        Parameters
        ----------
        tokens
            Most tokens that a request may have to be able to finish.
        words
            Where the limit comes from, such as ``M_total = 10000``.
        path
            File the requests came from, for the message.

        Raises
        ------
        WorkloadError
            Naming the first row that is too long.
        """
        need = self.prefill_length + self.decode_length
        refuse_where(
            need > tokens,
            need,
            "prefill_length + decode_length",
            f"can never finish; allowed: <= {words}",
            path,
        )

    def refuse_sessions(self, whom: str, path: str | Path | None = None) -> None:
        """Refuse a request that waits for the end of another, on behalf of whoever cannot wait.

        Raises
        ------
        WorkloadError
            Naming the first turn of a session.
        """
        waits = self.session > NO_SESSION
        if waits.any():
            raise WorkloadError(
                f"{whom} does not know turns that wait for the answer before; allowed: none",
                path=path, row=int(np.argmax(waits)) + 1, column="session_id",
            )  # fmt: skip

    def refuse_aborts(self, engine: str, path: str | Path | None = None) -> None:
        """Refuse a request whose client gives up, on behalf of an engine without a rule for it.

        Raises
        ------
        WorkloadError
            Naming the first.
        """
        refuse_where(
            np.isfinite(self.abort_time),
            self.abort_time,
            "abort_time",
            f"the engine {engine} does not know clients who give up; allowed: none",
            path,
        )


_COLUMNS = tuple(item.name for item in fields(RequestTable) if item.name != "contents")
"""Fields that have a value per request."""

_WHERE_ABSENT = {"abort_time": np.inf, "session": NO_SESSION, "think_time": 0.0}
"""Values of columns that saved tables may lack."""

_CONTENTS = "contents_"
"""What the names of arrays of the contents begin with."""
