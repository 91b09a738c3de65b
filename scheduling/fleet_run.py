"""What became of the requests that a router dealt out to the instances of a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from discrete import Records, Run, completed
from scheduling.signals import Tally
from serving import LatencySamples, RequestTable, ServingMetrics
from serving.totals import TOTALS


@dataclass(frozen=True, eq=False)
class FleetRun:
    """A run of a fleet.

    Parameters
    ----------
    requests
        Everyone, in the order in which clients sent them.
    policy
        Name of the policy that dealt them out.
    instance : shape (R,)
        Where each was sent.
    dispatched : shape (R,) [time]
        When it arrived there.
    rows
        Of each instance, the rows of the requests that it got, in that order.
    runs
        Of each instance, its run; None where it got nobody.
    predictions
        How many predictions the policy asked for, and how many of them failed.
    """

    requests: RequestTable
    policy: str
    instance: NDArray[np.int64]
    dispatched: NDArray[np.float64]
    rows: tuple[NDArray[np.int64], ...]
    runs: tuple[Run | None, ...]
    predictions: Tally = field(default_factory=Tally)

    @cached_property
    def _moments(self) -> dict[str, NDArray[np.float64]]:
        """When each request entered RUNNING, got its first and its last token, shape (R,)."""
        names = ("first_enter_running_time", "first_token_time", "completion_time")
        found = {name: np.full(len(self.requests), np.nan) for name in names}
        for rows, run in zip(self.rows, self.runs, strict=True):
            if run is not None:
                done = completed(run.requests)
                for name, values in found.items():
                    values[rows] = np.where(done, run.requests[name], np.nan)
        return found

    @cached_property
    def samples(self) -> LatencySamples:
        """Latencies of every request, from when its client sent it; NaN where it did not end."""
        table, moment = self.requests, self._moments
        first, last = moment["first_token_time"], moment["completion_time"]
        more = table.decode_length - 1
        return LatencySamples(
            queue_delay=moment["first_enter_running_time"] - table.arrival_time,
            ttft=first - table.arrival_time,
            tpot=np.where(more > 0, (last - first) / np.maximum(more, 1), np.nan),
            e2el=last - table.arrival_time,
            weight=np.isfinite(last).astype(float),
        )

    @cached_property
    def records(self) -> Records:
        """One row per request: where it was sent and when, and its latencies."""
        table, of = self.requests, self.samples
        return Records(
            {
                "req_id": np.arange(len(table)),
                "arrival_time": table.arrival_time,
                "prefill_length": table.prefill_length,
                "decode_length": table.decode_length,
                "instance": self.instance,
                "dispatch_time": self.dispatched,
                "queue_delay": of.queue_delay,
                "ttft": of.ttft,
                "tpot": of.tpot,
                "e2el": of.e2el,
            }
        )

    def after(self, first: int) -> LatencySamples:
        """Return the latencies without the requests before row ``first``: a warm-up."""
        of = self.samples
        names = ("queue_delay", "ttft", "tpot", "e2el", "weight")
        return LatencySamples(**{name: getattr(of, name)[first:] for name in names})

    def totals(self) -> dict[str, float]:
        """Return the totals of the fleet; NaN where they cannot be told from those of instances."""
        each = [run.totals() for run in self.runs if run is not None]
        last = max(one["duration"] for one in each)
        batches = np.array([run.num_batches for run in self.runs if run is not None], float)
        share = np.array([one["duration"] for one in each]) / (last * len(self.runs))
        found = {}
        for name, total in TOTALS.items():
            values = np.array([one[name] for one in each])
            if name == "duration":
                found[name] = last
            elif total.joined == "sum":
                found[name] = float(values.sum())
            elif total.joined == "share":
                found[name] = float((values * share).sum())
            elif name == "prefix_cache_hit_rate":
                asked = sum(one["prefix_cache_queries"] for one in each)
                hits = sum(one["prefix_cache_hits"] for one in each)
                found[name] = hits / asked if asked else float("nan")
            elif total.joined == "ratio":  # what each did in a batch, by its batches
                found[name] = float((values * batches).sum() / batches.sum())
            else:
                found[name] = float("nan")
        return found

    def metrics(self, goodput: Mapping[str, float] | None = None) -> ServingMetrics:
        """Return the metrics of the fleet.

        Parameters
        ----------
        goodput
            Threshold [time] by latency name, such as ``{"ttft": 2.0}``.
        """
        known = {name: value for name, value in self.totals().items() if np.isfinite(value)}
        return ServingMetrics.summarise(self.samples, known, goodput)
