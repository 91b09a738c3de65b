"""Random scenarios: a number stands for one, the same on every machine and in every order.

A scenario is a question and a protocol. Over time, the system starts empty, arrivals come up to a
horizon, and everybody counts. In a steady state, a constant rate goes on for ever. A saturated
system has more arrivals than it completes, and the question is its throughput. Lengths are a sample
of a law, and the scenario's mix is exactly this sample, so that methods and engine know the same of
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import MODES, BatchTimeLaw, DecodeNode, RequestMix, VllmV1
from studies.question import Question
from workload import Ramp, Sine, Steps, Workload, describe

ENGINES = ("decode_node", "vllm_v1")
PROTOCOLS = ("over_time", "steady", "saturated")
ATOMS = 400
"""Requests of a sampled mix."""

SMALLEST, LARGEST = 3.0, 3000.0
"""Requests that fit, between which sizes are drawn by their logarithm."""

MOST_ARRIVALS = 20_000.0
"""Arrivals of a horizon at most: what a run of the engine may cost."""

OVERLOAD, STAYS = 1.3, 25.0
"""Load of a saturated system, and its horizon over the time that a request stays in it."""

HELD_OUT_FAMILIES = ("heavy", "two_points")
"""Families of lengths that no fit may see; so are those of files."""

HELD_OUT_EVERY = 5
"""Of so many scenarios the last is kept out of every fit."""

FEW_WHEN_DRAWN = 12.0
"""Requests below which the yardstick of load packs whole ones."""

FROM_FILES = 0.12
"""Part of the scenarios whose lengths are those of a file, where files are given."""

Lengths = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Prompts and answers [tokens], shape (K,) each, before they are rounded up."""


@dataclass(frozen=True, eq=False)
class Scenario:
    """One question, and how it is to be answered.

    Parameters
    ----------
    number
        That it was drawn from.
    family
        Law of the lengths, or ``file:`` and the name of one.
    protocol
        Of :data:`PROTOCOLS`.
    question
        Workload and instance, with a horizon over time and without one in a steady state.
    """

    number: int
    family: str
    protocol: str
    question: Question

    @property
    def is_held_out(self) -> bool:
        """Whether no fit may see it."""
        return has_new_lengths(self.family) or self.number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def has_new_lengths(family: str) -> bool:
    """Return whether no fit may see lengths of this family."""
    return family in HELD_OUT_FAMILIES or family.startswith("file:")


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _means(rng: np.random.Generator) -> tuple[float, float]:
    return _log_uniform(rng, 5, 2000), _log_uniform(rng, 8, 300)


def _uniform(rng: np.random.Generator) -> Lengths:
    p, d = _means(rng)
    spread = rng.uniform(0.1, 0.95, 2)
    return (
        rng.uniform(p * (1 - spread[0]), p * (1 + spread[0]), ATOMS),
        rng.uniform(d * (1 - spread[1]), d * (1 + spread[1]), ATOMS),
    )


def _geometric(rng: np.random.Generator) -> Lengths:
    p, d = _means(rng)
    return rng.exponential(p, ATOMS), rng.exponential(d, ATOMS)


def _lognormal(rng: np.random.Generator) -> Lengths:
    """Return lengths of CVs up to 2, with a correlation."""
    (p, d), cv = _means(rng), rng.uniform(0.3, 2.0, 2)
    s = np.sqrt(np.log1p(cv**2))
    z = rng.standard_normal((2, ATOMS))
    z[1] = (c := rng.uniform(-0.3, 0.7)) * z[0] + math.sqrt(1 - c * c) * z[1]
    return p * np.exp(s[0] * z[0] - s[0] ** 2 / 2), d * np.exp(s[1] * z[1] - s[1] ** 2 / 2)


def _gamma(rng: np.random.Generator) -> Lengths:
    (p, d), k = _means(rng), rng.uniform(0.5, 8.0, 2)
    return rng.gamma(k[0], p / k[0], ATOMS), rng.gamma(k[1], d / k[1], ATOMS)


def _deterministic(rng: np.random.Generator) -> Lengths:
    p, d = _means(rng)
    return np.full(1, p), np.full(1, d)


