"""Research: refined mean fields of random decode nodes held against the engine.

    python benchmarks/refined_mean_field_accuracy.py check              # known answers, seconds
    python benchmarks/refined_mean_field_accuracy.py compare            # the engine, ten minutes
    python benchmarks/refined_mean_field_accuracy.py compare --quick    # a minute

The designs are those of ``refined_mean_field.py``, beside the fluid limit and the method of one
node, ``stationary``. Errors are those of the mean TTFT and of the mean number in system in a steady
state, for groups of nodes that are told apart before anybody answers.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from refined_mean_field import (
    DESIGNS,
    REQUESTS,
    Refined,
    diffusion,
    interior,
    refined,
    smoothed,
)

import discrete
from fluid import equilibrium, saturation
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable
from studies.campaign.scenarios import LAWS, node_of
from studies.question import Question
from workload import Workload, replication_seed

Array = NDArray[np.float64]

# --- Where the answer is known --------------------------------------------------------------------


def check() -> None:
    """Print designs beside exact answers."""
    print("| requests cost time, one phase: d_0, d_n, rho | fluid | refined | exact |")
    print("|---|---:|---:|---:|")
    for d_0, d_n, rho in ((1.0, 0.0, 0.0), (1.0, 0.1, 0.5), (1.0, 0.5, 0.8), (1.0, 2.0, 0.9)):
        found = one_phase(d_0, d_n, rho)
        exact = exact_one_phase(d_0, d_n, rho)
        refined_mean = found.point[0] + found.correction[0]
        print(f"| {d_0:g}, {d_n:g}, {rho:g} | {found.point[0]:.4f} | {refined_mean:.4f} "
              f"| {exact:.4f} |")  # fmt: skip
    print("\n| M/M/n: servers, load | fluid | smoothed | boundary | exact |")
    print("|---|---:|---:|---:|---:|")
    for servers, load in ((10, 0.7), (10, 0.95), (100, 0.8), (100, 0.98), (1000, 0.99)):
        exact, normal, diffused = many_servers(servers, load)
        print(f"| {servers}, {load:g} | {servers * load:.2f} | {normal:.2f} | {diffused:.2f} "
              f"| {exact:.2f} |")  # fmt: skip


def one_phase(d_0: float, d_n: float, rho: float) -> Refined:
    """Return the refinement of N requests that end at N / (d_0 + d_n N), one per time and 1/N."""
    number = sp.Symbol("n", positive=True)
    coming = rho / d_n if d_n else 5.0
    jumps = [([1], sp.Float(coming)), ([-1], number / (d_0 + d_n * number))]
    return refined([number], jumps, [1.0])


def exact_one_phase(d_0: float, d_n: float, rho: float) -> float:
    """Return the exact mean of the same: Poisson without ``d_n``, else negative binomial."""
    return (d_0 / d_n + 1) * rho / (1 - rho) if d_n else 5.0 * d_0


def many_servers(servers: int, load: float) -> tuple[float, float, float]:
    """Return the mean in an M/M/n queue: exact, smoothed over a normal law, and as a diffusion."""

    def service(number: Array) -> Array:
        return np.clip(number, 0.0, servers)

    coming = servers * load
    start = coming, math.sqrt(coming)
    value, law = smoothed(service, coming, 2 * coming, start)
    far = servers + 10 * math.sqrt(servers) + 40 / (1 - load)
    wide, weight = diffusion(service, coming, 2 * coming, far)
    count = np.arange(1, int(far) + 1)
    log = np.concatenate([[0.0], np.cumsum(np.log(coming / np.minimum(count, servers)))])
    exact = np.exp(log - log.max())
    mean = float(np.arange(exact.size) @ exact / exact.sum())
    return mean, float(law @ value), float(weight @ wide)


# --- Random nodes and the engine ------------------------------------------------------------------

SEED, NODES, QUICK = 6006, 120, 27
SECONDS, QUICK_SECONDS, SMALL = 2.5, 0.4, 0.0015
"""Processor time of the engine per node, and the standard error below which it stops earlier."""

SIZES = ((5.0, 30.0), (30.0, 300.0), (300.0, 2000.0))
LIMITS = ("memory", "batch budget", "none")
RARE, OFTEN, IDLE = 1e-3, 0.05, 0.01
"""Chances of a full batch that :func:`fluid.equilibrium` tells, and the share of time in which a
node is empty: what is known of a node before anybody answers."""

NOISIEST = 0.05
"""Standard error of the engine above which a node tells nothing."""


def node_of_number(number: int) -> Question:
    """Return what is asked: a decode node and who comes to it, at a load of .5 to .97.

    Limits and :data:`SIZES` take turns. Where nothing limits a node, so many requests run on
    average; else so many fit.
    """
    rng = np.random.default_rng([SEED, number])
    limit = LIMITS[number % 3]
    p, d = LAWS[str(rng.choice(list(LAWS)))](rng)
    prefill, decode = (np.maximum(np.ceil(each), 1).astype(np.int64) for each in (p, d))
    mix = RequestMix.from_lengths(prefill, decode, np.full(prefill.size, 1 / prefill.size))
    low, high = SIZES[number // 3 % 3]
    size, load = math.exp(rng.uniform(math.log(low), math.log(high))), rng.uniform(0.5, 0.97)
    node = replace(node_of(rng, mix, size), mode="swapping", admission_threshold=1.0)
    most = int(min(node.M_total, node.token_budget))
    if limit == "none":
        # rho = load, and a part of the time that requests take is per request, not per token
        per_request = rng.uniform(0.0, 0.9) * load / size / (1 - load)
        per_token = (load / size / (1 - load) - per_request) * mix.mean_decode / mix.work
        law = BatchTimeLaw(d_0=1.0, d_decode=per_request + per_token, d_kv=per_token)
        node = DecodeNode(M_total=10**9, B=None, batch_time=law)
        rate = size / mix.mean_decode * (1 - load)
        return Question(Workload(mix, rate), node, seed=number)
    if limit == "memory":
        node = replace(node, M_total=most, B=None)
    else:
        node = replace(node, M_total=4 * most, B=most)
    question = Question(Workload(mix, 1.0), node, seed=number)
    return question.at_rate(load * saturation(mix, node).throughput)


def crowd(rng: np.random.Generator, mix: RequestMix, number: int) -> tuple[Any, Any]:
    """Return what is left of requests in the middle of their stay: their tokens, and to decode."""
    weight = mix.probability * mix.decode
    which = rng.choice(len(mix), number, p=weight / weight.sum())
    done = rng.integers(0, mix.decode[which])
    return mix.prefill[which] + done, mix.decode[which] - done


def engine(question: Question, seconds: float) -> tuple[Array, Array]:
    """Return mean TTFT [time] and mean in system by the engine, and their relative errors.

    A run begins with those who run in the interior, in the middle of their stays. It counts those
    who come once queues have settled, and not the last ones, who decode in a node that empties.
    """
    mix, node, rate = question.mix, question.instance, question.known_rate
    assert isinstance(node, DecodeNode)
    inside = interior(mix, node, rate)
    slowest = min(2 * inside.tau, saturation(mix, node).batch_time)
    warm = math.ceil(rate * inside.tau * (mix.longest_decode + 4 * inside.memory)
                     + 12 / (1 - question.load) ** 2)  # fmt: skip
    counted = max(4000, warm)
    after = math.ceil(rate * max(slowest, inside.tau) * mix.longest_decode)
    means: list[tuple[float, float]] = []
    began = time.process_time()
    while True:
        seed = replication_seed(question.seed, len(means))
        drawn = question.stream.sample(seed, num_requests=warm + counted + after)
        rng = np.random.default_rng([SEED, question.seed, len(means)])
        there = int(rng.poisson(inside.mean[REQUESTS]))
        prefill, decode = crowd(rng, mix, there)
        table = RequestTable.validated(
            np.concatenate([np.zeros(there), drawn.arrival_time]),
            np.concatenate([prefill, drawn.prefill_length]),
            np.concatenate([decode, drawn.decode_length]),
        )
        run = discrete.simulate(table, node, record_batches=False).requests
        of = slice(there + warm, there + warm + counted)
        arrival = run["arrival_time"][of]
        first, last = run["first_token_time"][of] - arrival, run["completion_time"][of] - arrival
        means.append((float(first.mean()), rate * float(last.mean())))
        if len(means) >= 8:
            value = np.mean(means, axis=0)
            error = np.std(means, axis=0, ddof=1) / math.sqrt(len(means)) / value
            spent = time.process_time() - began
            if error.max() < SMALL or spent * (1 + 1 / len(means)) > seconds:
                return value, error


GROUPS = (
    "hardly ever full, fewer than 30 run",
    "hardly ever full, 30 to 300 run",
    "hardly ever full, more than 300 run",
    "hardly ever full, empty at times",
    "sometimes full",
    "often full, fewer than 30 run",
    "often full, more than 30 run",
)


def told(running: float, full: float, idle: float) -> str:
    """Return the group of a node, by what is known of it in advance."""
    if full >= OFTEN:
        return GROUPS[5 if running < 30 else 6]
    if full >= RARE:
        return GROUPS[4]
    return GROUPS[3 if idle >= IDLE else 0 if running < 30 else 1 if running < 300 else 2]


def compare(quick: bool) -> None:
    """Print how far off each design is, by group of nodes."""
    found: dict[str, list[Array]] = {}  # of each node, by metric: standard error, errors of designs
    number = QUICK if quick else NODES
    for k in range(number):
        question = node_of_number(k)
        mix, node, rate = question.mix, question.instance, question.known_rate
        assert isinstance(node, DecodeNode)
        value, error = engine(question, QUICK_SECONDS if quick else SECONDS)
        state = equilibrium(mix, node, rate)
        full = state.chance_beyond(saturation(mix, node).batch_tokens)
        group = told(state.running, full, state.idle / (state.idle + state.tau))
        rows = [list(error)]
        for design in DESIGNS.values():
            means = design(mix, node, rate)
            rows.append([means.ttft / value[0] - 1, means.in_system / value[1] - 1])
        found.setdefault(group, []).append(np.array(rows))
        print(f"{k + 1} of {number} nodes", end="\r", file=sys.stderr, flush=True)
    for column, metric in enumerate(("mean TTFT", "mean in system")):
        print(f"\n| {metric} | nodes | engine | {' | '.join(DESIGNS)} |")
        print("|---|---:|---:|" + "---:|" * len(DESIGNS))
        for group in filter(found.get, GROUPS):
            rows = np.stack(found[group])[..., column]  # (nodes, 1 + designs)
            rows = np.abs(rows[rows[:, 0] < NOISIEST])
            cells = [f"{np.median(rows[:, 0]):.1%}"] + [
                f"{np.median(each):.1%}, {np.quantile(each, 0.9):.1%}" for each in rows.T[1:]
            ]
            print(f"| {group} | {len(rows)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("section", choices=("check", "compare"))
    parser.add_argument("--quick", action="store_true", help="fewer nodes, shorter runs")
    given = parser.parse_args()
    if given.section == "check":
        check()
    else:
        compare(given.quick)


if __name__ == "__main__":
    main()
