"""Questions: what they imply, how they change, and that they go forward through the rooms."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluid import capacity
from serving import (
    KINDS,
    ConfigError,
    Contents,
    DecodeNode,
    FluidServeError,
    RequestTable,
    UnsupportedError,
    VllmV1,
    WorkloadError,
)
from studies import Question, Replications, compare
from workload import Constant, Ramp, Steps, copied, describe, generate, replicated

NODE = DecodeNode()
WORKLOAD = describe("normal")
ROOT = Path(__file__).resolve().parents[2]


def same(one: RequestTable, other: RequestTable) -> bool:
    mine, others = one.arrays(), other.arrays()
    return mine.keys() == others.keys() and all(
        mine[name].tobytes() == others[name].tobytes() for name in mine
    )


def test_what_a_workload_implies():
    question = Question(WORKLOAD, NODE, horizon=500.0, seed=3)
    assert same(question.requests, WORKLOAD.sample(3, horizon=500.0))
    assert question.mix is WORKLOAD.mix and question.end == 500.0
    assert question.profile.total == pytest.approx(0.5 * 500)
    assert question.capacity == capacity(WORKLOAD.mix, NODE)
    assert question.load == pytest.approx(0.5 / question.capacity)
    counted = Question(WORKLOAD, NODE, num_requests=40, seed=3)
    assert len(counted.requests) == 40 and counted.end == counted.requests.horizon


def test_what_a_file_implies():
    table = generate(num_requests=50, seed=9)
    question = Question(table, NODE)
    assert question.requests is table and question.end == table.horizon
    first = table.arrival_time[0]
    assert first > 0
    assert question.mean_rate == pytest.approx(50 / (table.horizon - first))
    assert question.mix is question.mix  # worked out once
    watched = question.until(2 * table.horizon)
    assert watched.profile.horizon == 2 * table.horizon and watched.profile.total == 50


@pytest.mark.parametrize("since", [3600.0, 1.7e9])
def test_requests_on_another_clock_have_the_same_rate_load_and_stretch(since):
    table = generate(num_requests=50, seed=9)
    early = Question(table, NODE)
    late = Question(replace(table, arrival_time=table.arrival_time + since), NODE)
    assert late.mean_rate == pytest.approx(early.mean_rate, rel=1e-6)
    assert late.load == pytest.approx(early.load, rel=1e-6)
    wanted = np.diff(table.arrival_time) * early.mean_rate / 0.1
    for slow in (early.at_rate(0.1), late.at_rate(0.1), late.at_load(0.1 / late.capacity)):
        gaps = np.diff(slow.requests.arrival_time)
        assert gaps == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert slow.mean_rate == pytest.approx(0.1, rel=1e-6)


def test_a_stream_without_an_end_has_a_rate_and_a_load_but_no_requests():
    periodic = describe(rate_shape="steps(0:3,100:0.5,period=400)", arrival_rate=2.0)
    question = Question(periodic, NODE)
    assert question.mean_rate == pytest.approx(2.0 * (3 * 100 + 0.5 * 300) / 400)
    assert question.load == pytest.approx(question.mean_rate / question.capacity)
    with pytest.raises(WorkloadError, match="either num_requests or horizon"):
        _ = question.requests
    with pytest.raises(UnsupportedError, match="a file of requests ends"):
        _ = Question(generate(num_requests=3), NODE).stream


@pytest.mark.parametrize("seed", [0, 5])
def test_a_replication_is_a_function_of_its_number_and_the_first_is_the_seeds_own(seed):
    question = Question(WORKLOAD, NODE, horizon=300.0, seed=seed)
    assert same(question.replication(0), WORKLOAD.sample(seed, horizon=300.0))
    child = np.random.SeedSequence(seed, spawn_key=(4,))
    assert same(question.replication(4), WORKLOAD.sample(child, horizon=300.0))
    assert not same(question.replication(1), question.replication(2))
    assert same(question.replication(7), question.replication(7))


def test_changes_keep_what_they_share_and_nothing_else():
    question = Question(WORKLOAD, NODE, horizon=300.0)
    _ = question.requests, question.mix, question.capacity
    other = question.on(NODE.scaled(2))
    assert other.requests is question.requests and other.mix is question.mix
    assert other.capacity == pytest.approx(2 * question.capacity, rel=0.01)
    faster = question.at_rate(1.0)
    assert faster.mix is question.mix and faster.capacity == question.capacity
    assert len(faster.requests) > 1.5 * len(question.requests)
    assert len(question.of_requests(7).requests) == 7


def test_a_load_is_that_of_the_instance_and_a_scale_is_of_both():
    question = Question(WORKLOAD, NODE, horizon=2000.0).at_load(0.7)
    assert question.load == pytest.approx(0.7)
    larger = question.scaled(10)
    assert larger.instance == NODE.scaled(10) and larger.stream.rate == 10 * question.stream.rate
    assert larger.load == pytest.approx(0.7, rel=0.05)
    table = generate(num_requests=60, seed=2)
    of_file = Question(table, NODE, seed=5).scaled(3)
    assert same(of_file.requests, replicated(table, 3, 5))
    assert Question(table, NODE).at_load(0.5).load == pytest.approx(0.5)
    end = 1.5 * table.horizon
    observed = Question(table, NODE, horizon=end).at_load(0.5)
    slower = observed.requests.horizon / table.horizon
    assert observed.horizon == pytest.approx(slower * end) and slower != 1


def test_what_contradicts_itself_is_refused():
    table = generate(num_requests=4)
    for wrong in (
        lambda: Question(WORKLOAD, NODE, 5, 3.0),
        lambda: Question(table, NODE, num_requests=2),
        lambda: Question(WORKLOAD, NODE, horizon=math.inf),
        lambda: Question(WORKLOAD, NODE, horizon=-1.0),
        lambda: Question(WORKLOAD, NODE, num_requests=4, seed=-1),
        lambda: Question(WORKLOAD, NODE, num_requests=4, seed=True),
    ):
        with pytest.raises(ConfigError):
            wrong()
    at_once = RequestTable.validated([0, 0], [1, 1], [2, 2])
    with pytest.raises(FluidServeError, match="arrive at one time"):
        Question(at_once, NODE).at_rate(2.0)
    with pytest.raises(WorkloadError, match="M_total = 50"):
        _ = Question(WORKLOAD, DecodeNode(M_total=50), num_requests=99).requests


def test_a_message_to_a_worker_holds_the_fields_alone():
    question = Question(generate(num_requests=2000), NODE)
    before = len(pickle.dumps(question))
    _ = question.requests, question.mix, question.profile
    assert len(pickle.dumps(question)) == before
    assert same(pickle.loads(pickle.dumps(question)).requests, question.requests)


def test_shapes_know_whether_they_are_steady():
    steady = (Constant(), Steps((0.0,), (2.0,)), Steps((0.0, 5.0), (1.0, 2.0), 9.0))
    assert all(shape.is_steady for shape in steady)
    passing = (Ramp(1.0, 2.0, 10.0), Steps((0.0, 5.0), (1.0, 2.0)))
    assert not any(shape.is_steady for shape in passing)
    for shape in passing:
        with pytest.raises(ConfigError, match="constant or periodic"):
            describe(rate_shape=shape).check_steady()


FLOOR = {"fluid": 1, "workload": 1, "discrete": 1, "ode": 2, "studies": 3}
"""Rooms above the vocabulary, through whose doors everything passes and where nothing stays."""


def crossings(job, thing) -> set[tuple[str, str]]:
    """Return from which room to which a thing is handed over while a job runs."""
    found: set[tuple[str, str]] = set()

    def room(frame) -> str:
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in FLOOR:
                return file.relative_to(ROOT).parts[0]
            frame = frame.f_back
        return ""

    def watch(frame, event, _):
        if event == "call":
            code = frame.f_code
            given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if any(frame.f_locals.get(name) is thing for name in given):
                hop = room(frame.f_back), room(frame)
                if hop[0] != hop[1] and "" not in hop:
                    found.add(hop)

    sys.setprofile(watch)
    try:
        job()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(
    ("what", "route"),
    [
        ("requests", {("studies", "discrete")}),
        ("mix", {("studies", "ode"), ("ode", "fluid")}),
        ("profile", {("studies", "ode")}),
        ("instance", {("studies", "discrete"), ("studies", "ode"), ("ode", "fluid")}),
    ],
)
def test_in_a_comparison_everything_goes_forward(what, route):
    """Down from the studies to engines and models, and to no room from two sides but one below."""
    question = Question(WORKLOAD, NODE, horizon=200.0).at_load(0.5)
    question = question.until(200.0)
    thing = getattr(question, what)
    runs = Replications(1, workers=1)

    def job():
        done = compare(question, ("lagrangian", "node_work"), runs)
        _ = [each.solution.warnings for each in done.methods.values()]

    found = crossings(job, thing)
    assert found == route
    assert all(FLOOR[above] > FLOOR[below] for above, below in found)


def test_a_file_is_scaled_by_copies_where_the_engine_looks_at_contents():
    contents = Contents.validated([0, 2, 3], [7, 8, 7], [30, 5, 30], [0, 9])
    table = RequestTable.validated([0, 1], [35, 30], [4, 5], contents=contents)
    server = KINDS["vllm_v1"].settings()
    large = Question(table, server).scaled(3)
    assert large.requests.arrival_time.tolist() == [0, 0, 0, 1, 1, 1]
    assert large.requests.decode_length.tolist() == [4, 4, 4, 5, 5, 5]
    held = large.requests.contents
    assert held is not None
    system = held.piece_id[[0, 2, 4]]
    assert len(set(system)) == 3 and held.piece_id[6:].tolist() == system.tolist()
    redrawn = Question(table, NODE).scaled(3).requests
    assert same(redrawn, replicated(table, 3, 42))
    with pytest.raises(ConfigError, match="'scale'"):
        copied(table, 0)


def test_requests_that_repeat_each_other_have_one_order():
    contents = Contents(np.array([0, 1, 2]), np.array([7, 7]), np.array([20, 20]), np.array([1, 2]))
    table = RequestTable.validated([0.0, 1.0], [20, 20], [5, 5])
    asked = Question(replace(table, contents=contents), VllmV1())
    assert asked.replication(0) is asked.source
    with pytest.raises(UnsupportedError, match="repeat each other in their order"):
        asked.replication(1)
    assert asked.on(DecodeNode()).replication(1) is not None
    assert Question(table, VllmV1()).replication(1) is not None
