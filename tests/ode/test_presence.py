"""How many are in a node's system over time, and when the last leaves, against the engine."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete import simulate
from fluid import capacity
from ode import solve
from ode.node_work.presence import Arrivals, Clock, in_use, present
from serving import BatchTimeLaw, DecodeNode, LatencySamples, VllmV1
from studies.question import Question
from workload import Sine, Workload, describe

GRID = 97
LAW = BatchTimeLaw(d_0=0.012, d_decode=2e-4, d_prefill=3e-5, d_kv=1e-7)

CASES = {
    "few requests, light": ("normal", DecodeNode(M_total=5000, B=None), 0.5, 300.0, None, 400),
    "few requests, overloaded": ("normal", DecodeNode(M_total=5000, B=None), 1.3, 800.0, None, 200),
    "a rate that changes": ("normal", DecodeNode(B=2000), 0.8, 900.0, 300.0, 200),
    "seats": ("normal", VllmV1(batch_time=LAW, max_num_seqs=24), 0.9, 12.0, None, 200),
}


def asked(name: str) -> tuple[Question, int]:
    lengths, node, load, horizon, period, runs = CASES[name]
    mix = describe(lengths).mix
    workload = Workload(mix, load * capacity(mix, node))
    if period is not None:
        workload = replace(workload, shape=Sine(amplitude=0.6, period=period))
    return Question(workload, node, seed=11).until(horizon), runs


@pytest.mark.parametrize("name", CASES)
def test_who_is_there_and_when_the_last_leaves(name):
    question, runs = asked(name)
    flow = solve(question.profile, question.mix, question.instance, method="node_work")
    grid = np.linspace(0.0, question.end, GRID)
    inside, waiting, last = [], [], []
    for number in range(runs):
        table = question.replication(number)
        assert table is not None
        run = simulate(table, question.instance, sample_times=grid, record_batches=False)
        path = run.trajectory(grid).outputs
        inside.append(path["in_system"])
        waiting.append(path["waiting"])
        last.append(run.duration)
    usual = np.mean(inside)
    noise = np.std(np.mean(inside, axis=1)) / np.sqrt(runs) / usual
    found = flow.trajectory("in_system", grid)
    assert np.mean(found) == pytest.approx(usual, rel=0.02 + 2 * noise)
    assert np.sqrt(np.mean((found - np.mean(inside, axis=0)) ** 2)) < (0.05 + 2 * noise) * usual
    queue = flow.trajectory("waiting", grid)
    assert np.sqrt(np.mean((queue - np.mean(waiting, axis=0)) ** 2)) < (0.05 + 2 * noise) * usual
    noise = np.std(last) / np.sqrt(runs) / np.mean(last)
    assert flow.totals["duration"] == pytest.approx(np.mean(last), rel=0.015 + 2 * noise)


TWICE = Clock(np.array([1.0, 30.0]), np.array([2.0, 60.0]))


def test_the_clock_counts_batches():
    clock = Clock(np.array([10.0, 10.0]), np.array([10.0, 5.0]))  # steps of 1, then of 2
    start, batches = np.array([0.0, 5.0, 5.0, 12.0, 30.0]), np.array([3.0, 5.0, 8.0, 6.0, 4.0])
    assert clock.after(start, batches).tolist() == [3.0, 10.0, 16.0, 24.0, 38.0]


def drawn(seed: int, count: int) -> Arrivals:
    rng = np.random.default_rng(seed)
    stay, weight = rng.exponential(2.0, count), rng.uniform(0.5, 1.5, count)
    when = rng.uniform(0.0, 50.0, count)
    samples = LatencySamples(0.2 * stay, stay, stay, stay, weight)
    return Arrivals(when, when + 0.2 * stay, 1.6 * stay, samples)


@given(st.floats(0.2, 5.0), st.floats(0.05, 8.0))
def test_a_curve_that_is_off_by_a_factor_is_put_right(factor, lasts):
    """Regular arrivals that all stay as long: the number rises to the rate times the stay."""
    when = np.linspace(0.005, 49.995, 5000)
    stay, weight = np.full(when.size, lasts), np.full(when.size, 3.0)
    arrivals = Arrivals(when, when, stay, LatencySamples(stay, stay, stay, stay, weight))
    edges = np.linspace(0.0, 50.0, 97)
    usual = 300.0 * np.minimum(edges, lasts)
    found = present(arrivals, stay, edges, factor * usual)
    assert np.allclose(found[20:], usual[20:], rtol=1e-3)
    whole = 300.0 * (50.0 * lasts - 0.5 * lasts**2)
    assert np.trapezoid(found, edges) == pytest.approx(whole, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(0.0, 60.0))
def test_the_last_to_leave_is_that_of_poisson_arrivals(seed, count, since):
    arrivals = drawn(seed, count)  # two batches per time unit: the last token comes with the stay
    ends = arrivals.when + arrivals.samples.e2el
    rng = np.random.default_rng(seed)
    there = rng.poisson(arrivals.samples.weight, (20_000, count)) > 0
    last = np.maximum(np.where(there, ends, 0.0).max(axis=1) - since, 0.0)
    error = 5 * last.std() / np.sqrt(last.size) + 1e-9
    assert in_use(arrivals, TWICE, since) == pytest.approx(last.mean(), abs=error)


def test_nobody_is_there_if_nobody_comes():
    none = np.empty(0)
    nobody = Arrivals(none, none, none, LatencySamples(none, none, none, none, none))
    assert in_use(nobody, TWICE) == 0.0
    edges = np.linspace(0.0, 10.0, 5)
    assert (present(nobody, np.empty(0), edges, np.zeros(5)) == 0.0).all()


def test_where_the_law_has_nobody_the_number_is_that_of_those_who_came():
    arrivals, edges = drawn(3, 5000), np.linspace(0.0, 50.0, 51)
    stay = arrivals.samples.e2el
    alike = present(arrivals, stay, edges, np.ones(edges.size))
    for little in (0.0, 1e-9, -1e-9):
        lost = present(arrivals, stay, edges, little * (-1.0) ** np.arange(edges.size))
        assert lost == pytest.approx(alike, rel=0.02)


def test_a_rush_on_a_large_node_is_followed():
    node = DecodeNode(B=2000).scaled(100)
    rush = describe("normal", rate_shape="steps(0:0.5,1000:1.5,2000:0.5)")
    question = Question(rush.at_rate(capacity(rush.mix, node)), node, seed=1).until(3000.0)
    flow = solve(question.profile, question.mix, node, method="node_work").trajectory
    grid = np.linspace(0.0, 3000.0, 301)
    queue, inside = flow("waiting", grid), flow("in_system", grid)
    assert (queue >= 0.0).all() and (queue <= inside).all()
    waited, there = [], []
    for number in range(4):
        table = question.replication(number)
        assert table is not None
        run = simulate(table, node, sample_times=grid, record_batches=False)
        waited.append(run.trajectory(grid).outputs["waiting"])
        there.append(run.trajectory(grid).outputs["in_system"])
    assert queue.mean() == pytest.approx(np.mean(waited), rel=0.2)
    off = inside - np.mean(there, axis=0)
    assert np.sqrt(np.mean(off**2)) < 0.08 * np.mean(there)
