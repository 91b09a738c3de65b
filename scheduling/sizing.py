"""Requests, an instance, and objectives; and one run of a fleet of so many such instances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discrete import Run
from scheduling.fleet_run import FleetRun
from scheduling.policies import needs_predictor, policy_of
from scheduling.predictor import Predictor
from scheduling.routing import route
from serving import ConfigError, SolveError, UnsupportedError, check_defined
from serving.arguments import check_fields
from studies.question import Question
from studies.tuning import Slo
from studies.tuning.engine import WARM_UP, growth_of, margins_in_parts
from studies.tuning.length import deciding_length, turnover

BLOCKS = 20
"""Successive blocks of a trace whose spread says how much chance there is in a statistic of it."""

LEAST_BLOCK = 5
"""Requests of a block below which the blocks say nothing."""

RUN_LENGTH = 20_000
"""Least requests of a run of a stream."""


@dataclass(frozen=True, eq=False)
class Sizing:
    """Requests, one instance, and what a fleet of such instances is to keep.

    Parameters
    ----------
    question
        The requests, at their own rate, and the instance. A file is one realisation: it is run once
        for each number of instances, from its first request to its last. Of a stream, runs of
        ``run_length`` requests without their first tenth are replicated.
    slos
        Objectives, all of which are to be met; of a stream the backlog must not grow either.
    policy
        Name of the policy that deals the requests out; see :func:`scheduling.route`.
    replications, confidence
        Of a stream: most runs of one number of instances, which is left as soon as its verdict is
        certain at this confidence. Of a file: confidence with which another such file would get
        the same verdict.
    run_length
        Least requests of a run of a stream.
    max_run_length
        Most requests of a run of a stream; runs of large fleets are longer than ``run_length``.

    Raises
    ------
    ConfigError
        If a field is not allowed, or the rate of a stream goes on changing.
    UnsupportedError
        If requests wait for answers, an objective is about a latency that a fleet does not have, or
        a file comes without an objective: it ends, so that any fleet serves it.
    """

    question: Question
    slos: tuple[Slo, ...]
    policy: str = "jsq"
    replications: int = 16
    confidence: float = 0.95
    run_length: int = RUN_LENGTH
    max_run_length: int = 1_000_000

    def __post_init__(self) -> None:
        check_fields(self)
        for key, least in (("replications", 3), ("run_length", 100), ("max_run_length", 1)):
            value = getattr(self, key)
            if value != value // 1 or value < least:
                raise ConfigError(key, value, f"a whole number >= {least}")
        if not 0.5 <= self.confidence < 1:
            raise ConfigError("confidence", self.confidence, "a number >= 0.5 and < 1")
        policy_of(self.policy, 0)
        if self.question.waits:
            raise UnsupportedError("requests that wait for answers cannot be routed")
        if any(slo.latency == "itl" for slo in self.slos):
            raise UnsupportedError("a fleet has no ITL; name ttft, tpot, e2el or queue_delay")
        check_defined((slo.latency for slo in self.slos), self.question.longest_decode)
        if not self.is_trace:
            self.question.stream.check_steady()
        elif not self.slos:
            raise UnsupportedError(
                "a file of requests ends, so that one instance serves it in the end; name an "
                "objective"
            )
        if needs_predictor(self.policy):
            self.predictor(1)

    @property
    def is_trace(self) -> bool:
        """Whether the requests are a file: one realisation."""
        return self.question.is_file

    @property
    def most_runs(self) -> int:
        """Most runs of one number of instances."""
        return 1 if self.is_trace else self.replications

    def length(self, replicas: int) -> int:
        """Return the requests of a run on so many instances, of which each is to settle.

        Raises
        ------
        ConfigError
            If ``max_run_length`` is not enough.
        """
        if self.is_trace:
            return self.question.size
        stream = self.question.stream
        alone = self.question.at_rate(stream.rate / replicas)
        needed = replicas * deciding_length(turnover([alone]))
        if max(needed, self.run_length) > max(self.max_run_length, self.run_length):
            raise ConfigError(
                "max_run_length", self.max_run_length,
                f"a whole number >= {needed}: {replicas} instances take so many requests to settle",
            )  # fmt: skip
        return max(self.run_length, needed)

    def predictor(self, replicas: int) -> Predictor:
        """Return a predictor that expects the mix of the requests and has heard of none yet."""
        return Predictor((self.question.instance,) * replicas, self.question.mix)

    def run(self, replicas: int, number: int) -> FleetRun:
        """Return one run of so many instances, with the requests of a replication."""
        question = self.question
        if not self.is_trace:
            question = question.of_requests(self.length(replicas))
        table = question.requests if number == 0 else question.replication(number)
        assert table is not None  # a draw of so many requests has them
        capacity = question.capacity
        return route(
            table,
            (question.instance,) * replicas,
            self.policy,
            capacity=[capacity] * replicas if 0 < capacity < math.inf else None,
            slo=(self._limit("ttft"), self._limit("e2el")),
            predictor=self.predictor(replicas) if needs_predictor(self.policy) else None,
            seed=question.seed + number,
        )

    def _limit(self, latency: str) -> float | None:
        """Return what is promised of a latency [time], for policies that keep promises."""
        return min((slo.limit for slo in self.slos if slo.latency == latency), default=None)


def measured(sizing: Sizing, replicas: int, number: int) -> dict[str, Any]:
    """Run so many instances once and return what came out; see :func:`row_of`."""
    return row_of(sizing, sizing.run(replicas, number), number)


def row_of(sizing: Sizing, run: FleetRun, number: int) -> dict[str, Any]:
    """Return what came out of a run of a fleet, as numbers that JSON can hold.

    Returns
    -------
    dict
        ``values`` of the objectives [time] and of the backlog's growth; ``parts``, how noisy the
        margins are; ``lasts`` [time], from the first arrival to the last completion; ``busy`` and
        ``prefill_time`` [time], summed over the instances; and tokens.

    Raises
    ------
    SolveError
        If no request of the run has a latency that an objective is about.
    """
    table = run.requests
    first = 0 if sizing.is_trace else int(WARM_UP * len(table))
    samples = run.after(first)
    values = {}
    for slo in sizing.slos:
        values[str(slo)] = slo.measured(samples)
        if math.isnan(values[str(slo)]):
            raise SolveError("tune", "undefined", f"{slo}: no request of a run has a {slo.latency}")
    completion = table.arrival_time + run.samples.e2el
    row: dict[str, Any] = {
        "replicas": len(run.runs),
        "run": number,
        "requests": len(table),
        "values": values,
        "lasts": float(np.nanmax(completion) - table.arrival_time[0]),
        "prompt_tokens": int(table.prefill_length.sum()),
        "output_tokens": int(table.decode_length.sum()),
        "predictions": run.predictions.asked,
        "failed_predictions": run.predictions.failed,
    }
    row["busy"], row["prefill_time"] = _times([each for each in run.runs if each is not None])
    if sizing.is_trace:
        errors = {str(slo): _block_error(slo, getattr(samples, slo.latency)) for slo in sizing.slos}
        return row | {"block_errors": errors}
    period = sizing.question.stream.shape.period
    growth, settled = growth_of(table.arrival_time, completion, first, period)
    parts = {str(slo): margins_in_parts(slo, samples).tolist() for slo in sizing.slos}
    return row | {"growth": growth, "settled": settled, "parts": parts}


def _times(runs: Sequence[Run]) -> tuple[float, float]:
    """Return how long instances executed batches, and how long thereof for prompts [time].

    A batch with prompts takes longer than its decodes alone would: the difference is the prompts'.
    """
    busy = prompts = 0.0
    for run in runs:
        batches = run.batches
        duration = batches["batch_duration"]
        busy += float(duration.sum())
        if "prefill_tokens" not in batches:
            continue
        mixed = batches["prefill_tokens"] > 0
        prefill, decodes = batches["prefill_tokens"][mixed], batches["decode_tokens"][mixed]
        read = np.maximum(batches["context_tokens"][mixed] - prefill, 0)
        alone = np.asarray(run.instance.batch_time.step_duration(decodes, read), float)
        alone = np.where(decodes > 0, alone, 0.0)
        prompts += float(np.clip(duration[mixed] - alone, 0.0, duration[mixed]).sum())
    return busy, prompts


def _block_error(slo: Slo, values: NDArray[np.float64]) -> float | None:
    """Return the standard error of the log of a statistic; None where nobody can tell."""
    without = margins_without(slo, values)
    return None if without is None else jackknife_error(without)


def margins_without(slo: Slo, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the margins that are left without each block of requests, shape (BLOCKS,).

    None where there are too few requests to tell. Requests come in blocks because those that come
    together fare alike.

    Parameters
    ----------
    slo
        Whose statistic.
    values : shape (R,) [time]
        A latency of each request, in order of arrival.
    """
    if values.size < BLOCKS * LEAST_BLOCK:
        return None
    blocks = np.array_split(np.arange(values.size), BLOCKS)
    without = np.array([
        slo.margin(slo.statistic_of(left[np.isfinite(left)]))
        for left in (np.delete(values, block) for block in blocks)
    ])  # fmt: skip
    return without if np.isfinite(without).all() else None


def jackknife_error(without: NDArray[np.float64]) -> float:
    """Return the standard error of a number from what it is without each block."""
    share = (without.size - 1) / without.size
    return float(np.sqrt(share * ((without - without.mean()) ** 2).sum()))
