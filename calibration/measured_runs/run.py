"""A measured run holds the requests of a client, the settings of the server, and series over time.

Times are seconds from the first arrival. What a run does not say is empty, never guessed here: a
request that failed has no latency, and where the file tells no lengths of it they are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_PAIRS = 50
"""Pairs of prompts whose lengths must agree before a repetition is believed."""

SURE = 0.95
"""Share of the pairs that must agree."""


@dataclass(frozen=True, slots=True, eq=False)
class TimeSeries:
    """What a server said of itself over time.

    Parameters
    ----------
    time : shape (T,) [s]
        From the first arrival.
    values
        Columns by name, of ``running``, ``waiting`` [requests], ``output_throughput`` and
        ``prompt_throughput`` [tokens/s]; each of shape (T,).
    """

    time: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """The server of a run: what its folder says of it.

    Parameters
    ----------
    model, hardware
        Names; None where nobody says them.
    tp
        Cards over which the model was divided.
    replicas
        Engines among which the requests were dealt (vLLM's data_parallel_size).
    vllm_version
        As the folder says it, such as ``0.19.0``.
    settings
        Further settings by vLLM's names, such as ``max_num_seqs``.
    """

    model: str | None = None
    hardware: str | None = None
    tp: int = 1
    replicas: int = 1
    vllm_version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRun:
    """Requests in order of arrival, and what is known of the server.

    Parameters
    ----------
    name
        Name of the run.
    arrival : shape (R,) [s]
        From the first arrival.
    prompt_tokens, output_tokens : shape (R,) [tokens]
        0 where the run does not say them.
    ttft, e2el : shape (R,) [s]
        From the arrival to the first and to the last token; NaN where the request failed.
    gaps
        Times between the outputs of each request [s]; None where the run has none.
    server
        Its settings.
    series
        What the server said over time; None where nobody recorded it.
    timeout : [s]
        After which clients gave up; infinite where none did.
    waited : shape (R,) [s]
        How long the client of each request that failed waited; NaN elsewhere. None where all
        succeeded.
    max_concurrency
        Requests that the client had under way at most; None for an open loop.
    prompts
        Distinct prompts, which requests send in turn: request i sends what i - prompts sent. None
        where all differ.
    shared_prefix : [tokens]
        Beginning that every prompt has in common.
    dropped
        Requests that the reader left out, by reason.
    notes
        What was assumed while reading, one line each.
    """

    name: str
    arrival: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    ttft: NDArray[np.float64]
    e2el: NDArray[np.float64]
    gaps: tuple[NDArray[np.float64], ...] | None = None
    server: ServedBy = field(default_factory=ServedBy)
    series: TimeSeries | None = None
    timeout: float = np.inf
    waited: NDArray[np.float64] | None = None
    max_concurrency: int | None = None
    prompts: int | None = None
    shared_prefix: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of requests."""
        return self.arrival.size

    @property
    def succeeded(self) -> NDArray[np.bool_]:
        """Whether each request got its whole answer, shape (R,)."""
        return np.isfinite(self.e2el)

    @property
    def finish(self) -> NDArray[np.float64]:
        """When each answer was there [s], NaN where none was, shape (R,)."""
        return self.arrival + self.e2el

    @property
    def time_per_token(self) -> NDArray[np.float64]:
        """Time per output token after the first [s]; NaN where a request has none, shape (R,)."""
        more = self.output_tokens - 1
        return np.where(more > 0, (self.e2el - self.ttft) / np.maximum(more, 1), np.nan)

    def noted(self, *notes: str, **changes: Any) -> MeasuredRun:
        """Return the run with some parts changed, and notes that say why."""
        return replace(self, **changes, notes=(*self.notes, *notes))


def repeated_prompts(prompt_tokens: NDArray[np.int64]) -> int | None:
    """Return after how many requests the prompts of a run repeat, read off their lengths.

    Parameters
    ----------
    prompt_tokens : shape (R,)
        Lengths in order of arrival, 0 where unknown.

    Returns
    -------
    int or None
        The smallest lag at which nearly all lengths agree with those before; None where there is
        none, where lengths hardly vary, or where the run is too short to tell.
    """
    known = prompt_tokens > 0
    sizes = np.bincount(prompt_tokens[known]) if known.any() else np.zeros(1)
    if known.sum() < FEWEST_PAIRS or ((sizes / known.sum()) ** 2).sum() > 0.5:
        return None
    for lag in range(1, len(prompt_tokens) // 2 + 1):
        both = known[lag:] & known[:-lag]
        pairs = int(both.sum())
        if pairs < FEWEST_PAIRS:
            continue
        if (prompt_tokens[lag:][both] == prompt_tokens[:-lag][both]).mean() >= SURE:
            return lag
    return None
