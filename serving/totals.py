"""The single numbers of a run: each is declared once, and everything that shows them loops over it.

An engine or a solver produces what it knows, as a mapping by name; :class:`serving.ServingMetrics`
holds it, replications merge it, JSON and reports show it. A new total is one entry here and its
producers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np

from serving.errors import FluidServeError


@dataclass(frozen=True, slots=True)
class Total:
    """One single number of a run.

    Parameters
    ----------
    name
        Key in Python and in JSON.
    unit
        Such as ``requests``; empty for a pure number.
    words
        What the number is, for tables and reports.
    per_time
        Name under which JSON shows the number over the duration; None where it does not.
    shown
        Whether JSON shows the number itself.
    leads
        Whether JSON shows the number before the latencies.
    where_known
        Whether JSON leaves the number out where nobody knows it, instead of saying null: one that
        only some engines have.
    merge
        From the values of several runs to one.
    joined
        What the number of runs that followed each other is: the ``sum`` of theirs, a ``share`` of
        the duration, a ``ratio`` of sums, or ``lost``: nothing about a single one.
    """

    name: str
    unit: str
    words: str
    per_time: str | None = None
    shown: bool = True
    leads: bool = False
    where_known: bool = False
    merge: Callable[[Sequence[float]], float] = np.mean
    joined: Literal["sum", "share", "ratio", "lost"] = "sum"


TOTALS: dict[str, Total] = {
    each.name: each
    for each in (
        Total("duration", "time", "duration", leads=True),
        Total("completed", "requests", "completed", per_time="request_throughput", leads=True),
        Total("output_tokens", "tokens", "output", per_time="output_throughput", shown=False),
        Total("memory_utilization", "", "memory utilization", joined="share"),
        Total("gpu_utilization", "", "GPU utilization", joined="share"),
        Total("processing_efficiency", "", "processing efficiency", joined="ratio"),
        Total("evictions", "requests", "evictions"),
        Total("recompute_waste", "tokens", "recompute waste"),
        Total("prefix_cache_queries", "tokens", "looked up in the prefix cache", where_known=True),
        Total("prefix_cache_hits", "tokens", "found in the prefix cache", where_known=True),
        Total(
            "prefix_cache_hit_rate", "", "prefix cache hit rate", where_known=True, joined="ratio"
        ),
        Total("saved_tokens", "tokens", "not computed thanks to the cache", where_known=True),
        Total("evicted_blocks", "blocks", "cached blocks evicted", where_known=True, joined="lost"),
        Total("wasted_tokens", "tokens", "computed in vain", where_known=True),
        Total("failed", "requests", "sent and not completed", where_known=True),
        Total("total_input_tokens", "tokens", "prompts completed", where_known=True),
        Total("total_output_tokens", "tokens", "answers completed", where_known=True),
        Total(
            "total_tokens",
            "tokens",
            "prompts and answers",
            per_time="total_token_throughput",
            shown=False,
            where_known=True,
        ),
        Total(
            "max_output_tokens_per_s",
            "chunks",
            "most chunks in a second",
            where_known=True,
            joined="lost",
        ),
        Total(
            "max_concurrent_requests",
            "requests",
            "most requests in a second",
            where_known=True,
            joined="lost",
        ),
    )
}
"""Every total by its name, in the order in which results show them.

``duration`` goes from time 0 to the last completion, or to the end of what was run. ``completed``
counts requests, or mass, that finished. ``output_tokens`` counts a token when it is first produced:
a sacrificed request emits none again. ``memory_utilization`` is the mean KV cache in use over its
capacity, weighted by batch duration, idle time included. ``gpu_utilization`` is the share of the
duration in which a batch executes. ``processing_efficiency`` is useful token-iterations, those that
first produce a token, over what the batches could have held. ``evictions`` counts swap-outs and
sacrifices. ``recompute_waste`` counts decoded tokens that sacrifice threw away.

Of engines with a prefix cache: ``prefix_cache_queries`` and ``prefix_cache_hits`` count the tokens
of requests at their first admission, and how many of them were cached, as vLLM's counters of these
names; ``prefix_cache_hit_rate`` is their ratio, or the share that was given where no contents are
known. ``saved_tokens`` counts what was found cached at every admission, those after a preemption
included. ``evicted_blocks`` counts cached blocks that made room for other contents.
``wasted_tokens`` counts tokens computed that no answer needed: computed anew after a preemption,
beyond the end of an answer, rejected drafts, and all of a request that was aborted.

From ``failed`` on they are those of ``vllm bench serve``, by its definitions, which count tokens of
requests that completed; :func:`serving.bench_serve_metrics` says more of each. Engines that produce
them count ``output_tokens`` in the same way."""


def checked_totals(given: Mapping[str, float]) -> dict[str, float]:
    """Return every total in order, NaN for one that the producer does not know.

    Raises
    ------
    FluidServeError
        For a name that is no total; lists those that exist.
    """
    for name in given:
        if name not in TOTALS:
            raise FluidServeError(f"there is no total {name!r}; there are: {', '.join(TOTALS)}")
    return {name: float(given.get(name, nan)) for name in TOTALS}


def merged_totals(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the totals of several runs as one, each by its own rule."""
    return {
        name: float(total.merge([each[name] for each in runs])) for name, total in TOTALS.items()
    }


def totals_of_each(
    joined: Mapping[str, float], ends: Sequence[float], whole: float
) -> dict[str, float]:
    """Return the totals of a usual run out of those of runs that followed each other.

    Parameters
    ----------
    joined
        Totals of all of them as one run.
    ends : shape (R,) [time]
        Duration of each run.
    whole : [time]
        Duration of all of them, pauses included.
    """
    count, busy = len(ends), float(np.sum(ends))
    share = whole / busy if busy > 0 else nan
    factor = {"sum": 1.0 / count, "share": share, "ratio": 1.0, "lost": nan}
    each = {name: value * factor[TOTALS[name].joined] for name, value in joined.items()}
    return each | {"duration": busy / count}
