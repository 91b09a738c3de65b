"""What a search must not say in silence: hazards, runs too short, objectives that nobody has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import discrete
from ode import collapsed_throughput
from serving import BatchTimeLaw, ConfigError, DecodeNode, SolveError, UnsupportedError
from studies import Replications, compare
from studies.question import Question
from studies.tuning import (
    GoodputSettings,
    SearchSettings,
    measure,
    most_goodput,
    parse_slo,
    tune,
)
from studies.tuning.engine import BACKLOG_GROWTH, MOST_GROWTH
from studies.tuning.length import deciding_length, least_length, turnover
from workload import describe

QUICK = SearchSettings(tolerance=0.03, most_requests=200_000)
ALIKE = describe(types="(20,20,5.0)")
SACRIFICE = DecodeNode(
    BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000, mode="sacrifice"
)


# A collapse that the runs did not live to see


def test_a_rate_that_a_collapsed_node_cannot_bear_is_a_warning_with_both_values():
    question = Question(ALIKE, SACRIFICE)
    found = tune("max-rate", question, settings=QUICK)
    collapsed = collapsed_throughput(question.mix, SACRIFICE).throughput
    assert collapsed == pytest.approx(3.9026, abs=1e-3) and found.value > 1.2 * collapsed
    (said,) = [each for each in found.warnings if each.startswith("bistable")]
    assert f"{found.value:.4g}" in said and f"{collapsed:.4g}" in said
    assert said in found.to_json()["warnings"]


@pytest.mark.parametrize(
    ("knob", "node"),
    [
        ("max-rate", DecodeNode(SACRIFICE.batch_time, M_total=10_000, B=10_000)),  # swapping
        ("max-rate", DecodeNode(SACRIFICE.batch_time, M_total=10_000, B=2000, mode="sacrifice")),
    ],
)
def test_a_node_that_recovers_is_no_hazard(knob, node):
    found = tune(knob, Question(ALIKE, node), settings=QUICK)
    assert not any("bistable" in each for each in found.warnings)


def test_a_memory_that_meets_the_objective_until_it_fills_is_one_too():
    """The knob is not the rate: the same hazard, at the fixed rate."""
    found = tune("M-total", Question(ALIKE.at_rate(4.8), SACRIFICE), settings=QUICK)
    (said,) = [each for each in found.warnings if each.startswith("bistable")]
    assert "mean rate of 4.8 " in said


def test_two_knobs_say_it_as_well():
    found = most_goodput(
        ["max-rate", "B"],
        Question(ALIKE, SACRIFICE),
        {"ttft": 50.0},
        brackets=[(4.5, 5.0), (9000.0, 20_000.0)],
        settings=GoodputSettings(steps=2, confirmed=1, replications=2, requests=2000),
    )
    assert found.to_json()["warnings"][0].startswith("bistable")


SMALL = DecodeNode(BatchTimeLaw.per_token(0.02, 1e-4), M_total=900, B=None, time_unit="s")
MIXED = Question(describe("normal"), SMALL)
SWAPS = dataclasses.replace(SMALL, batch_time=dataclasses.replace(SMALL.batch_time, d_swap=1e-6))


def free_swapping(warnings):
    return [each for each in warnings if each.startswith("swapping is free")]


def test_requests_that_were_swapped_out_for_nothing_are_a_warning_at_the_value_found():
    found = tune("max-rate", MIXED, settings=QUICK)
    (said,) = free_swapping(found.warnings)
    at = MIXED.at_rate(found.value)
    seen = []
    for point in found.points:
        if point.value == found.value:
            for replication in range(point.replications):
                table = at.of_requests(point.requests).replication(replication)
                steps = discrete.simulate(table, SMALL).trajectory()
                seen.append(steps.outputs["swapped"].max())
    told = float(said.split("up to ")[1].split()[0])
    assert 0.7 * max(seen) <= told <= max(seen)  # of every batch: a thousand looks miss the most
    assert not free_swapping(tune("max-rate", MIXED.on(SWAPS), settings=QUICK).warnings)
    wide = MIXED.on(dataclasses.replace(SMALL, M_total=10**6))
    settings = SearchSettings(tolerance=0.03, most_requests=20_000)
    assert not free_swapping(tune("B", wide.at_rate(1.0), settings=settings).warnings)


def test_two_knobs_say_that_swapping_was_free_as_well():
    most = MIXED.capacity
    found = most_goodput(
        ["max-rate", "B"],
        MIXED,
        {"ttft": 50.0},
        brackets=[(0.8 * most, 0.95 * most), (800.0, 900.0)],
        settings=GoodputSettings(steps=2, confirmed=1, replications=2, requests=2000),
    )
    assert len(free_swapping(found.to_json()["warnings"])) == 1


# Runs that are too short for the node


def test_a_run_is_as_long_as_a_node_of_its_size_takes():
    """Growth of a healthy node at load .95: it is still filling in short runs, whatever its size.

    The turnover is independent of the search: requests in the node, from the engine, times the
    length of a request found in service over that of an arrival.
    """
    question = Question(describe("normal"), DecodeNode()).scaled(300).at_load(0.95)
    of_node = turnover([question])
    table = question.of_requests(150_000).replication(0)
    grid = np.array([0.9 * table.horizon])
    run = discrete.simulate(table, question.instance, sample_times=grid)
    decode = question.mix.decode.astype(float)
    longer = float(question.mix.probability @ decode**2) / question.mix.mean_decode**2
    held = float(run.trajectory(grid)("running", grid)[0])
    assert of_node == pytest.approx(held * longer, rel=0.1)
    short = measure(question, (), 20_000, 0).values[BACKLOG_GROWTH]
    enough = measure(question, (), least_length(of_node, 0), 0).values[BACKLOG_GROWTH]
    decides = measure(question, (), deciding_length(of_node), 0).values[BACKLOG_GROWTH]
    assert short > 5 * MOST_GROWTH > MOST_GROWTH > enough > decides


def test_a_small_node_keeps_the_run_length_that_is_asked_for():
    assert least_length(turnover([Question(describe("normal"), DecodeNode())]), 20_000) == 20_000


def test_a_node_that_no_run_could_fill_is_refused_with_the_bound():
    question = Question(describe("normal"), DecodeNode()).scaled(1_000_000)
    with pytest.raises(ConfigError, match="whole number >=") as refused:
        tune("max-rate", question)
    bound = deciding_length(turnover([question.at_load(1.25)]))
    assert refused.value.key == "most_requests" and str(bound) in refused.value.allowed
    with pytest.raises(ConfigError, match=r"requests.*whole number >="):
        most_goodput(["max-rate", "B"], question, {"ttft": 5.0})


@pytest.mark.slow
def test_the_answer_of_a_large_node_is_the_capacity():
    """Both by the fluid limit's scaling: no objective, the largest rate is lambda_M."""
    question = Question(describe("normal"), DecodeNode()).scaled(100)
    settings = SearchSettings(tolerance=0.04, most_requests=250_000)
    found = tune("max-rate", question, settings=settings)
    assert found.value == pytest.approx(question.capacity, rel=0.04)
    assert min(point.requests for point in found.points) > 50_000  # not the 20,000 of a small node


