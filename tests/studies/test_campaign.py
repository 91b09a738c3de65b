"""The campaign: scenarios that a number stands for, what the engine says of them, rows of both."""

import json

import numpy as np
import pytest

from fluid import requests_that_fit
from ode.error_model.features import question_features
from ode.error_model.model import THROUGHPUT
from serving import BatchTimeLaw, DecodeNode, check_fits
from studies import Question
from studies.campaign.rows import row_of
from studies.campaign.scenarios import (
    ENGINES,
    LAWS,
    NAMED,
    PROTOCOLS,
    Scenario,
    draw,
    protocol_of,
    yardstick,
)
from studies.campaign.truth import throughput_of, truth_of
from studies.engine_runs import METRICS
from workload import describe

NUMBERS = range(60)


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return [draw(number) for number in NUMBERS]


def test_a_number_is_the_same_scenario_in_any_order(scenarios: list[Scenario]) -> None:
    for number in (17, 3, 41):
        again, before = draw(number), scenarios[number]
        assert (again.family, again.protocol) == (before.family, before.protocol)
        assert again.question.instance == before.question.instance
        assert again.question.mean_rate == before.question.mean_rate
        assert np.array_equal(again.question.mix.decode, before.question.mix.decode)
    assert draw(3, seed=2).question.instance != scenarios[3].question.instance
    assert [protocol_of(n, 1, {}) for n in NUMBERS] == [each.protocol for each in scenarios]


def test_every_scenario_can_be_asked(scenarios: list[Scenario]) -> None:
    assert {each.family for each in scenarios} == {*LAWS, *NAMED}
    assert {each.protocol for each in scenarios} == set(PROTOCOLS)
    assert {each.question.instance.engine for each in scenarios} == set(ENGINES)
    for each in scenarios:
        asked = each.question
        table = asked.stream.sample(1, num_requests=200)
        check_fits(table, asked.instance)
        load = asked.mean_rate / yardstick(asked)
        assert 0.2 <= load <= (0.97 if each.protocol == "steady" else 1.5) * (1 + 1e-9)


def test_lengths_of_files_are_held_out_and_so_is_every_fifth_number() -> None:
    files = {"some": describe("normal").mix}
    drawn = [draw(number, 1, files) for number in range(200)]
    of_files = [each for each in drawn if each.family == "file:some"]
    assert of_files and all(each.is_held_out for each in of_files)
    assert all(draw(number).is_held_out for number in range(4, 60, 5))
    assert not all(each.is_held_out for each in drawn)


def one_at_a_time(load: float, burstiness: float = 1.0) -> tuple[Question, float]:
    """Return an M/D/1 queue and its service time: one request fits, and takes ten batches."""
    node = DecodeNode(M_total=19, B=None, batch_time=BatchTimeLaw.per_token(1.0, 0.0))
    rate = load / 10.0
    asked = describe(types=f"(9,10,{rate})", burstiness=burstiness)
    return Question(asked, node, seed=5), 10.0


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_the_steady_truth_of_a_single_server_is_pollaczek_and_khinchine(load: float) -> None:
    question, service = one_at_a_time(load)
    found = truth_of(Scenario(0, "md1", "steady", question), budget=0.5)
    expected = service * (1 + load / (2 * (1 - load)))
    error = found.standard_error["mean_e2el"]
    assert error is not None and error < 0.03
    assert found.value["mean_e2el"] == pytest.approx(expected, rel=4.5 * error)
    in_system = question.mean_rate * expected
    assert found.value["mean_in_system"] == pytest.approx(in_system, rel=4.5 * error)


def test_the_throughput_of_a_saturated_single_server_is_one_over_its_service() -> None:
    question, service = one_at_a_time(1.3)
    found = throughput_of(Scenario(0, "md1", "saturated", question.until(4000.0)))
    assert found.value[THROUGHPUT] == pytest.approx(1 / service, rel=0.01)


def test_the_mean_in_system_over_time_is_counted_up_to_the_horizon() -> None:
    question, _ = one_at_a_time(2.0)
    asked = question.until(1000.0)
    scenario = Scenario(0, "md1", "over_time", asked)
    found = truth_of(scenario, budget=0.5)
    # 0.2 arrive and 0.1 leave per time: 0.1 t are there at t, and those of a start
    assert found.value["mean_in_system"] == pytest.approx(50.0, rel=0.1)
    assert (found.standard_error["mean_in_system"] or 1) < 0.1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_row_compares_what_it_says_it_does(
    scenarios: list[Scenario], engine: str, protocol: str
) -> None:
    number = next(
        each.number
        for each in scenarios
        if each.protocol == protocol
        and each.question.instance.engine == engine
        and requests_that_fit(each.question.mix, each.question.instance) < 300
    )
    row = row_of((1, {}, {}, True), number)
    assert "failed" not in row, row
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    metrics = {THROUGHPUT} if protocol == "saturated" else set(METRICS)
    assert set(row["truth"]) == set(row["standard_error"]) == metrics
    assert row["answers"]
    again = row_of((1, {}, {number: row | {"replications": 7}}, True), number)
    assert (again["truth"], again["replications"]) == (row["truth"], 7)
    for answer in row["answers"].values():
        assert "failed" in answer or set(answer["values"]) == metrics


def test_features_have_no_unit(scenarios: list[Scenario]) -> None:
    """A node in seconds and the same node in milliseconds have the same features."""
    checked = 0
    for each in scenarios[:25]:
        question = each.question
        node = question.instance
        if node.engine != "decode_node":
            continue
        law = node.batch_time
        slow = BatchTimeLaw(d_0=1000 * law.d_0, d_decode=1000 * law.d_decode, d_kv=1000 * law.d_kv)
        scaled = DecodeNode(
            M_total=node.M_total, B=node.B, batch_time=slow, mode=node.mode,
            admission_threshold=node.admission_threshold,
        )  # fmt: skip
        rate = question.mean_rate
        profile = None if each.protocol != "over_time" else question.profile
        late = None if profile is None else profile.stretched(1000.0)
        here = question_features(question.mix, node, rate, question.dispersion, profile)
        there = question_features(question.mix, scaled, rate / 1000, question.dispersion, late)
        assert there == pytest.approx(here, rel=1e-6)
        checked += 1
    assert checked > 5
