from __future__ import annotations

from dataclasses import replace

import lagrangian_reference as reference
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lagrangian_cases import cases
from numba.core.runtime import _nrt_python as runtime
from numba.core.runtime import rtsys

from ode import InitialState
from ode.lagrangian.kernel import advance
from ode.lagrangian.layout import (
    AGE,
    ALIVE,
    CLOCK,
    FURTHEST,
    MASS,
    PREFILL,
    R_COMPLETED,
    R_DURATION,
    R_EVICTED,
    R_MEMORY,
    R_RUNNING,
    R_SIZE,
    R_START,
    R_SWAPPED,
    R_TOKENS,
    RUNNING,
    SWAPPED,
    WAITING,
    Answer,
)
from ode.lagrangian.seed import seed
from ode.lagrangian.solve import march_from
from ode.lagrangian.workspace import Workspace
from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix, SolveError

NOBODY = np.empty((0, 3))
HORIZON = 45.0
ROOMY = 1 << 14


def workspace_of(case, **options):
    mix, instance, profile = case
    return Workspace(mix, instance, profile, horizon=HORIZON, end=HORIZON, **options)


def clock_of(workspace):
    """Return the scalars that a march changes."""
    return np.array([workspace.record[name][0] for name in CLOCK.names])


@st.composite
def states(draw, mix):
    """Draw a state at time 0 that fits a mix; ages need not be whole."""
    longest = float(mix.decode.max())

    def histogram():
        size = draw(st.integers(0, 6))
        ages = sorted(draw(st.lists(st.floats(0, 0.9), min_size=size, max_size=size)))[::-1]
        if draw(st.booleans()):
            ages = [np.floor(age * longest) / longest for age in ages]
        masses = draw(st.lists(st.floats(0.01, 2.0), min_size=size, max_size=size))
        further = draw(st.sampled_from([0.0, 0.05]))
        return np.array(
            [
                [mass, age * longest, (age + further) * longest]
                for mass, age in zip(masses, ages, strict=True)
            ]
        ).reshape(-1, 3)

    return InitialState(
        waiting=draw(st.sampled_from([0.0, 3.5])), running=histogram(), swapped=histogram()
    )


@st.composite
def cases_with_state(draw):
    case = draw(cases())
    return case, draw(states(case[0]))


def plain_node(case, initial):
    """Return the plain reading of a state at time 0."""
    mix, instance, _ = case
    node = reference.Node(mix, instance)
    for queue, rows in ((node.running, initial.running), (node.swapped, initial.swapped)):
        for alive, age, furthest in rows:
            share = float(mix.probability @ np.clip(mix.decode - furthest, 0.0, 1.0))
            queue.append(reference.Parcel(alive / share, age, furthest))
    if initial.waiting > 0:
        node.waiting.append(reference.Parcel(initial.waiting))
    return node


@settings(max_examples=80, deadline=None)
@given(cases_with_state(), st.sampled_from([0.0, 0.4]))
def test_seed_equals_the_plain_reading(drawn, until_boundary):
    case, initial = drawn
    workspace, node = workspace_of(case), plain_node(case, initial)
    workspace.seed(initial, until_boundary)
    if until_boundary > 0:
        node.execute()
    for queue, plain in ((RUNNING, node.running), (WAITING, node.waiting), (SWAPPED, node.swapped)):
        parcels = workspace.parcels(queue)
        if queue == RUNNING:  # both may leave behind what has just completed
            parcels = parcels[:, parcels[ALIVE] > 0]
            plain = [each for each in plain if node.alive(each) > 0]
        expected = [
            (each.mass, each.age, each.furthest, node.alive(each), node.held(each))
            for each in plain
        ]
        found = parcels[[MASS, AGE, FURTHEST, ALIVE, PREFILL]].T.copy()
        found[:, 4] += found[:, 1] * found[:, 3]
        np.testing.assert_allclose(found, np.reshape(expected, (-1, 5)), rtol=1e-9, atol=1e-9)
    state = workspace.record[0]
    assert state["now"] == until_boundary and state["seen"] == 0
    assert state["running"] == pytest.approx(node.requests(), abs=1e-9)
    assert state["memory"] == pytest.approx(node.memory(), abs=1e-9)
    assert state["swapped"] == pytest.approx(initial.swapped[:, 0].sum(), abs=1e-9)
    assert state["completed"] == pytest.approx(node.completed, abs=1e-9)
    assert state["steps"] == state["theta"] == state["arrived"] == 0


