"""What the symbols of a server give at rest is what the code computes; so are its derivatives."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import discrete
from fluid import (
    capacity,
    equilibrium,
    equilibrium_gradients,
    fastest_batch,
    parameter_values,
    saturation,
    saturation_formulas,
    server_equilibrium_formulas,
    with_parameter,
)
from fluid.prompt_server import life, most_entering, saturation_of_many, step_time
from fluid.prompt_server.closed_values import closed_values
from fluid.prompt_server.recompute import _lost
from serving import BatchTimeLaw, RequestMix, SolveError, VllmV0, VllmV1, reading_of
from studies import Question
from workload import Workload, describe

LAW = BatchTimeLaw(
    d_0=1.0, d_decode=0.01, d_kv=1e-4, d_prefill=0.003, d_prefill_attention=1e-5,
    d_prefill_context=2e-4, d_mixed_decode=0.02,
)  # fmt: skip


@st.composite
def servers(draw):
    """Draw a mix and a server whose law is a line."""
    requests = draw(
        st.lists(st.tuples(st.integers(1, 60), st.integers(1, 15)), min_size=1, max_size=5)
    )
    mix = RequestMix.from_lengths(*np.array(requests).T)
    shared = {
        "batch_time": replace(LAW, d_mixed_decode=draw(st.sampled_from([0.0, 0.02]))),
        "num_gpu_blocks": draw(st.integers(40, 400)), "block_size": 8,
        "max_num_seqs": draw(st.integers(4, 100)),
        "cpu_gap": draw(st.sampled_from([0.0, 0.3, 3.0])),
        "max_num_batched_tokens": draw(st.integers(100, 1000)),
        "watermark": draw(st.sampled_from([0.0, 0.05])),
    }  # fmt: skip
    if draw(st.booleans()):
        return mix, reading_of(VllmV0(**shared, enable_chunked_prefill=draw(st.booleans()))).node
    server = VllmV1(
        **shared, async_scheduling=draw(st.booleans()), ignore_eos=draw(st.booleans()),
        enable_prefix_caching=draw(st.booleans()),
    )  # fmt: skip
    hits = draw(st.sampled_from([0.0, 0.4]))
    return mix, replace(reading_of(server).node, hit_share=(hits,))


@cache
def compiled(formula):
    symbols = sorted(formula.free_symbols, key=str)
    return [str(each) for each in symbols], sp.lambdify(symbols, formula)


def evaluated(formula, values):
    names, function = compiled(formula)
    return function(*(values[name] for name in names))


@given(servers())
@settings(max_examples=60, deadline=None)
def test_limits_and_time_of_a_full_step(case):
    mix, server = case
    formulas, full = saturation_formulas(server.prompts_apart), saturation(mix, server)
    limits = most_entering(mix, server)
    each, at = life(mix, server), dict(closed_values(mix, server, 1.0, full.entering).value)
    held = np.ceil(mix.prefill / server.block_size) * server.block_size
    waits = float(mix.probability @ held**2) / float(mix.probability @ held) / 2
    kv = server.kv_tokens - server.reserve
    at["room"] = kv - max(kv - waits, min(kv, each.held / each.stay))
    for name, limit in limits.items():
        if name in formulas:
            assert limit == pytest.approx(evaluated(formulas[name], at), rel=1e-9), name
        else:
            assert server.prompts_apart and limit == math.inf
    for x in (0.01, 0.5, full.entering):
        found = evaluated(formulas["batch_time"], at | {"x": x})
        assert float(step_time(each, server, x)) == pytest.approx(found, rel=1e-9)


@cache
def turn():
    """Return by how much the code's next time of a step of prompts follows the one before."""
    condition = server_equilibrium_formulas(True)["conditions"][2]
    return 1 - sp.diff(condition, sp.Symbol("one", positive=True))


