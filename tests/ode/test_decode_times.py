"""Decodes that outlast an arrival rate, against simulated paths and matrix exponentials."""

import numpy as np
import pytest
from scipy.linalg import expm

from discrete import simulate
from fluid import capacity, work_closure
from ode import solve
from ode.node_work.backward import decode_moments, decode_moments_before
from ode.node_work.coming import Always, InWindows
from ode.node_work.decode_times import Stretch, changing, steady
from ode.node_work.generator import generator, grid_of, levels_of
from serving import BatchTimeLaw, DecodeNode
from studies.question import Question
from workload import Workload, describe

MIX = describe("normal").mix
NODE = DecodeNode(M_total=4000, B=None, batch_time=BatchTimeLaw.per_token(1.0, 1e-3))


def dense(band, below):
    n = band.shape[0]
    full = np.zeros((n, n))
    for i in range(n):
        for column in range(band.shape[1]):
            j = i + column - below
            if 0 <= j < n:
                full[i, j] = band[i, column]
    return full


def posed(load, steps=18):
    closure = work_closure(MIX, NODE, load * capacity(MIX, NODE))
    work, uniform = grid_of(closure, 2 * closure.set_mean, steps=steps, resolve=False)
    levels = levels_of(closure, work, uniform)
    return levels, generator(levels, closure, closure.rate)


def test_moments_before_a_change_are_carried_back_exactly():
    """Two generators after each other, by matrix exponentials of both."""
    (levels, (early, below)), (_, (late, below_late)) = posed(0.9), posed(0.1)
    g, full = levels.batch_time.copy(), levels.full
    g[0] = 1.0
    more = np.zeros(g.size)
    batches = np.array([4.0, 8.0, 15.0, 30.0, 45.0, 60.0])
    passing = 20.0
    after = decode_moments(late, below_late, levels.batch_time, 1.0, full, more, batches)
    found = decode_moments_before(
        early, below, levels.batch_time, 1.0, full, more, batches, passing, after
    )
    n = g.size

    def block(band, under):
        per_batch, zero = dense(band, under).T * g[:, None], np.zeros((n, n))
        rows = [
            [per_batch, zero, g[:, None]],
            [2 * np.diag(g), per_batch, np.zeros((n, 1))],
            [np.zeros((1, 2 * n + 1))],
        ]
        return np.block(rows)

    for k, d in enumerate(batches):
        first, then = min(d, passing), max(d - passing, 0.0)
        out = (expm(first * block(early, below)) @ expm(then * block(late, below_late)))[:, -1]
        assert np.allclose(found[0, k], out[:n], rtol=0.015)
        exact = np.sqrt(np.maximum(out[n:-1] - out[:n] ** 2, 0.0))
        assert (np.abs(np.sqrt(found[1, k]) - exact) < 0.03 * out[:n]).all()


def test_a_change_that_changes_nothing_changes_nothing():
    """Windows of one rate give what no windows give, at every moment."""
    closure = work_closure(MIX, NODE, 0.8 * capacity(MIX, NODE))
    highest = 2 * closure.set_mean
    one = steady(closure, highest)
    stretch = Stretch(40.0, 25.0, closure.rate, closure)
    many = changing([stretch] * 12, closure, 300.0, capacity(MIX, NODE), highest)
    assert many.when.size == 13
    assert np.allclose(many.table[..., 0], one.table[..., 0], rtol=0.004)
    for row in (1, 2):
        off = np.abs(many.table[..., row] - one.table[..., row]).max()
        assert off < 0.02 * one.table[..., row].max()


@pytest.mark.parametrize("load", [0.5, 1.2])
def test_decodes_left_over_after_the_last_arrival_speed_up(load):
    """A horizon of two stays: E2EL of the whole against the engine, mean and p99."""
    node = DecodeNode(M_total=40_000, B=None, batch_time=BatchTimeLaw.per_token(1.0, 2e-4))
    stay = MIX.mean_decode * (1.0 + 2e-4 * 40_000)
    rate = load * capacity(MIX, node)
    question = Question(Workload(MIX, rate), node, seed=3).until(2 * stay)
    flow = solve(question.profile, MIX, node, method="node_work").metrics()
    took = []
    for number in range(30):
        rows = simulate(question.replication(number), node).requests
        took.append(rows["completion_time"] - rows["arrival_time"])
    e2el = np.concatenate(took)
    assert flow.latencies["e2el"].mean == pytest.approx(e2el.mean(), rel=0.05)
    assert flow.latencies["e2el"].percentiles[99] == pytest.approx(
        np.percentile(e2el, 99), rel=0.06
    )


def test_moments_follow_the_flows():
    """A level that is met in one window only is met at a moment of this window."""
    flows = np.array([[4.0, 0.0], [4.0, 2.0]])
    coming = InWindows(np.array([0.0, 10.0]), np.array([10.0, 20.0]), flows, lambda t: 0.5 * t)
    when = coming.moments(np.repeat([0, 1], 400))
    assert ((when[400:] >= 10.0) & (when[400:] <= 30.0)).all()
    assert when[400:].mean() == pytest.approx(20.0, abs=0.5)
    assert (when[:400] < 10.0).mean() == pytest.approx(0.5, abs=0.02)
    assert coming.arrived(np.array([1.0]), np.array([4.0])) == pytest.approx(2.0)
    assert Always(0.5).arrived(np.array([1.0]), np.array([4.0])) == pytest.approx(2.0)


def test_an_empty_start_holds_nobody():
    """Few requests of very different sizes, where levels of work are wide."""
    mix = describe("heavy").mix
    node = DecodeNode(M_total=6000, B=None, batch_time=BatchTimeLaw.per_token(1.0, 1e-3))
    question = Question(Workload(mix, 0.8 * capacity(mix, node)), node, seed=3).until(500.0)
    path = solve(question.profile, mix, node, method="node_work").trajectory
    assert path.outputs["in_system"][0] == 0.0
    assert path.outputs["in_system"][-1] > 1.0