def _classes(rng: np.random.Generator) -> Lengths:
    """Return two classes, a short one and a long one."""
    p, d = _means(rng)
    is_long = rng.random(ATOMS) < rng.uniform(0.05, 0.5)
    factor = np.where(is_long, rng.uniform(2, 8), 1.0) * rng.uniform(0.6, 1.4, (2, ATOMS))
    return p * factor[0], d * factor[1]


def _two_points(rng: np.random.Generator) -> Lengths:
    p, d = _means(rng)
    is_long = np.arange(ATOMS) < rng.uniform(0.02, 0.3) * ATOMS
    far = rng.uniform(2, 12, 2)
    return np.where(is_long, far[0], 1.0) * p, np.where(is_long, far[1], 1.0) * d


LAWS: Mapping[str, Callable[[np.random.Generator], Lengths]] = {
    "uniform": _uniform,
    "geometric": _geometric,
    "lognormal": _lognormal,
    "gamma": _gamma,
    "deterministic": _deterministic,
    "classes": _classes,
    "two_points": _two_points,
}
NAMED = ("normal", "heavy")
"""Scenarios of the generator whose lengths are families too."""


def draw(number: int, seed: int = 1, files: Mapping[str, RequestMix] | None = None) -> Scenario:
    """Return the scenario of a number.

    Parameters
    ----------
    number
        From 0 on.
    seed
        Of the whole campaign.
    files
        Mixes of trace files by name: families besides the laws.
    """
    rng = np.random.default_rng([seed, number])
    family, mix, engine, protocol = _first_draws(rng, {} if files is None else files)
    size = _log_uniform(rng, SMALLEST, LARGEST)
    instance = node_of(rng, mix, size) if engine == "decode_node" else server_of(rng, mix, size)
    burstiness = 1.0 if rng.random() < 0.6 else _log_uniform(rng, 0.25, 4.0)
    question = Question(Workload(mix, 1.0, burstiness=burstiness), instance, seed=number)
    if protocol == "steady":
        return Scenario(number, family, protocol, _at_load(question, float(rng.uniform(0.2, 0.97))))
    fit = _requests_that_fit(question)
    if protocol == "saturated":
        asked = _at_load(question, OVERLOAD)
        horizon = max(STAYS * fit, 300.0) * OVERLOAD / asked.mean_rate
        return Scenario(number, family, protocol, asked.until(horizon))
    asked = _at_load(question, float(rng.uniform(0.2, 1.5)))
    most = max(min(MOST_ARRIVALS, 15 * fit), 60.0)
    horizon = _log_uniform(rng, max(20.0, 0.5 * fit), most) / asked.mean_rate
    return Scenario(number, family, protocol, _over_time(rng, asked, horizon))


def protocol_of(number: int, seed: int, files: Mapping[str, RequestMix]) -> str:
    """Return the protocol of the scenario of a number, without drawing all of it."""
    return _first_draws(np.random.default_rng([seed, number]), files)[3]


def _first_draws(
    rng: np.random.Generator, files: Mapping[str, RequestMix]
) -> tuple[str, RequestMix, str, str]:
    """Return the family of lengths, the mix, the engine and the protocol."""
    family = str(rng.choice((*LAWS, *NAMED)))
    if rng.random() < FROM_FILES and files:
        family = f"file:{rng.choice(sorted(files))}"
    mix = _mix(family, rng, files)
    return family, mix, str(rng.choice(ENGINES)), str(rng.choice(PROTOCOLS, p=(0.58, 0.32, 0.1)))


def yardstick(question: Question) -> float:
    """Return the rate [requests/time] of load 1, which no improvement of capacity changes.

    A number must stand for the same scenario for ever: runs of the engine outlive versions of the
    models that are held against them.
    """
    from fluid import capacity, saturation_of_many

    mix, instance = question.mix, question.instance
    is_node = isinstance(instance, DecodeNode)
    if is_node and _requests_that_fit(question) < FEW_WHEN_DRAWN:
        return capacity(mix, instance)
    return float(saturation_of_many(mix, instance).throughput)


def _at_load(question: Question, load: float) -> Question:
    return question.at_rate(load * yardstick(question))


