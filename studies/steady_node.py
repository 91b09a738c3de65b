"""Latencies of one node in a steady state: the discrete engine beside the methods that predict it.

The lengths of a run are those of the mix at even ranks, dealt out at random, so that few requests
show the percentiles of long-tailed lengths: what is left of chance is who meets whom. A run warms
up with further requests, which are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

import discrete
from serving import Distribution, RequestMix, RequestTable
from studies.one_node import LATENCIES, STATISTICS, Cell
from studies.question import Question
from workload import replication_seed

RUNS = 4
"""Runs, from whose differences the standard errors come."""

Predict = Callable[[Question, float], Mapping[str, Distribution]]
"""From a question and a horizon [time] to the distributions of its latencies."""


def even_classes(mix: RequestMix, number: int) -> NDArray[np.intp]:
    """Return the classes of ``number`` requests at even ranks of the mix by decode length."""
    order = np.lexsort((mix.prefill, mix.decode))
    rank = np.cumsum(mix.probability[order])
    ranks = (np.arange(number) + 0.5) / number * rank[-1]
    return order[np.minimum(np.searchsorted(rank, ranks), order.size - 1)]


def steady_run(question: Question, number: int, seed: int) -> Mapping[str, NDArray[np.float64]]:
    """Return the latencies [time] of ``number`` requests in the steady state of the engine."""
    from fluid import healthy_batch_time

    mix, rate = question.mix, question.known_rate
    batch = healthy_batch_time(mix, question.instance, rate)
    warming = math.ceil(1.5 * rate * batch * mix.longest_decode)
    drawn = question.stream.sample(
        replication_seed(question.seed, seed), num_requests=warming + number
    )
    rng = np.random.default_rng([question.seed, seed])
    classes = rng.permutation(even_classes(mix, number))
    prefill, decode = drawn.prefill_length.copy(), drawn.decode_length.copy()
    prefill[warming:], decode[warming:] = mix.prefill[classes], mix.decode[classes]
    table = RequestTable.validated(drawn.arrival_time, prefill, decode)
    samples = discrete.simulate(table, question.instance, record_batches=False).samples()
    return {name: getattr(samples, name)[warming:] for name in LATENCIES}


def steady_cells(
    name: str,
    question: Question,
    load: float,
    methods: Mapping[str, Predict],
    *,
    number: int = 20_000,
) -> list[Cell]:
    """Return every statistic of every latency, by each method.

    Parameters
    ----------
    name, question, load
        What is compared: a stream of requests at a load.
    methods
        Each by its name, which goes before that of the workload.
    number
        Requests of a run.
    """
    asked = question.at_load(load)
    runs = [_statistics(steady_run(asked, number, seed)) for seed in range(RUNS)]
    values = np.mean(runs, axis=0)
    errors = np.std(runs, axis=0, ddof=1) / math.sqrt(RUNS)
    cells = []
    for method, predict in methods.items():
        found = predict(asked, number / asked.mean_rate)
        for i, latency in enumerate(LATENCIES):
            of = found[latency]
            guess = [of.mean, *(of.percentiles[int(each[1:])] for each in STATISTICS[1:])]
            for j, statistic in enumerate(STATISTICS):
                cells.append(
                    Cell(
                        f"{method}: {name}", load, latency, statistic, float(values[i, j]),
                        float(errors[i, j]), float(guess[j]), RUNS,
                    )
                )  # fmt: skip
    return cells


def _statistics(latencies: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.array(
        [
            [latencies[name].mean(), *np.percentile(latencies[name], (50, 95, 99))]
            for name in LATENCIES
        ]
    )


def predicted_by(method: str) -> Predict:
    """Return the prediction of a method of :data:`ode.METHODS`, or of ``stationary``."""

    def predict(question: Question, horizon: float) -> Mapping[str, Distribution]:
        from ode import solve, stationary

        mix, instance, rate = question.mix, question.instance, question.known_rate
        if method == "stationary":
            return stationary(mix, instance, rate, dispersion=question.dispersion).latencies
        profile = question.until(horizon).profile
        return solve(profile, mix, instance, method=method).metrics().latencies

    return predict
