"""The request table: a struct of arrays, validated once where it enters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import checked
from serving.errors import ConfigError, WorkloadError
from serving.rate_profile import RateProfile
from serving.request_mix import LONGEST_DECODE, RequestMix


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
    """

    arrival_time: NDArray[np.float64]
    prefill_length: NDArray[np.int64]
    decode_length: NDArray[np.int64]
    priority: NDArray[np.int64]
    predicted_decode_length: NDArray[np.int64]
    request_class: NDArray[np.int64]

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
        _refuse(
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
        }
        whole = {name: _whole(column, name, arrival.size, path) for name, column in columns.items()}
        order = np.argsort(arrival, kind="stable")
        return cls(arrival[order], **{name: column[order] for name, column in whole.items()})

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
        columns = {name: getattr(self, name)[rows] for name in self.__slots__}
        order = np.argsort(columns["arrival_time"], kind="stable")
        return RequestTable(**{name: column[order] for name, column in columns.items()})

    @checked(factor=">= 0")
    def stretched(self, factor: float) -> RequestTable:
        """Return the table with every arrival time multiplied by ``factor``; 0: all at once."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        return RequestTable(**{**columns, "arrival_time": self.arrival_time * factor})

    @checked()
    def with_lengths_permuted(self, rng: np.random.Generator) -> RequestTable:
        """Return the same arrival times with the rest of each row dealt out anew."""
        rows = rng.permutation(len(self))
        columns = {name: getattr(self, name)[rows] for name in self.__slots__}
        return RequestTable(**{**columns, "arrival_time": self.arrival_time})

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
        _refuse(
            need > tokens,
            need,
            "prefill_length + decode_length",
            f"can never finish; allowed: <= {words}",
            path,
        )


def _whole(column: ArrayLike, name: str, size: int, path: str | Path | None) -> NDArray[np.int64]:
    """Return a column as int64, refusing fractions and lengths out of bounds."""
    raw = np.asarray(column)
    if raw.shape != (size,):
        raise WorkloadError(f"has {raw.size} values for {size} requests", path=path, column=name)
    values = raw.astype(np.float64)
    _refuse(
        ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**53),
        raw,
        name,
        "allowed: a whole number",
        path,
    )
    if name.endswith("_length"):
        _refuse(values < 1, raw, name, "allowed: >= 1", path)
    if name == "decode_length":
        _refuse(values > LONGEST_DECODE, raw, name, f"allowed: <= {LONGEST_DECODE}", path)
    return raw.astype(np.int64)


def _refuse(
    wrong: NDArray[np.bool_], values: NDArray, column: str, reason: str, path: str | Path | None
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise WorkloadError(reason, path=path, row=row + 1, column=column, value=values[row].item())
