"""Gradients against differences of two solvers, one of which shares nothing with them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluid import PARAMETER_UNITS, capacity, with_mean_decode
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
TABLE = BatchTimeLaw.tabulated([(1, 0.1), (12, 1.0), (80, 1.5)], 1e-3, d_0=1.0, d_decode=0.02)
NODES = {
    "B binds": DecodeNode(SPLIT),
    "M binds": DecodeNode(SPLIT, M_total=2000, B=None),
    "a table": DecodeNode(TABLE, M_total=2000, B=None),
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
        return profile, with_mean_decode(mix, mix.mean_decode + by), node
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
    step = {"M_total": 20, "B": 20, "mean_decode": 0.2}.get(name, 0.01 * value)

    def at(by: float) -> dict[str, float]:
        return measured(method, *moved(name, by, *arguments))

    up, down = at(step), at(-step)
    return {key: (up[key] - down[key]) / (2 * step) for key in up}


def agrees(found: Gradients, name: str, other: dict[str, float], metrics) -> None:
    """Hold gradients to 1 %, and elasticities below 0.3 to 0.003."""
    for metric in metrics:
        scale = found.values[metric] / found.parameters[name]
        assert found.gradients[metric][name] == pytest.approx(
            other[metric], rel=0.01, abs=0.003 * scale
        ), (metric, name, found.elasticities[metric][name])


CASES = [
    ("B binds", 0.5), ("B binds", 0.8), ("B binds", 1.3), ("M binds", 1.3),
    ("threshold binds", 1.3), ("a table", 0.5), ("a table", 1.3),
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
    metrics = OF_BOTH if key == "B binds" or load < 1 else (*OF_BOTH, "queue_delay")
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


@pytest.mark.slow
def test_values_are_those_of_the_solve_where_requests_are_evicted():
    """Those evicted before their first token wait for it; those evicted later do not."""
    node = DecodeNode(SPLIT, M_total=4000, B=None, mode="swapping")
    profile = RateProfile.constant(30.0, 10.0)
    found = gradients(profile, MIX, node, step=0.4)
    metrics = solve(profile, MIX, node, method="eulerian_jax", step=0.4).metrics()
    for name in ("e2el", "ttft"):
        assert found.values[name] == pytest.approx(metrics.latencies[name].mean, rel=0.01), name


@pytest.mark.slow
def test_swapping_time_matters_where_requests_are_evicted():
    law = replace(SPLIT, d_swap=1e-3)
    node = DecodeNode(law, M_total=4000, B=None)
    profile = RateProfile.constant(30.0, 10.0)
    found = gradients(profile, MIX, node)
    assert any("under eviction" in label for label in found.labels)
    e2el = []
    for by in (5e-4, -5e-4):
        arguments = moved("d_swap", by, profile, MIX, node)
        solution = solve(*arguments, method="eulerian_jax", step=0.4)
        t = np.linspace(0, solution.totals["duration"], 16001)
        e2el.append(np.trapezoid(solution("in_system", t), t) / profile.total)
    assert found.gradients["e2el"]["d_swap"] == pytest.approx((e2el[0] - e2el[1]) / 1e-3, rel=0.01)
    assert found.gradients["e2el"]["d_swap"] > 100


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    load=st.floats(0.2, 1.6),
    d_0=st.floats(0.3, 2.0),
    key=st.sampled_from(list(NODES)),
    weight=st.floats(0.2, 5.0),
    name=st.sampled_from(["arrival_rate", "d_0", "d_kv", "d_decode", "mean_prefill"]),
)
def test_random_cases(load, d_0, key, weight, name):
    node = replace(NODES[key], batch_time=replace(SPLIT, d_0=d_0))
    share = np.tile(np.linspace(1, weight, 8), 3)
    mix = RequestMix.from_lengths(MIX.prefill, MIX.decode, share)
    profile = RateProfile.constant(load * capacity(mix, node), HORIZON)
    found = gradients(profile, mix, node)
    step = 0.01 * found.parameters[name]
    down, here, up = (
        measured("lagrangian", *moved(name, by, profile, mix, node)) for by in (-step, 0.0, step)
    )
    for metric in ("in_system", "e2el"):
        scale = found.values[metric] / found.parameters[name]
        left, right = ((b[metric] - a[metric]) / step for a, b in ((down, here), (here, up)))
        # at a kink the derivatives to either side differ and any value between them is right
        low, high = min(left, right), max(left, right)
        slack = 0.01 * max(abs(low), abs(high)) + 0.003 * scale
        assert low - slack <= found.gradients[metric][name] <= high + slack, metric


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.5, 0.8, 1.3])
def test_by_the_mean_decode_length(load):
    """Three lengths, far apart: a token more or less is a length that nobody had."""
    mix = RequestMix.from_lengths([20, 80, 200], [10, 20, 30], [0.7, 0.2, 0.1])
    node = NODES["B binds"]
    profile = RateProfile.constant(load * capacity(mix, node), HORIZON)
    found = gradients(profile, mix, node, transport="upwind", step=0.8)
    other = difference("lagrangian", "mean_decode", found, profile, mix, node)
    for metric in ("in_system", "e2el"):
        assert found.gradients[metric]["mean_decode"] == pytest.approx(other[metric], rel=0.02)


NO_PROMPT = replace(MIX, prefill=0 * MIX.prefill)


@pytest.mark.parametrize(
    ("profile", "mix", "node"),
    [
        (RateProfile.constant(1.0, 100.0), NO_PROMPT, DecodeNode(SPLIT, M_total=600, B=None)),
        (RateProfile.steps([0, 50, 400], [0.3, 0, 0.3], 450.0), MIX, DecodeNode(SPLIT)),
        (RateProfile([0, 0, 50, 50, 100], [0, 20, 30, 60, 70]), MIX, DecodeNode(SPLIT)),
        (
            RateProfile.constant(1.0, 100.0),
            MIX,
            DecodeNode(BatchTimeLaw(1.0, 0.0, 0.0), M_total=2000),
        ),
    ],
    ids=["no prompt", "an empty node waits", "bursts", "constant batch time"],
)
def test_dead_branches_give_no_nan(profile, mix, node):
    found = gradients(profile, mix, node)
    for row in found.gradients.values():
        assert np.isfinite(list(row.values())).all()
    assert found.gradients["e2el"]["d_0"] > 0 and found.gradients["e2el"]["d_kv"] > 0


def test_by_the_rate_and_by_the_time_scale():
    """Batches and gaps twice as long make latencies twice as long: Euler's theorem."""
    found, _ = differentiated("M binds", 1.3, "swapping")
    node = NODES["M binds"]
    longer = replace(node, batch_time=BatchTimeLaw(2.0, 2 * SPLIT.d_decode, 2 * SPLIT.d_kv))
    slower = gradients(profile_of(node, 1.3).stretched(2.0), MIX, longer)
    assert slower.values["e2el"] == pytest.approx(2 * found.values["e2el"], rel=1e-9)
    for name, row in found.elasticities["e2el"].items():
        assert slower.elasticities["e2el"][name] == pytest.approx(row, rel=1e-6, abs=1e-9), name


