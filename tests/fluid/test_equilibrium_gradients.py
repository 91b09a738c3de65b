"""Derivatives of the closed forms against differences of the numbers themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fluid import capacity, equilibrium, equilibrium_gradients, with_mean_decode
from serving import BatchTimeLaw, DecodeNode, RequestMix, SolveError

MIX = RequestMix.from_lengths([20, 200, 5], [30, 90, 4], [0.7, 0.2, 0.1], [0, 1, 0])
LAW = BatchTimeLaw(d_0=2.0, d_kv=1e-3, d_decode=0.03)
CONCAVE = BatchTimeLaw.tabulated(
    [(1, 0.5), (20, 2.0), (60, 3.0), (300, 5.0)], 1e-3, d_0=2.0, d_decode=0.01
)
CONVEX = BatchTimeLaw.tabulated(
    [(1, 0.1), (40, 0.4), (90, 2.0), (300, 12.0)], 1e-3, d_0=2.0, d_decode=0.01
)
NODES = {
    "B": DecodeNode(LAW, M_total=10**6, B=20000),
    "M": DecodeNode(LAW, M_total=20000, B=None),
    "threshold": DecodeNode(LAW, M_total=25000, B=None, admission_threshold=0.7),
    "concave table": DecodeNode(CONCAVE, M_total=10**6, B=20000),
    "convex table": DecodeNode(CONVEX, M_total=20000, B=None),
}


def measured(mix: RequestMix, node: DecodeNode, rate: float) -> dict[str, float]:
    state = equilibrium(mix, node, rate)
    names = ("tau", "batch_tokens", "running", "wait")
    return {name: getattr(state, name) for name in names} | {"capacity": capacity(mix, node)}


def moved(name: str, by: float, mix: RequestMix, node: DecodeNode, rate: float):
    if name == "arrival_rate":
        return mix, node, rate + by
    if name == "mean_prefill":
        return replace(mix, prefill=mix.prefill + by), node, rate
    if name == "mean_decode":
        return with_mean_decode(mix, mix.mean_decode + by), node, rate
    if name.startswith("d_"):
        law = replace(node.batch_time, **{name: getattr(node.batch_time, name) + by})
        return mix, replace(node, batch_time=law), rate
    value = getattr(node, name) + by
    return mix, replace(node, **{name: int(value) if name in ("M_total", "B") else value}), rate


@pytest.mark.parametrize("key", NODES)
@pytest.mark.parametrize("load", [0.1, 0.6, 0.9])
def test_match_differences(key, load):
    node = NODES[key]
    rate = load * capacity(MIX, node)
    found = equilibrium_gradients(MIX, node, rate)
    here = measured(MIX, node, rate)
    # where a table bends within the spread, each of the numbers of requests that stand for all
    # passes the bend at another rate: a difference depends on its step by this much
    rel = 1e-4 if node.batch_time.is_affine else 0.01
    steps = {
        "arrival_rate": 1e-4 * rate, "d_0": 1e-4, "d_kv": 1e-7, "d_decode": 1e-6,
        "mean_prefill": 1e-3, "mean_decode": 1e-3, "M_total": 2, "B": 2,
        "admission_threshold": 1e-4,
    }  # fmt: skip
    for name, step in steps.items():
        if getattr(node, name, 0) is None or getattr(node, name, 0) == 1:
            continue
        up, down = (measured(*moved(name, by, MIX, node, rate)) for by in (step, -step))
        for quantity, value in here.items():
            expected = (up[quantity] - down[quantity]) / (2 * step)
            assert found[quantity][name] == pytest.approx(
                expected, rel=rel, abs=1e-9 * value / step
            ), (quantity, name)


def test_the_formulas_of_section_4():
    """tau = d_0 / (1 - rho) on a node that is never idle; capacity C / (W (d_0 + d_1 C))."""
    mix = RequestMix.from_lengths([50], [20])
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), M_total=10**6, B=None)
    rate, work = 0.495868, 1210.0
    found = equilibrium_gradients(mix, node, rate)
    assert found["tau"]["arrival_rate"] == pytest.approx(1e-3 * work / 0.4**2, rel=1e-5)
    assert found["tau"]["d_0"] == pytest.approx(2.5, rel=1e-5)
    assert found["batch_tokens"]["d_0"] == pytest.approx(1500, rel=1e-5)
    room = 10**6 - 25.5
    slope = 1.0 / (work * (1 + 1e-3 * room) ** 2)
    assert found["capacity"]["M_total"] == pytest.approx(slope, rel=1e-9)
    assert found["capacity"]["B"] == 0 and found["tau"]["M_total"] == 0


def test_no_equilibrium_under_overload():
    with pytest.raises(SolveError, match="overload"):
        equilibrium_gradients(MIX, NODES["B"], 1.2 * capacity(MIX, NODES["B"]))
