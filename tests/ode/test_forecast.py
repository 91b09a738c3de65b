"""Forecasts: a request that is followed through reaches gets the latencies of the march itself."""

from __future__ import annotations

import numpy as np
import pytest

from fluid import capacity
from ode import DURATION, FORECAST_ROWS, REACH, START, InitialState, Present, forecaster
from ode.lagrangian.layout import S_FROM, S_LENGTH, S_UNTIL, S_WEIGHT
from ode.lagrangian.outputs import latencies_of
from ode.lagrangian.solve import march_from
from ode.lagrangian.workspace import Workspace
from scheduling.tagged import stay
from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix, VllmV1
from workload import describe

MIX = describe("normal").mix
AGES = np.linspace(55, 0, 20).round()
RUNNING = np.column_stack([np.full(20, 1.0), AGES, AGES, np.zeros(20)])
NONE = np.empty((0, 4))
WAITING = np.array([[20.0, 0.0, 0.0, 0.0]])
SERVER = VllmV1(
    batch_time=BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-7, d_prefill=5e-5),
    num_gpu_blocks=4000,
)


def present(rate, now=0.0, fresh=0.0, running=RUNNING, waiting=WAITING, queued=20.0):
    arriving = np.array([[fresh, 0.0, 0.0, 0.0]]) if fresh else NONE
    return Present(
        running,
        NONE,
        waiting,
        arriving,
        np.empty(0),
        np.empty(0),
        0.0,
        queued,
        0.0,
        fresh,
        now,
        0.0,
        rate,
    )


def followed(node, rate, at, number, steps=1000):
    """Return TTFT and E2EL [time] of a request of a number that arrives at a time."""
    out = np.zeros((FORECAST_ROWS, steps))
    of = forecaster(MIX, node)
    marched = of.march(out, present(rate), 1e9)
    survive = MIX.survival()
    rest = np.cumsum(survive[::-1])[::-1].copy()
    found = np.zeros(3)
    stay(
        out, marched.steps, of.batches, of.again, at, marched.number + number, survive, rest,
        np.array([40.0]), 0.0, 0.0, found,
    )  # fmt: skip
    return found[0] - at, found[1] - at


@pytest.mark.parametrize("load", [0.8, 1.2])
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
@pytest.mark.parametrize(("budget", "memory"), [(2000, 10_000), (None, 3000), (None, 10_000)])
def test_a_request_in_a_forecast_is_a_parcel_of_the_march(mode, budget, memory, load):
    node = DecodeNode(B=budget, M_total=memory, mode=mode)
    rate = load * capacity(MIX, node)
    march = Workspace(
        MIX, node, RateProfile.constant(rate, 2000.0), horizon=2000.0, rows=4096, samples=1 << 16
    )
    done = march_from(march, InitialState(20.0, RUNNING[:, :3]))
    kept = done.samples[done.samples[:, S_LENGTH] >= 0]
    of = latencies_of(done, 1)
    for first in (100.0, 300.0):
        here = (kept[:, S_FROM] >= first) & (kept[:, S_FROM] < first + 10)
        weight = kept[here, S_WEIGHT]
        ttft, e2el = (np.average(each[here], weights=weight) for each in (of.ttft, of.e2el))
        begin, end = kept[here, S_FROM].min(), kept[here, S_UNTIL].max()
        times = np.linspace(begin, end, 41)
        found = np.mean([followed(node, rate, at, rate * at) for at in times], axis=0)
        assert found[0] == pytest.approx(ttft, rel=0.02, abs=1.5)
        assert found[1] == pytest.approx(e2el, rel=0.01)


def test_classes_that_are_all_alike_change_nothing():
    node, rate = DecodeNode(), 0.1
    plain, classed = np.zeros((FORECAST_ROWS, 200)), np.zeros((FORECAST_ROWS, 200))
    first = forecaster(MIX, node).march(plain, present(rate), 1e9)
    of = np.arange(20) % 3
    running = RUNNING.copy()
    running[:, 3] = of
    second = forecaster(MIX, node, (MIX, MIX)).march(classed, present(rate, running=running), 1e9)
    assert first.steps == second.steps and first.number == pytest.approx(second.number)
    np.testing.assert_allclose(plain, classed, rtol=1e-12)