def test_at_a_kink_the_sides_differ():
    """B = M_total: raising B alone does nothing, lowering it costs; documented in the docstring."""
    node = DecodeNode(SPLIT, M_total=2000, B=2000)
    arguments = profile_of(node, 1.3), MIX, node
    at = {by: measured("lagrangian", *moved("B", by, *arguments))["e2el"] for by in (-20, 0, 20)}
    assert at[20] == at[0]
    assert (at[0] - at[-20]) / 20 < -0.01
    found = gradients(*arguments)
    assert found.gradients["e2el"]["B"] == 0
    assert found.gradients["e2el"]["M_total"] == pytest.approx((at[0] - at[-20]) / 20, rel=0.02)


def test_chosen_metrics_units_and_a_run_that_is_cut_short():
    profile = profile_of(NODES["B binds"], 0.8)
    node = replace(NODES["B binds"], time_unit="ms")
    found = gradients(profile, MIX, node, drain=False)
    assert set(found.gradients) == set(found.values) == set(found.units)
    assert "e2el" not in found.values and set(found.parameters) == PARAMETER_UNITS.keys() - {
        "mean_decode"
    }
    assert found.units["running"]["M_total"] == "requests per token"
    assert found.units["batch_duration"]["d_kv"] == "ms per (ms/token)"
    assert found.units["throughput"]["admission_threshold"] == "requests/ms"
    assert "forward mode" in found.method and found.steps > 100
    one = found.elasticities["running"]["d_0"]
    expected = found.gradients["running"]["d_0"] * SPLIT.d_0 / found.values["running"]
    assert one == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("speed",)}, "no metric 'speed'"),
        ({"parameters": ("speed",)}, "no parameter 'speed'"),
        ({"metrics": ("e2el",), "drain": False}, "need drain"),
        ({"step": 0.9}, "step: 0.9"),
        ({"parameters": ("mean_decode",)}, "needs transport"),
        ({"horizon": float("nan")}, "horizon': nan"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(FluidServeError, match=message):
        gradients(RateProfile.constant(0.1, 100.0), MIX, DecodeNode(), **options)


def test_nobody_and_unmodelled_policies():
    with pytest.raises(FluidServeError, match="nobody arrives"):
        gradients(RateProfile.constant(0.0, 100.0), MIX, DecodeNode())
    with pytest.raises(UnsupportedError, match="SJF"):
        gradients(RateProfile.constant(0.1, 100.0), MIX, DecodeNode(queue_policy="SJF"))