@settings(max_examples=60, deadline=None)
@given(cases_with_state(), st.sampled_from([0.0, 0.4]))
def test_a_march_from_a_state_equals_the_plain_reading(drawn, until_boundary):
    """Arrivals before the boundary of the batch under way wait for it, behind the backlog."""
    case, initial = drawn
    profile = case[2]
    workspace, node = workspace_of(case, rows=8), plain_node(case, initial)
    workspace.seed(initial, until_boundary)
    workspace.record["most_steps"] = 15
    workspace.advance()
    rows = workspace.rows[: workspace.record["steps"][0]]
    if until_boundary > 0:
        node.execute()
        node.moved = 0.0
    now, arrived, plain = until_boundary, 0.0, []
    for _ in rows:
        total = float(profile.count(now))
        node.boundary(total - arrived)
        arrived = total
        swapped = sum(node.alive(each) for each in node.swapped)
        row = [now, node.requests(), swapped, node.completed, node.memory(), node.evicted]
        tokens, duration = node.execute()
        plain.append([*row, tokens, duration])
        now += duration
    columns = [R_START, R_RUNNING, R_SWAPPED, R_COMPLETED, R_MEMORY, R_EVICTED, R_TOKENS]
    np.testing.assert_allclose(
        rows[:, [*columns, R_DURATION]], np.reshape(plain, (-1, 8)), rtol=1e-6, atol=1e-6
    )


@settings(max_examples=80, deadline=None)
@given(cases_with_state(), st.integers(1, 300), st.integers(1, 3), st.booleans())
def test_a_full_workspace_loses_nothing(drawn, capacity, batches, record_latencies):
    """A march that stops to be given room takes the steps of one that has room from the start."""
    case, initial = drawn
    samples = 1 if record_latencies else 0
    tight = workspace_of(case, batches_per_step=batches, capacity=capacity, rows=1, samples=samples)
    roomy = workspace_of(
        case, batches_per_step=batches, capacity=ROOMY, rows=ROOMY, samples=samples * 32 * ROOMY
    )
    found, expected = march_from(tight, initial), march_from(roomy, initial)
    assert roomy.record["capacity"] == ROOMY and len(roomy.rows) == ROOMY
    # sums over parcels that are gone but not yet removed may round otherwise
    np.testing.assert_allclose(found.rows, expected.rows, rtol=1e-9, atol=1e-9)
    assert found.samples[:, 0].sum() == pytest.approx(expected.samples[:, 0].sum(), abs=1e-9)


def test_queues_are_enlarged_where_they_must_be(normal_mix):
    burst = RateProfile.steps([0.0, 10.0], [30.0, 0.0], 200.0)
    case = normal_mix, DecodeNode(M_total=8000, B=3000), burst
    workspace, answers = workspace_of(case, capacity=8, rows=1, samples=1), []
    initial = InitialState(running=np.array([[1.0, 5.0, 5.0]]))
    while seed(workspace.record, initial.running, NOBODY, 0.0, 0.0) == Answer.QUEUE_FULL:
        workspace.grow(Answer.QUEUE_FULL)
    while (answer := advance(workspace.record)) != Answer.DONE:
        answers.append(answer)
        before = clock_of(workspace)
        workspace.grow(Answer(answer))
        assert np.array_equal(clock_of(workspace), before)
    for answer in (Answer.QUEUE_FULL, Answer.ROWS_FULL, Answer.SAMPLES_FULL):
        assert answers.count(answer) > 1
    roomy = workspace_of(case, rows=ROOMY, samples=ROOMY)
    expected = march_from(roomy, initial).rows
    assert np.array_equal(workspace.rows[: len(expected)], expected)


@settings(max_examples=40, deadline=None)
@given(cases_with_state(), cases_with_state(), st.integers(1, 3))
def test_a_workspace_used_again_gives_the_same_bits(drawn, other, batches):
    """Whatever a former march left in the storage is never read."""
    case, initial = drawn
    used = workspace_of(case, batches_per_step=batches, rows=ROOMY)
    used._block[:] = np.nan
    once = march_from(used, initial)
    rows, clock = once.rows.copy(), clock_of(used)
    march_from(used, InitialState(waiting=50.0))
    again = march_from(used, initial)
    assert np.array_equal(again.rows, rows)
    assert np.array_equal(clock_of(used), clock)
    fresh = workspace_of(case, batches_per_step=batches, rows=ROOMY)
    assert np.array_equal(march_from(fresh, initial).rows, rows)
    assert np.array_equal(clock_of(fresh), clock)


@settings(max_examples=40, deadline=None)
@given(cases_with_state(), st.integers(1, 3))
def test_rows_may_be_switched_off(drawn, batches):
    case, initial = drawn
    with_rows = workspace_of(case, batches_per_step=batches, rows=ROOMY)
    without = workspace_of(case, batches_per_step=batches)
    march_from(with_rows, initial)
    assert len(march_from(without, initial).rows) == 0
    assert np.array_equal(clock_of(with_rows), clock_of(without))


@settings(max_examples=40, deadline=None)
@given(cases_with_state(), st.lists(st.floats(0.5, HORIZON), min_size=1, max_size=5))
def test_a_march_may_stop_and_go_on(drawn, stops):
    case, initial = drawn
    whole, pieces = workspace_of(case), workspace_of(case)
    march_from(whole, initial)
    pieces.seed(initial)
    for stop in [*sorted(stops), HORIZON]:
        pieces.record["end"] = stop
        assert pieces.advance() == Answer.DONE
    np.testing.assert_allclose(clock_of(pieces), clock_of(whole), rtol=1e-9, atol=1e-9)


