"""What ``analyze`` says of every batch-time law that is shipped, against the discrete engine."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import profiles
from discrete import simulate
from fluid import Equilibrium, capacity, equilibrium
from serving import DecodeNode
from studies import Question, analyze
from workload import Workload, describe

SHIPPED = [(each["model"], each["hardware"], each["tp"]) for each in profiles.listing()]
MIXTURE_OF_EXPERTS = ("Qwen/Qwen3-30B-A3B", "RTXPRO6000", 1)
SOME = [MIXTURE_OF_EXPERTS, ("meta-llama/Llama-2-7b-hf", "H100", 1), ("Qwen/Qwen2-7B", "A30", 1)]
"""One law with a table, one that is nearly all KV and one with fixed and KV time alike."""

LOADS = (0.5, 0.8, 0.95)
USUAL = {"normal": 0.8, "long prompts": 0.5}
"""Of laws that are not among :data:`SOME`: a run at load 0.95 is as long as ten of these."""
WORK = {
    "normal": describe("normal"),
    "long prompts": describe(types="(2000,150,1);(6000,400,0.3);(500,60,2)"),
}
WARM_UP = 0.3
FEWEST, MOST = 30_000, 2_000_000
SETTLINGS, REQUESTS = 30, 2e4
"""Requests of a run: many times what passes while a node settles, N / (1 - rho), and enough for a
mean whose error is about 1 %: that asks for so many over (1 - rho)^2, whatever the node's size."""


def node_of(profile: tuple[str, str, int]) -> DecodeNode:
    found = profiles.find(*profile)
    law = found.law.batch_time(1.0)
    return DecodeNode(law, time_unit="ms", M_total=found.kv_capacity, B=None)


def measured(work: Workload, node: DecodeNode, rate: float, state: Equilibrium, seed: int):
    """Return mean batch time and running requests over iterations, and their relative errors."""
    spare = 1 - state.rho
    needed = max(SETTLINGS * state.running / spare, REQUESTS / spare**2)
    count = int(np.clip(needed, FEWEST, MOST))
    table = work.at_rate(rate).sample(num_requests=count, seed=seed)
    run = simulate(table, node, until=float(table.arrival_time[-1]))
    out = []
    for name in ("batch_duration", "batch_size"):
        values = np.asarray(run.batches[name], float)
        parts = np.array_split(values[int(WARM_UP * values.size) :], 20)
        means = np.array([part.mean() for part in parts])
        out.append((means.mean(), means.std(ddof=1) / np.sqrt(20) / means.mean()))
    return out


def holds(profile: tuple[str, str, int], kind: str, load: float, seed: int) -> None:
    work, node = WORK[kind], node_of(profile)
    rate = load * capacity(work.mix, node)
    state = analyze(Question(work.at_rate(rate), node, horizon=1000.0), method="model").equilibrium
    assert state is not None
    (tau, tau_error), (running, running_error) = measured(work, node, rate, state, seed)
    assert max(tau_error, running_error) < 0.025
    assert state.tau == pytest.approx(tau, rel=0.05)
    assert state.running == pytest.approx(running, rel=0.05)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("profile", SOME, ids=str)
def test_means_of_three_shipped_laws(profile, kind, load):
    holds(profile, kind, load, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("profile", [each for each in SHIPPED if each not in SOME], ids=str)
def test_means_of_every_shipped_law(profile, kind):
    holds(profile, kind, USUAL[kind], seed=2)


def test_the_mixture_of_experts_is_far_from_what_its_linear_terms_say():
    """Its experts' table is most of the batch: without it the means are 14 times too short."""
    node, mix = node_of(MIXTURE_OF_EXPERTS), WORK["normal"].mix
    rate = 0.8 * capacity(mix, node)
    state = equilibrium(mix, node, rate)
    assert state.tau == pytest.approx(78.2, rel=0.01)
    told = analyze(
        Question(WORK["normal"].at_rate(rate), node, horizon=1000.0), method="model"
    ).warnings
    assert any(line.startswith("extrapolated") and "up to 256" in line for line in told)
    light = analyze(
        Question(WORK["normal"].at_rate(rate / 50), node, horizon=1000.0), method="model"
    )
    assert light.equilibrium is not None and light.equilibrium.running < 256
    assert not any("extrapolated" in line for line in light.warnings)
    law = node.batch_time
    fixed = float(law.duration(0, 0))
    linear = fixed / (1 - rate * (float(law.duration(mix.work, 0)) - fixed))
    assert state.tau > 10 * linear
