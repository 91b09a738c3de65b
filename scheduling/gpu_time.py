"""How long the GPUs of a fleet are there for given requests, and the least that they could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluid import least_node_times
from scheduling.fleet_size import FleetSize
from serving import RequestMix, RequestTable, UnsupportedError, kind_of

HOUR = {"s": 3600.0, "ms": 3.6e6}
"""One hour in each unit of time."""

MINUTE_OF_HOUR = 1 / 60
"""Part of an hour for which an instance that is switched on stays on."""

REPEATED = (
    "requests repeat each other's prompts, and nobody knows beforehand what a prefix cache saves"
)
"""Why there is no least time of requests that say what they consist of."""


@dataclass(frozen=True, slots=True)
class PerfectSystem:
    """The least time of instances that requests could need, by the batch-time law alone.

    Parameters
    ----------
    work : [time]
        Time of instances, summed over them, below which no router, no order, no number of
        instances and no switching serves the requests; whatever latencies are. None where unknown.
    fixed
        Least instances that do this work in the time that the requests take; None where unknown.
    switched : [time]
        Time of instances where each minute has just as many as the work that arrives in it asks
        for. It is no bound: what waits for the next minute may share an instance there. None for
        a stream, and where unknown.
    reason
        Why nothing is known; empty where it is.
    """

    work: float | None = None
    fixed: int | None = None
    switched: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GpuTime:
    """What a fleet takes.

    Parameters
    ----------
    replicas
        Instances.
    gpus_per_replica
        GPUs of each.
    unit
        Of the times.
    lasts : [time]
        For how long the fleet is there: from the first arrival to the last completion of a trace;
        of a stream one hour, or one unit of time where times have none.
    prompt_tokens, output_tokens : [tokens]
        What is read and answered meanwhile.
    prefill_share
        Share of the time of batches that prompts take; None for instances that compute none.
    utilization
        Share of the time in which an instance executes a batch.
    perfect
        The least that it could be.
    """

    replicas: int
    gpus_per_replica: int
    unit: str
    lasts: float
    prompt_tokens: float
    output_tokens: float
    prefill_share: float | None
    utilization: float
    perfect: PerfectSystem

    @property
    def time(self) -> float:
        """Time of GPUs, summed over them [time]."""
        return self.replicas * self.gpus_per_replica * self.lasts

    def price(self, per_hour: float) -> dict[str, Any]:
        """Return what tokens cost where a GPU costs ``per_hour`` an hour.

        Raises
        ------
        UnsupportedError
            If times have no unit, so that nobody knows what an hour is.
        """
        if self.unit not in HOUR:
            raise UnsupportedError("a price is per hour, and the times of this run have no unit")
        total = per_hour * self.time / HOUR[self.unit]
        read, answered, share = self.prompt_tokens, self.output_tokens, self.prefill_share
        if share is None:
            prompt, output = None, 1e6 * total / answered
        else:
            prompt = 1e6 * total * share / read if read else None
            output = 1e6 * total * (1 - share) / answered
        return {
            "per_gpu_hour": per_hour,
            "total": total,
            "per_million_tokens": 1e6 * total / (read + answered),
            "per_million_prompt_tokens": prompt,
            "per_million_output_tokens": output,
            "prefill_share": share,
            "split": "prompts come prefilled: all is for output tokens"
            if share is None
            else "by the time that prompts add to batches; idle time in proportion",
        }

    def to_json(self) -> dict[str, Any]:
        """Return GPU time and its bound; hours where times have a unit."""
        hour, perfect, gpus = HOUR.get(self.unit), self.perfect, self.gpus_per_replica

        def hours(of_instances: float | None) -> float | None:
            return None if of_instances is None or not hour else gpus * of_instances / hour

        least = None if perfect.work is None else gpus * perfect.work
        fixed = None if perfect.fixed is None else perfect.fixed * self.lasts
        return {
            "gpus_per_replica": gpus,
            "gpus": self.replicas * gpus,
            "duration": self.lasts,
            "gpu_time": self.time,
            "gpu_hours": hours(self.replicas * self.lasts),
            "gpu_utilization": self.utilization,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "perfect_system": {
                "gpu_time": least,
                "gpu_hours": hours(perfect.work),
                "replicas": perfect.fixed,
                "replicas_gpu_hours": hours(fixed),
                "switched_gpu_hours": hours(perfect.switched),
                "over_it": self.time / least if least else None,
                "reason": perfect.reason,
            },
        }


def lasts_of(size: FleetSize) -> float:
    """Return for how long a fleet is there, as :class:`GpuTime` has it [time]."""
    question = size.sizing.question
    if question.is_file:
        return float(size.rows[0]["lasts"])
    return HOUR.get(question.instance.time_unit, 1.0)


def spent(size: FleetSize, gpus_per_replica: int = 1) -> dict[str, float | None]:
    """Return the time of GPUs of a fleet that was run, and in hours where times have a unit."""
    time = size.replicas * gpus_per_replica * lasts_of(size)
    hour = HOUR.get(size.sizing.question.instance.time_unit)
    return {"gpu_time": time, "gpu_hours": time / hour if hour else None}


def gpu_time(size: FleetSize, gpus_per_replica: int = 1) -> GpuTime:
    """Return what a fleet that was run takes.

    Parameters
    ----------
    size
        The fleet.
    gpus_per_replica
        GPUs of each instance.
    """
    sizing, rows = size.sizing, size.rows
    question = sizing.question
    unit, source = question.instance.time_unit, question.source
    hour = HOUR.get(unit)
    busy = sum(row["busy"] for row in rows)
    prefill: float | None = sum(row["prefill_time"] for row in rows)
    share = prefill / busy if prefill and busy else None
    lasts = lasts_of(size)
    if isinstance(source, RequestTable):
        tokens = rows[0]["prompt_tokens"], rows[0]["output_tokens"]
        perfect = _of_trace(size, source, lasts, hour)
    else:
        served, mix = lasts * question.stream.mean_rate, question.mix
        mean = float(mix.probability @ mix.prefill)
        tokens = served * mean, served * mix.mean_decode
        perfect = _of_stream(size, served, lasts)
    return GpuTime(
        size.replicas, gpus_per_replica, unit, lasts, *tokens, share, size.utilization, perfect
    )


def _of_trace(
    size: FleetSize, requests: RequestTable, lasts: float, hour: float | None
) -> PerfectSystem:
    instance = size.sizing.question.instance
    if requests.contents is not None and kind_of(instance).reads_contents:
        return PerfectSystem(reason=REPEATED)
    ones = np.ones(len(requests))
    mix = RequestMix(
        requests.prefill_length.astype(float), requests.decode_length, ones, ones.astype(np.int64)
    )
    try:
        each = least_node_times(mix, instance)
    except UnsupportedError as error:
        return PerfectSystem(reason=str(error))
    work = float(each.sum())
    switched = None
    if hour:
        minute = hour * MINUTE_OF_HOUR
        begun = ((requests.arrival_time - requests.arrival_time[0]) // minute).astype(np.int64)
        asked = np.bincount(begun, weights=each) / minute
        switched = minute * float(np.ceil(asked - 1e-9).sum())
    return PerfectSystem(work, _whole(work, lasts), switched)


def _of_stream(size: FleetSize, served: float, lasts: float) -> PerfectSystem:
    question = size.sizing.question
    instance = question.instance
    if question.stream.conversations is not None and kind_of(instance).reads_contents:
        return PerfectSystem(reason=REPEATED)
    try:
        each = least_node_times(question.mix, instance)
    except UnsupportedError as error:
        return PerfectSystem(reason=str(error))
    work = served * float(question.mix.probability @ each)
    return PerfectSystem(work, _whole(work, lasts))


def _whole(work: float, lasts: float) -> int | None:
    """Return the least whole number of instances that do so much work in a time."""
    return max(1, math.ceil(work / lasts - 1e-9)) if lasts > 0 else None