def test_steps_are_limited(normal_mix):
    workspace = Workspace(
        normal_mix, DecodeNode(), RateProfile.constant(0.1, 1e4), horizon=1e4, most_steps=17
    )
    workspace.seed(InitialState())
    assert workspace.advance() == Answer.STEP_LIMIT
    assert workspace.record["steps"] == 17
    workspace.record["most_steps"] = 18
    assert workspace.advance() == Answer.STEP_LIMIT
    assert workspace.record["steps"] == 18


@numba.njit
def marching(workspace, present, nobody, times):
    for _ in range(times):
        seed(workspace, present, nobody, 3.0, 0.5)
        advance(workspace)


@numba.njit
def allocating(workspace, present, nobody, times):
    for _ in range(times):
        workspace[0].now = np.ones(times).sum()


@pytest.fixture
def allocations():
    """Return a function that counts what a call of compiled code allocates."""
    was_on = runtime.memsys_stats_enabled()
    runtime.memsys_enable_stats()

    def count(function, *arguments):
        before = rtsys.get_allocation_stats().alloc
        function(*arguments)
        return rtsys.get_allocation_stats().alloc - before

    yield count
    if not was_on:
        runtime.memsys_disable_stats()


@pytest.mark.parametrize(
    ("node", "batches"),
    [
        (DecodeNode(B=None, M_total=10**6), 1),
        (DecodeNode(B=None, M_total=10**6), 2),
        (DecodeNode(B=700), 1),
        (DecodeNode(M_total=1500, B=None), 1),
        (DecodeNode(M_total=1500, B=700, mode="sacrifice"), 1),
    ],
)
def test_a_march_allocates_nothing(normal_mix, allocations, node, batches):
    """A call from Python allocates a header per array it takes, however often it marches."""
    profile = RateProfile.steps([0.0, 100.0], [0.3, 0.1], 400.0)
    present = np.column_stack([np.full(20, 0.2), np.arange(20.0)[::-1], np.arange(20.0)[::-1]])
    workspace = Workspace(
        normal_mix, node, profile, horizon=400.0, batches_per_step=batches, rows=ROOMY,
        capacity=ROOMY,
    )  # fmt: skip
    arguments = workspace.record, present, NOBODY
    marching(*arguments, 1)
    assert workspace.record["steps"][0] > 100 and workspace.record["completed"][0] > 60
    assert allocations(marching, *arguments, 11) == allocations(marching, *arguments, 1)
    allocating(*arguments, 1)
    once = allocations(allocating, *arguments, 1)
    assert allocations(allocating, *arguments, 11) == once + 10


@settings(max_examples=40, deadline=None)
@given(cases())
def test_a_step_lasts_as_long_as_the_law_says(case):
    """Bit for bit, tables included, where nothing was swapped."""
    mix, instance, profile = case
    instance = replace(instance, mode="sacrifice")
    rows = march_from(workspace_of((mix, instance, profile), rows=64), InitialState()).rows
    law = instance.batch_time
    assert rows[:, R_DURATION].tolist() == [
        law.duration(float(tokens), float(size)) for tokens, size in rows[:, [R_TOKENS, R_SIZE]]
    ]


def test_owed_work_is_paid_for_once():
    """What arrivals executed within a step of three batches is in the next step's duration."""
    mix = RequestMix.from_lengths([5, 9], [40, 60])
    law = BatchTimeLaw(
        d_0=1.0, d_decode=0.02, d_kv=0.001, d_decode_table=((1, 0.2), (4, 1.0), (8, 1.1))
    )
    node = DecodeNode(M_total=10**6, B=None, batch_time=law)
    rate, batches = 0.2, 3
    workspace = workspace_of(
        (mix, node, RateProfile.constant(rate, HORIZON)), batches_per_step=batches, rows=64
    )
    rows = march_from(workspace, InitialState()).rows
    assert len(rows) > 5
    fresh = rate * rows[:-1, R_DURATION]
    # on average they have executed one batch, of their 7 tokens of prefill and one more
    tokens = rows[1:, R_TOKENS] + 8 * fresh / batches
    requests = rows[1:, R_SIZE] + fresh / batches
    expected = batches * law.duration(tokens, requests)
    np.testing.assert_allclose(rows[1:, R_DURATION], expected, rtol=1e-12)


def test_requests_longer_than_the_mix_are_refused(normal_mix):
    profile = RateProfile.constant(0.1, 10.0)
    workspace = Workspace(normal_mix, DecodeNode(), profile, horizon=10.0)
    for name in ("running", "swapped"):
        with pytest.raises(SolveError, match="no request of this mix is longer than 100 tokens"):
            workspace.seed(InitialState(**{name: np.array([[1.0, 3.0, 100.0]])}))
        workspace.seed(InitialState(**{name: np.array([[0.0, 3.0, 100.0]])}))  # nobody
    assert workspace.record["memory"] == 0