def _mix(family: str, rng: np.random.Generator, files: Mapping[str, RequestMix]) -> RequestMix:
    if family in NAMED:
        return describe(family).mix
    if family.startswith("file:"):
        mix = files[family.removeprefix("file:")]
        chosen = rng.choice(len(mix), 1000, p=mix.probability / mix.probability.sum())
        lengths: Lengths = (np.asarray(mix.prefill)[chosen], np.asarray(mix.decode, float)[chosen])
    else:
        lengths = LAWS[family](rng)
    p, d = (np.maximum(np.ceil(each), 1).astype(np.int64) for each in lengths)
    return RequestMix.from_lengths(p, d, np.full(p.size, 1.0 / p.size))


def _requests_that_fit(question: Question) -> float:
    from fluid import requests_that_fit

    return requests_that_fit(question.mix, question.instance)


def node_of(rng: np.random.Generator, mix: RequestMix, size: float) -> DecodeNode:
    """Return a decode node that so many requests fill, by its memory or by its batch budget."""
    largest = float((mix.prefill + mix.decode).max())
    tokens = int(max(size * mix.work / mix.mean_decode, 1.05 * largest + 1))
    ratio = _log_uniform(rng, 0.3, 30.0)
    requests = tokens * mix.mean_decode / mix.work
    if rng.random() < 0.6:
        law = BatchTimeLaw.per_token(1.0, ratio / tokens)
    else:
        part = rng.uniform(0.1, 0.9) * ratio
        per_token = (ratio - part) / tokens
        law = BatchTimeLaw(d_0=1.0, d_decode=part / requests + per_token, d_kv=per_token)
    mode = str(rng.choice(MODES))
    if rng.random() < 0.4:
        memory = int(rng.uniform(1.5, 6.0) * tokens)
        return DecodeNode(M_total=memory, B=tokens, batch_time=law, mode=mode)
    threshold = 1.0 if rng.random() < 0.8 else float(rng.uniform(0.7, 0.98))
    return DecodeNode(
        M_total=tokens, B=None, batch_time=law, mode=mode, admission_threshold=threshold
    )


def server_of(rng: np.random.Generator, mix: RequestMix, size: float) -> VllmV1:
    """Return a vLLM server that so many requests fill, by its seats or by its KV blocks."""
    largest = float((mix.prefill + mix.decode).max())
    tokens = mix.work / mix.mean_decode
    law = BatchTimeLaw(
        d_0=_log_uniform(rng, 0.004, 0.03),
        d_decode=_log_uniform(rng, 3e-6, 2e-4),
        d_prefill=_log_uniform(rng, 5e-6, 2e-4),
        d_kv=_log_uniform(rng, 1e-8, 3e-7),
        d_prefill_attention=_log_uniform(rng, 1e-10, 3e-9),
    )
    settings: dict[str, Any] = {
        "async_scheduling": bool(rng.random() < 0.7),
    }
    step = int(rng.choice((512, 2048, 8192)))
    if rng.random() < 0.5:
        kv, seats = (
            max(size * (tokens + 16), 1.05 * largest + 32),
            min(max(int(4 * size), 64), 8192),
        )
    else:
        kv, seats = max(20 * size * (tokens + 16), 2 * largest + 32), max(int(size), 2)
    return VllmV1(
        batch_time=law, num_gpu_blocks=int(kv / 16) + 2, max_num_seqs=seats,
        max_num_batched_tokens=max(step, seats), **settings,
    )  # fmt: skip


def _over_time(rng: np.random.Generator, question: Question, horizon: float) -> Question:
    """Return the question up to a horizon, half of the time at a rate that changes."""
    kind = str(rng.choice(("constant", "sine", "steps", "ramp"), p=(0.5, 0.2, 0.2, 0.1)))
    period = horizon / rng.uniform(0.7, 5.0)
    shape: Any
    if kind == "sine":
        shape = Sine(amplitude=float(rng.uniform(0.2, 0.9)), period=period)
    elif kind == "steps":
        up, share = rng.uniform(1.3, 3.0), rng.uniform(0.15, 0.5)
        down = max((1 - share * up) / (1 - share), 0.0)
        shape = Steps((0.0, float(share * period)), (float(up), float(down)), period=period)
    elif kind == "ramp":
        first = float(rng.uniform(0.2, 1.8))
        shape = Ramp(first=first, last=2 - first, duration=horizon)
    else:
        return question.until(horizon)
    stream = question.stream
    shaped = Question(replace(stream, shape=shape), question.instance, seed=question.seed)
    shaped = shaped.until(horizon)
    return shaped.at_rate(stream.rate * question.mean_rate / shaped.mean_rate)
