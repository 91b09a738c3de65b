"""Who answers: the cheapest method whose expected error is small enough, else the engine."""

import math
from typing import Any

import pytest

import ode
from fluid import capacity
from ode.error_model import Expected
from ode.error_model.report import DECIDING, ErrorReport
from serving import BatchTimeLaw, ConfigError, DecodeNode
from studies import Question
from studies.automatic import ENGINE, automatic, closest, first_within
from studies.automatic.answer import engine_error
from studies.campaign.truth import METRICS, Truth
from workload import describe


def question_of(requests: float, load: float, stays: float) -> Question:
    """Return arrivals on a node that so many requests fill, for so many times their stay."""
    described = describe("normal", rate_shape="constant")
    mix = described.mix
    tokens = int(requests * mix.work / mix.mean_decode)
    law = BatchTimeLaw.per_token(1.0, 5.0 / tokens)
    node = DecodeNode(M_total=tokens, B=None, batch_time=law)
    rate = load * capacity(mix, node)
    return Question(described.at_rate(rate), node, horizon=stays * requests / rate, seed=3)


def test_a_large_node_is_answered_by_the_fluid_model_as_if_it_had_been_named() -> None:
    question = question_of(2500, 0.5, 3.0)
    found = automatic(question, within=0.1)
    assert found.chosen == "lagrangian"
    assert found.error.bound <= 0.1 and found.ensemble is None
    named = ode.solve(question.profile, question.mix, question.instance, method="lagrangian")
    assert found.metrics().to_json() == named.metrics().to_json()


def test_a_small_node_near_capacity_is_answered_by_the_engine_within_what_it_says() -> None:
    question = question_of(8, 0.9, 40.0)
    found = automatic(question, within=0.1, budget=4.0)
    assert found.chosen == ENGINE and found.solution is None
    assert [each.method for each in found.tried] == ["lagrangian", "node_work"]
    assert all(each.error.bound > 0.1 for each in found.tried)
    assert set(DECIDING) <= set(found.error.errors)
    # another seed, as many runs: both means are off by their own noise
    again = Question(question.source, question.instance, horizon=question.horizon, seed=4)
    other = automatic(again, within=0.1, budget=4.0)
    for name in ("ttft", "e2el"):
        noise = math.hypot(
            *(each.error.errors[f"mean_{name}"].half_width for each in (found, other))
        )
        ratio = found.metrics().latencies[name].mean / other.metrics().latencies[name].mean
        assert abs(math.log(ratio)) <= 3.5 / 1.645 * noise


def test_the_engine_says_the_noise_of_its_means_and_what_it_cannot_tell() -> None:
    values: dict[str, float | None] = dict.fromkeys(METRICS, 1.0)
    noise: dict[str, float | None] = dict.fromkeys(METRICS, 0.01)
    told = engine_error(Truth(values, noise, 24, 1.0))
    assert told.errors["p99_ttft"].half_width == pytest.approx(0.01645)
    assert told.confidence == "high" and "24 runs of the engine" in told.words
    silent = engine_error(Truth(values, noise | {"p99_ttft": None}, 8, 1.0))
    assert silent.confidence == "unknown" and "p99_ttft" in silent.words


@pytest.mark.parametrize("wrong", [{"within": 0.0}, {"within": math.inf}, {"budget": -1.0}])
def test_what_no_answer_can_meet_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="finite number > 0"):
        automatic(question_of(50, 0.5, 2.0), **wrong)


def test_the_first_close_enough_answers_and_else_the_closest() -> None:
    def off(half_width: float) -> ErrorReport:
        return ErrorReport(dict.fromkeys(DECIDING, Expected(0.0, half_width)))

    errors = {
        "a": ErrorReport(reason="nobody knows"),
        "b": off(0.2),
        "c": off(0.03),
        "d": off(0.01),
    }
    assert first_within(errors) == "c" and first_within(errors, 0.3) == "b"
    assert first_within(errors, 0.001) is None and closest(errors) == "d"
    assert closest({"a": errors["a"]}) is None