# Objectives that no request can meet or miss


ONE_TOKEN = Question(
    describe(types="(100,1,2.0)"), DecodeNode(BatchTimeLaw.per_token(0.02, 1e-5), time_unit="s")
)


@pytest.mark.parametrize("latency", ["tpot", "itl"])
def test_an_objective_on_a_latency_that_nobody_has_is_refused(latency):
    with pytest.raises(UnsupportedError, match=f"{latency} is not defined here"):
        tune("max-rate", ONE_TOKEN, [parse_slo(f"mean_{latency}<1")], settings=QUICK)


def test_a_threshold_on_a_latency_that_nobody_has_is_refused():
    with pytest.raises(UnsupportedError, match="tpot is not defined here"):
        most_goodput(["max-rate", "B"], ONE_TOKEN, {"tpot": 0.03})
    asked = ONE_TOKEN.of_requests(20)
    with pytest.raises(UnsupportedError, match="tpot is not defined here"):
        compare(asked, (), Replications(2), goodput={"tpot": 0.03})
    run = discrete.simulate(asked.requests, asked.instance)
    assert run.metrics({"tpot": 0.03}).request_goodput is None
    assert run.metrics({"ttft": 10.0}).request_goodput > 0


def test_a_latency_that_nobody_in_the_run_happens_to_have_is_no_verdict():
    """One request in 50,000 has a second token: a run of 2,000 holds none."""
    rare = describe(types="(100,1,49999.0);(100,2,1.0)")
    question = Question(rare, ONE_TOKEN.instance).at_rate(2.0)
    with pytest.raises(SolveError, match="none of the 1800 requests"):
        measure(question, [parse_slo("mean_tpot<1")], 2000, 0)
    assert np.isfinite(measure(question, [parse_slo("p99_ttft<1")], 2000, 0).values["p99_ttft"])