@given(servers(), st.sampled_from([0.05, 0.4, 0.8]))
@settings(max_examples=60, deadline=None)
def test_the_equilibrium(case, load):
    mix, server = case
    rate = load * capacity(mix, server)
    try:
        found = equilibrium(mix, server, rate)
    except SolveError:
        return  # the backlog grows from the start
    full = fastest_batch(mix, server)
    longest = full.entering / rate if server.prompts_apart else full.batch_time
    assume(found.tau < 0.999 * longest)  # else the server is full
    x = rate * (found.tau + found.idle)
    at = dict(closed_values(mix, server, rate, x).value) | {"x": x, "tau": found.tau}
    assume((rate * at["O_1"]) ** 2 < 0.99)  # beyond, the code keeps a denominator from 0
    if server.prompts_apart:
        at["one"] = found.ttft - found.wait
    formulas = server_equilibrium_formulas(server.prompts_apart)
    if server.prompts_apart:  # the code takes 20 turns, which find it where each of them halves
        assume(abs(evaluated(turn(), at)) < 0.45)
    for condition in formulas["conditions"]:
        assert evaluated(condition, at) == pytest.approx(0.0, abs=1e-6 * max(found.tau, x))
    for name in ("running", "wait", "ttft", "tpot", "decode_time", "e2el"):
        if mix.mean_decode > 1 or name in ("running", "wait", "ttft"):
            assert getattr(found, name) == pytest.approx(evaluated(formulas[name], at), rel=1e-6)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.floats(0, 120))
@settings(max_examples=60, deadline=None)
def test_tokens_computed_again(prompts, lacking):
    """What is lost is the mean of (a - U p)^+ over a uniform U and prompts by their length."""
    mix = RequestMix.from_lengths(prompts, np.ones(len(prompts), int))
    server = reading_of(VllmV1()).node
    a, p, u = sp.symbols("a p u", positive=True)
    below = sp.integrate(a - u * p, (u, 0, a / p))  # a < p
    beyond = sp.integrate(a - u * p, (u, 0, 1))
    weight = mix.probability * mix.prefill
    wanted = sum(
        share * float((below if lacking < prompt else beyond).subs({a: lacking, p: prompt}))
        for share, prompt in zip(weight / weight.sum(), mix.prefill, strict=True)
    )
    found = float(_lost(mix, server, np.array([lacking + server.reserve]))[0])
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


MIX = describe("normal").mix
SPEED = BatchTimeLaw(
    d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4, d_prefill_attention=1e-9,
    d_prefill_context=1e-8, d_mixed_decode=2e-5,
)  # fmt: skip
NODES = {
    "seats": VllmV1(batch_time=SPEED, num_gpu_blocks=20000, max_num_seqs=64, cpu_gap=1e-3),
    "tokens": VllmV1(batch_time=SPEED, num_gpu_blocks=90000, max_num_seqs=2500,
                     max_num_batched_tokens=2500, async_scheduling=False, cpu_gap=1e-3),
    "KV": VllmV1(batch_time=SPEED, num_gpu_blocks=1000, max_num_seqs=500),
    "KV without cache": VllmV1(batch_time=SPEED, num_gpu_blocks=1000, max_num_seqs=500,
                               enable_prefix_caching=False, ignore_eos=False),
    "prompts apart": VllmV0(batch_time=SPEED, num_gpu_blocks=20000, max_num_seqs=64, cpu_gap=1e-3),
    "prompts apart, KV": VllmV0(batch_time=SPEED, num_gpu_blocks=1000, max_num_seqs=500),
}  # fmt: skip


def measured(mix, node, rate):
    state = equilibrium(mix, node, rate)
    names = ("running", "wait", "ttft", "tpot", "e2el")
    found = {name: getattr(state, name) for name in names}
    # few requests that KV fills are marched, which has no gradient: that of many stands for it
    full = saturation_of_many(mix, node)
    return found | {"batch_time": state.tau, "capacity": full.throughput}


