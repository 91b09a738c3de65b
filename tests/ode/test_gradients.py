"""Gradients against differences of two solvers, one of which shares nothing with them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import PARAMETER_UNITS, capacity
from ode import Gradients, gradients, solve
from serving import (
    BatchTimeLaw,
    DecodeNode,
    FluidServeError,
    RateProfile,
    RequestMix,
    UnsupportedError,
)

DECODE = np.tile(np.arange(10, 32, 3), 3)
MIX = RequestMix.from_lengths(np.repeat([10, 40, 90], 8), DECODE, np.tile(np.arange(8, 16), 3))
HORIZON = 400.0
OF_BOTH = ("in_system", "running", "batch_duration", "e2el")
OF_THE_SAME = (*OF_BOTH, "throughput", "peak_memory", "queue_delay", "ttft")
"""The iteration clock completes in lumps, so its throughput by the horizon and its wait within a
batch move in jumps; its wait for memory is compared."""

SPLIT = BatchTimeLaw(d_0=1.0, d_kv=1e-3, d_decode=0.02)
NODES = {
    "B binds": DecodeNode(SPLIT),
    "M binds": DecodeNode(SPLIT, M_total=2000, B=None),
    "threshold binds": DecodeNode(SPLIT, M_total=2500, B=None, admission_threshold=0.7),
}


def profile_of(node: DecodeNode, load: float) -> RateProfile:
    return RateProfile.constant(load * capacity(MIX, node), HORIZON)


def moved(name: str, by: float, profile: RateProfile, mix: RequestMix, node: DecodeNode):
    """Return the arguments of a solve with one parameter moved by ``by``."""
    if name == "arrival_rate":
        return profile.scaled(1 + by / profile.mean_rate), mix, node
    if name == "mean_prefill":
        return profile, replace(mix, prefill=mix.prefill + by), node
    if name == "mean_decode":
        decode = np.concatenate([mix.decode, mix.decode + 1])
        share = np.concatenate([mix.probability * (1 - by), mix.probability * by])
        return (
            profile,
            RequestMix(np.tile(mix.prefill, 2), decode, share, np.tile(mix.request_class, 2)),
            node,
        )
    if name.startswith("d_"):
        law = replace(node.batch_time, **{name: getattr(node.batch_time, name) + by})
        return profile, mix, replace(node, batch_time=law)
    value = getattr(node, name) + by
    return profile, mix, replace(node, **{name: value if by % 1 else int(value)})


def measured(method: str, profile: RateProfile, mix: RequestMix, node: DecodeNode):
    """Return metrics from the trajectory of a solver, latencies by Little's law."""
    solution = solve(profile, mix, node, method=method)
    t = np.linspace(0, solution.totals["duration"], 16001)
    early = np.linspace(0, HORIZON, 8001)

    def mean(name: str) -> float:
        return float(np.trapezoid(solution(name, early), early)) / HORIZON

    def per_arrival(name: str) -> float:
        return float(np.trapezoid(solution(name, t), t)) / profile.total

    return {
        "in_system": mean("in_system"),
        "running": mean("running"),
        "batch_duration": HORIZON
        / float(np.trapezoid(1 / solution("batch_duration", early), early)),
        "peak_memory": float(solution("memory", t).max()),
        "ttft": solution.metrics().latencies["ttft"].mean,
        "throughput": float(solution("completed", HORIZON)) / HORIZON,
        "e2el": per_arrival("in_system"),
        "queue_delay": per_arrival("waiting"),
    }


def difference(method: str, name: str, found: Gradients, *arguments) -> dict[str, float]:
    """Return finite differences, central where the parameter may go either way."""
    value = found.parameters[name]
    step = {"M_total": 10, "B": 10, "mean_decode": 0.02}.get(
        name, 0.01 * value
    )

    def at(by: float) -> dict[str, float]:
        return measured(method, *moved(name, by, *arguments))

    if name == "mean_decode":  # a chance >= 0: second order to one side
        here, one, two = at(0.0), at(step), at(2 * step)
        return {key: (4 * one[key] - 3 * here[key] - two[key]) / (2 * step) for key in here}
    up, down = at(step), at(-step)
    return {key: (up[key] - down[key]) / (2 * step) for key in up}


def agrees(found: Gradients, name: str, other: dict[str, float], metrics) -> None:
    """Hold gradients to 1 %, and elasticities below 0.1 to 0.001."""
    for metric in metrics:
        scale = found.values[metric] / found.parameters[name]
        assert found.gradients[metric][name] == pytest.approx(
            other[metric], rel=0.01, abs=1e-3 * scale
        ), (metric, name, found.elasticities[metric][name])


CASES = [
    ("B binds", 0.5), ("B binds", 0.8), ("B binds", 1.3), ("M binds", 1.3), ("threshold binds", 1.3)
]  # fmt: skip


@cache
def differentiated(key: str, load: float, mode: str) -> tuple[Gradients, tuple]:
    node = replace(NODES[key], mode=mode)
    arguments = profile_of(node, load), MIX, node
    return gradients(*arguments), arguments


def probed(found: Gradients) -> list[str]:
    """Return the parameters that differences can move to both sides."""
    return [
        name
        for name, value in found.parameters.items()
        if 0 < value < np.inf and not (name == "admission_threshold" and value == 1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
@pytest.mark.parametrize(("key", "load"), CASES)
def test_match_differences_of_the_iteration_clock(key, load, mode):
    """The Lagrangian solver marches cohorts by whole batches; it shares no equation."""
    found, arguments = differentiated(key, load, mode)
    metrics = OF_BOTH if key == "B binds" else (*OF_BOTH, "queue_delay")
    for name in probed(found):
        agrees(found, name, difference("lagrangian", name, found, *arguments), metrics)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "load"), CASES)
def test_match_differences_of_the_same_solve(key, load):
    found, arguments = differentiated(key, load, "swapping")
    for name in probed(found):
        agrees(found, name, difference("eulerian_jax", name, found, *arguments), OF_THE_SAME)


def test_values_are_those_of_the_solve():
    found, (profile, mix, node) = differentiated("B binds", 0.8, "swapping")
    solution = solve(profile, mix, node, method="eulerian_jax")
    metrics = solution.metrics()
    for name in ("e2el", "ttft", "queue_delay"):
        assert found.values[name] == pytest.approx(metrics.latencies[name].mean, rel=3e-3), name
    for name, value in measured("eulerian_jax", profile, mix, node).items():
        assert found.values[name] == pytest.approx(value, rel=3e-3), name
    memory = solution("memory", np.linspace(0, HORIZON, 4001))
    assert found.values["peak_memory"] == pytest.approx(memory.max(), rel=1e-3)
