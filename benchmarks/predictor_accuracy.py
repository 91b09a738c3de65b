"""How far off the online predictor is, beside forks of the engine that sample what nobody knows.

One instance gets a stream of requests. When each comes, the predictor says its TTFT and E2EL from
what was sent and reported so far; lengths of answers are unknown to it. At some of the requests the
Bayes reference answers as well: the mean over forks of the engine, each with the lengths of all
unfinished answers drawn anew, given the prompt and the tokens so far, and with arrivals to come
drawn anew. A regression on counts learns online from what it has seen end.

    python benchmarks/predictor_accuracy.py --engine decode_node --loads 0.8 0.95 1.1
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from given import positive, run, whole
from numpy.typing import NDArray

from discrete import simulate
from scheduling import LengthModel, Predictor, RequestMeta, route
from scheduling.signals import View
from serving import Instance, RequestMix, RequestTable
from studies import Question
from workload import describe

WARM_UP = 0.25
"""Share of the requests that are not judged."""

LEVELS = ("lightweight", "reuse")


@dataclass(frozen=True)
class Asked:
    """Answers [time] for every request of a run, and what was known at some of them."""

    answers: NDArray[np.float64]
    bounds: NDArray[np.float64]
    counts: NDArray[np.float64]
    ages: dict[int, dict[int, float]]


def watch(
    question: Question, requests: RequestTable, level: str, points: NDArray[np.int64], rate: float
) -> tuple[Asked, Any]:
    """Run the requests on one instance and ask the predictor at each."""
    wanted = set(points.tolist())
    predictor = Predictor([question.instance], question.mix, level=level, arrival_rate=rate)
    answers, bounds, counts, ages = [], [], [], {}

    def ask(view: View, request: RequestMeta) -> int:
        found = predictor.predict(None, request, view.time)
        only = found[0]
        answers.append((only.ttft, only.e2el))
        bounds.append((*(only.ttft_bounds or (np.nan, np.nan)), *(only.e2el_bounds or (0, 0))))
        state = predictor.states[0]
        counts.append((1.0, len(state.waiting), state.running.total, request.prefill_length))
        if request.request_id in wanted:
            ages[request.request_id] = {each: state.running.where(each)[0]
                                        for each in range(request.request_id)
                                        if each in state.running}  # fmt: skip
            ages[request.request_id] |= {each: was[0] for each, was in state.stopped.items()}
            ages[request.request_id] |= {each: 0.0 for each in state.waiting}
        return 0

    run = route(requests, [question.instance], ask, predictor=predictor, capacity=[1.0])
    return Asked(np.array(answers), np.array(bounds), np.array(counts), ages), run


def drawn_lengths(
    mix: RequestMix, model: LengthModel, prompts: NDArray, ages: NDArray, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw lengths of answers given the class of the prompt and the tokens so far."""
    out = np.empty(prompts.size, np.int64)
    for i, (prompt, age) in enumerate(zip(prompts, ages, strict=True)):
        survive = model.survive[model.part_of(prompt)]
        age = min(int(age), survive.size - 2)
        left = survive[age] * rng.random()
        out[i] = max(age + 1, int(np.searchsorted(-survive, -left, side="left")))
    return out


def bayes(
    question: Question, requests: RequestTable, at: int, ages: dict[int, float], rate: float,
    forks: int, rng: np.random.Generator, span: float,
) -> tuple[float, float]:  # fmt: skip
    """Return the mean TTFT and E2EL of a request over forks of the engine."""
    mix, model, now = question.mix, LengthModel.from_mix(question.mix), requests.arrival_time[at]
    open_ = np.array([*sorted(ages), at])
    age = np.array([*(ages[each] for each in sorted(ages)), 0.0])
    found = []
    for _ in range(forks):
        decode = requests.decode_length[: at + 1].copy()
        decode[open_] = drawn_lengths(mix, model, requests.prefill_length[open_], age, rng)
        new = rng.poisson(rate * span)
        of = rng.choice(len(mix), size=new, p=mix.probability)
        table = RequestTable.validated(
            np.append(requests.arrival_time[: at + 1], now + np.sort(rng.random(new)) * span),
            np.append(requests.prefill_length[: at + 1], np.round(mix.prefill[of]).astype(int)),
            np.append(decode, mix.decode[of]),
        )
        run = simulate(table, question.instance, until=now + span, record_batches=False)
        done = float(run.requests["completion_time"][at])
        if not np.isfinite(done):
            run = simulate(table, question.instance, record_batches=False)
            done = float(run.requests["completion_time"][at])
        found.append((float(run.requests["first_token_time"][at]) - now, done - now))
    ttft, e2el = np.mean(found, axis=0)
    return float(ttft), float(e2el)