def test_a_class_of_short_answers_leaves_sooner():
    short = MIX.decode <= 50
    parts = [
        RequestMix(MIX.prefill[s], MIX.decode[s], MIX.probability[s], MIX.request_class[s])
        for s in (short, ~short)
    ]
    node, ends = DecodeNode(), []
    for number in (1, 2):
        running = RUNNING.copy()
        running[:, 1:3] = 10.0
        running[:, 3] = number
        out = np.zeros((FORECAST_ROWS, 400))
        marched = forecaster(MIX, node, parts).march(out, present(0.0, running=running), 60.0)
        # when twenty who wait have all begun
        ends.append(out[START, np.argmax(out[REACH] >= marched.number)])
    assert ends[0] < 0.7 * ends[1]


@pytest.mark.parametrize("ahead", [True, False])
def test_a_server_computes_the_prompts_that_it_has_and_no_others(ahead):
    from dataclasses import replace

    node = replace(SERVER, async_scheduling=ahead)
    of = forecaster(MIX, node)
    assert of.ahead == ahead
    ages = np.column_stack([np.full(10, 2.0), np.arange(10, 0, -1), np.arange(10, 0, -1)])
    running = np.column_stack([ages, np.zeros(10)])
    quiet, busy = np.zeros((FORECAST_ROWS, 64)), np.zeros((FORECAST_ROWS, 64))
    of.march(quiet, present(0.0, running=running, waiting=NONE, queued=0.0), 20.0)
    one = present(0.0, running=running, waiting=WAITING / 20.0, queued=1.0)
    of.march(busy, one, 20.0)
    prompt = 5e-5 * of.unit
    assert busy[DURATION, 0] - quiet[DURATION, 0] == pytest.approx(prompt, rel=0.1)
    assert np.isinf(quiet[REACH, :5]).all() and np.isinf(busy[REACH, :5]).all()
    # twenty decode at first; who has no prompt to wait for takes only the time of a step
    assert quiet[DURATION, 0] == pytest.approx(0.01 + 20 * 1e-4, rel=0.05)


@pytest.mark.parametrize(("rate", "is_priced"), [(2.0, False), (100.0, True)])
def test_the_next_steps_compute_prompts_to_come_only_where_some_are_likely(rate, is_priced):
    of = forecaster(MIX, SERVER)
    quiet, busy = np.zeros((FORECAST_ROWS, 64)), np.zeros((FORECAST_ROWS, 64))
    of.march(quiet, present(0.0, waiting=NONE, queued=0.0), 20.0)
    of.march(busy, present(rate, waiting=NONE, queued=0.0), 20.0)
    longer = busy[DURATION, 3:8] - quiet[DURATION, 3:8]
    mean = 5e-5 * of.unit * rate * quiet[DURATION, 3:8]  # of the prompts that come in a step
    assert (longer > 0.8 * mean).all() if is_priced else (longer < 0.2 * mean).all()


def test_a_full_server_admits_as_requests_end():
    node = VllmV1(batch_time=SERVER.batch_time, num_gpu_blocks=4000, max_num_seqs=20)
    of = forecaster(MIX, node)
    ages = np.linspace(40, 1, 20).round()
    running = np.column_stack([np.ones(20), ages, ages, np.zeros(20)])
    out = np.zeros((FORECAST_ROWS, 300))
    marched = of.march(out, present(0.0, running=running, waiting=WAITING, queued=20.0), 30.0)
    reach = out[REACH, : marched.steps]
    begun = reach[np.isfinite(reach)]
    assert begun[0] < 2.0 and (np.diff(begun) >= -1e-9).all()
    # about as many begin by a time as end by it: half of twenty in a stay's half
    survive = MIX.survival()
    k = 20
    left = np.interp(ages + k, np.arange(survive.size), survive) / np.interp(
        ages, np.arange(survive.size), survive
    )
    assert reach[k] == pytest.approx((1 - left).sum(), abs=2.5)