@pytest.mark.parametrize("key", NODES)
@pytest.mark.parametrize(("load", "hits"), [(0.2, 0.3), (0.8, 0.0)])
def test_gradients_are_differences_of_the_code(key, load, hits):
    node = replace(reading_of(NODES[key]).node, hit_share=(hits,))
    rate = load * capacity(MIX, node)
    found, here = equilibrium_gradients(MIX, node, rate), measured(MIX, node, rate)
    assert found.keys() == here.keys()
    values = parameter_values(MIX, node, rate)
    for name in found["capacity"]:
        value = values[name]
        step = 16 if name == "kv_tokens" else 1 if name.startswith("max") else 1e-4 * value
        if name == "prefix_hit_share":
            step = 1e-4
        low = value if name == "prefix_hit_share" and hits == 0 else value - step
        ends = [with_parameter(MIX, node, rate, name, each) for each in (low, value + step)]
        before, after = (measured(x.mix, x.instance, x.arrival_rate) for x in ends)
        whole = name in ("kv_tokens", "max_num_seqs", "max_num_batched_tokens") or low == value
        for quantity, size in here.items():
            slope = (after[quantity] - before[quantity]) / (value + step - low)
            rel = 0.03 if whole or (quantity == "capacity" and "KV" in key) else 1e-3
            assert found[quantity][name] == pytest.approx(
                slope, rel=rel, abs=1e-6 * size / max(value, step)
            ), (quantity, name)


@pytest.mark.parametrize("key", NODES)
def test_each_of_these_servers_is_bound_by_its_limit(key):
    limit = {"seats": "max_num_seqs", "tokens": "max_num_batched_tokens"}
    wanted = limit.get(key, "KV blocks" if "KV" in key else "max_num_seqs")
    assert saturation(MIX, NODES[key]).binds == wanted


def test_long_prompts_take_whole_steps_and_their_slope_is_the_mean_of_the_stairs():
    server = VllmV1(
        batch_time=SPEED, num_gpu_blocks=20000, max_num_seqs=60, max_num_batched_tokens=80
    )
    node = reading_of(server).node
    rate, sizes = 0.5 * capacity(MIX, node), np.arange(70, 131, 2)
    nodes = [replace(node, step_tokens=int(size)) for size in sizes]
    slopes = [equilibrium_gradients(MIX, x, rate)["ttft"]["max_num_batched_tokens"] for x in nodes]
    ends = [equilibrium(MIX, x, rate).ttft for x in (nodes[0], nodes[-1])]
    assert np.trapezoid(slopes, sizes) == pytest.approx(ends[1] - ends[0], rel=0.03)


def test_without_an_equilibrium_the_capacity_alone_has_derivatives():
    found = equilibrium_gradients(MIX, NODES["seats"], 1.5 * capacity(MIX, NODES["seats"]))
    assert list(found) == ["capacity"] and found["capacity"]["max_num_seqs"] > 0


def test_requests_of_one_token_have_no_tpot():
    one = RequestMix.from_lengths([40, 20], [1, 1])
    found = equilibrium_gradients(one, NODES["seats"], 0.5 * capacity(one, NODES["seats"]))
    assert all(math.isnan(slope) for slope in found["tpot"].values())
    assert found["e2el"] == found["ttft"] and found["ttft"]["d_prefill"] > 0


BENT = replace(
    SPEED, d_prefill_table=((1, 0.01), (64, 0.012), (512, 0.05), (4096, 0.35)), d_prefill=0.0
)


def test_a_law_that_bends_has_differences():
    node = replace(NODES["seats"], batch_time=BENT)
    rate = 0.5 * capacity(MIX, node)
    found, here = equilibrium_gradients(MIX, node, rate), measured(MIX, node, rate)
    assert found.keys() == here.keys() and "d_prefill" not in found["ttft"]
    ends = [measured(MIX, node, rate * (1 + by)) for by in (-1e-3, 1e-3)]
    for name in here:
        slope = (ends[1][name] - ends[0][name]) / (2e-3 * rate)
        assert found[name]["arrival_rate"] == pytest.approx(slope, rel=0.01, abs=1e-9)