def regression(counts: NDArray, truth: NDArray, known_at: NDArray, arrival: NDArray) -> NDArray:
    """Return what a linear fit on counts says for each request, of those that ended before."""
    out = np.full(truth.shape, np.nan)
    size = counts.shape[1]
    gram, moment = 1e-3 * np.eye(size), np.zeros((size, 2))
    order, next_ = np.argsort(known_at, kind="stable"), 0
    for i in range(len(arrival)):
        while next_ < len(order) and known_at[order[next_]] <= arrival[i]:
            x = counts[order[next_]]
            gram += np.outer(x, x)
            moment += np.outer(x, truth[order[next_]])
            next_ += 1
        out[i] = counts[i] @ np.linalg.solve(gram, moment)
    return out


def judged(question: Question, load: float, points: int, forks: int, seed: int) -> dict[str, Any]:
    """Return mean absolute errors [time] of TTFT and E2EL, by who predicts."""
    question = question.at_load(load)
    requests = question.requests
    size, first = len(requests), int(WARM_UP * len(requests))
    rate = float(size / requests.arrival_time[-1])
    stream = getattr(question.source, "rate", None)
    rate = float(stream) if stream else rate
    rng = np.random.default_rng(seed)
    at = np.sort(rng.choice(np.arange(first, int(0.9 * size)), size=points, replace=False))
    row: dict[str, Any] = {"load": load, "requests": size}
    truth = None
    for level in LEVELS:
        asked, run = watch(question, requests, level, at, rate)
        if truth is None:
            of = run.samples
            truth = np.column_stack([of.ttft, of.e2el])
            row["mean"] = truth[first:].mean(axis=0).tolist()
            said = regression(
                asked.counts, truth, requests.arrival_time + truth[:, 1], requests.arrival_time
            )
            row["regression"] = _mae(said, truth, at)
            span = float(3 * truth[:, 1].max())
            forked = np.array([
                bayes(question, requests, i, asked.ages[i], rate, forks, rng, span) for i in at
            ])  # fmt: skip
            row["bayes"] = np.abs(forked - truth[at]).mean(axis=0).tolist()
        row[level] = _mae(asked.answers, truth, at)
        row[f"{level}_all"] = _mae(asked.answers, truth, np.arange(first, size))
        row[f"{level}_bias"] = (asked.answers - truth)[first:].mean(axis=0).tolist()
        low, high = asked.bounds[first:, 2], asked.bounds[first:, 3]
        e2el = truth[first:, 1]
        row[f"{level}_e2el_covered"] = float(((e2el >= low) & (e2el <= high)).mean())
        low, high = asked.bounds[first:, 0], asked.bounds[first:, 1]
        ttft = truth[first:, 0]
        row[f"{level}_ttft_covered"] = float(((ttft >= low) & (ttft <= high)).mean())
    return row


def _mae(said: NDArray, truth: NDArray, at: NDArray) -> list[float]:
    return np.abs(said[at] - truth[at]).mean(axis=0).tolist()


def instance_of(engine: str) -> tuple[Instance, Any]:
    """Return an instance of an engine, and a workload for it."""
    if engine == "decode_node":
        from serving import DecodeNode

        return DecodeNode(), describe("normal")
    from fluidserve import config
    from fluidserve.inputs import load_config_of

    named = {"model": "Llama-3.1-8B", "hardware": "RTX4090"}
    return config.instance_of(load_config_of(named)), describe("normal")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="decode_node", choices=("decode_node", "vllm_v1"))
    parser.add_argument("--loads", type=positive, nargs="+", default=[0.8, 0.95, 1.1])
    parser.add_argument("--requests", type=whole, default=800)
    parser.add_argument("--points", type=whole, default=60)
    parser.add_argument("--forks", type=whole, default=48)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--lengths", help="file of lengths instead of the scenario 'normal'")
    options = parser.parse_args()
    instance, source = instance_of(options.engine)
    if options.lengths:
        source = describe(lengths=options.lengths)
    question = Question(source, instance, num_requests=options.requests, seed=options.seed)
    for load in options.loads:
        row = judged(question, load, options.points, options.forks, options.seed)
        print(json.dumps(row), flush=True)
        print(f"load {load:g} done", file=sys.stderr)


if __name__ == "__main__":
    run(main)