def changed(node, name, factor):
    if name == "max_num_seqs":
        return replace(node, max_num_seqs=round(node.max_num_seqs * factor))
    if name == "num_gpu_blocks":
        return replace(node, num_gpu_blocks=round(node.num_gpu_blocks * factor))
    law = replace(node.batch_time, **{name: getattr(node.batch_time, name) * factor})
    return replace(node, batch_time=law)


@pytest.mark.slow
@pytest.mark.parametrize("binds", ["max_num_seqs", "num_gpu_blocks"])
def test_the_engine_completes_as_much_more(binds):
    """Elasticities of the capacity: a full engine with the same requests, +-10 %."""
    sizes = {"max_num_seqs": 1280, "num_gpu_blocks": 200_000}
    if binds == "num_gpu_blocks":
        sizes = {"max_num_seqs": 5120, "num_gpu_blocks": 6000}
    node = VllmV1(batch_time=SPEED.scaled(20), **sizes, max_num_batched_tokens=40_960)
    full = capacity(MIX, node)
    requests = Question(Workload(MIX, rate=2 * full), node, num_requests=20_000).requests

    def completes(server):
        run = discrete.simulate(requests, server, record_batches=False)
        done = np.sort(run.requests["completion_time"])
        return 10_000 / (done[18_000] - done[8_000])

    slopes, here = equilibrium_gradients(MIX, node, 0.5 * full)["capacity"], completes(node)
    for name in ("d_0", "d_decode", "d_prefill", binds):
        ends = [completes(changed(node, name, factor)) for factor in (0.9, 1.1)]
        ours = slopes["kv_tokens"] * 16 if name == "num_gpu_blocks" else slopes[name]
        value = getattr(node, name, None) or getattr(node.batch_time, name)
        assert (ends[1] - ends[0]) / 0.2 / here == pytest.approx(ours * value / full, abs=0.03)


@pytest.mark.parametrize("gap", [0.02, 0.05])
@pytest.mark.parametrize("is_ahead", [False, True])
def test_decisions_that_outlast_their_step_cost_the_engine_as_much(gap, is_ahead):
    """A step takes .028 s. Decided ahead, two steps take one of them and a decision of .05 s."""
    node = VllmV1(
        batch_time=SPEED.scaled(20), num_gpu_blocks=200_000, max_num_seqs=1280, cpu_gap=gap,
        max_num_batched_tokens=40_960, async_scheduling=is_ahead,
    )  # fmt: skip
    full = capacity(MIX, node)
    requests = Question(Workload(MIX, rate=2 * full), node, num_requests=10_000).requests
    run = discrete.simulate(requests, node, record_batches=False)
    done = np.sort(run.requests["completion_time"])
    assert full == pytest.approx(5000 / (done[9000] - done[4000]), rel=0.02)


@pytest.mark.slow
def test_the_engine_is_as_much_slower():
    """Elasticities of mean TTFT, TPOT and E2EL: a large engine with the same requests, +-10 %."""
    node = VllmV1(
        batch_time=SPEED.scaled(100), num_gpu_blocks=10**6, max_num_seqs=6400,
        max_num_batched_tokens=204_800,
    )  # fmt: skip
    rate = 0.6 * capacity(MIX, node)
    requests = Question(Workload(MIX, rate=rate), node, num_requests=20_000).requests
    names = ("ttft", "tpot", "e2el")

    def means(server):
        samples = discrete.simulate(requests, server, record_batches=False).samples(8000)
        return np.array([samples.of(name)[0].mean() for name in names])

    slopes, point = equilibrium_gradients(MIX, node, rate), equilibrium(MIX, node, rate)
    for name in ("d_0", "d_decode", "d_prefill"):
        low, high = (means(changed(node, name, factor)) for factor in (0.9, 1.1))
        value = getattr(node.batch_time, name)
        ours = [slopes[each][name] * value / getattr(point, each) for each in names]
        np.testing.assert_allclose((high - low) / 0.2 / means(node), ours, atol=0.05)
