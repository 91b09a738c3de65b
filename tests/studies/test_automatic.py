"""Who answers: the cheapest method whose expected error is small enough, else the engine."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import discrete
import ode
from fluid import capacity
from ode.error_model import Expected
from ode.error_model.report import DECIDING, ErrorReport, before_the_answer
from serving import BatchTimeLaw, ConfigError, DecodeNode, UnsupportedError
from studies import Question, answer
from studies.automatic import ENGINE
from studies.automatic.by_engine import engine_error
from studies.choice import closest, first_within
from studies.engine_runs import METRICS, over_time
from studies.engine_runs.clock import Clock
from studies.engine_runs.joined import can_be_joined, joined
from studies.engine_runs.pool import POINTS, Pool
from workload import describe


def question_of(requests: float, load: float, stays: float | None) -> Question:
    """Return arrivals on a node that so many requests fill, for so many times their stay."""
    described = describe("normal", rate_shape="constant")
    mix = described.mix
    tokens = int(requests * mix.work / mix.mean_decode)
    law = BatchTimeLaw.per_token(1.0, 5.0 / tokens)
    node = DecodeNode(M_total=tokens, B=None, batch_time=law)
    rate = load * capacity(mix, node)
    end = None if stays is None else stays * requests / rate
    return Question(described.at_rate(rate), node, horizon=end, seed=3)


def changed(question: Question, **settings: Any) -> Question:
    """Return the question of an instance with other settings."""
    node: Any = question.instance
    return question.on(replace(node, **settings))


def test_a_large_node_is_answered_by_the_fluid_model_as_if_it_had_been_named() -> None:
    question = question_of(2500, 0.5, 3.0)
    found = answer(question, within=0.1)
    assert found.chosen == "lagrangian" and isinstance(found.of, ode.Solution)
    assert found.error.bound <= 0.1 and [each.method for each in found.tried] == ["lagrangian"]
    named = ode.solve(question.profile, question.mix, question.instance, method="lagrangian")
    assert found.metrics().to_json() == named.metrics().to_json()
    assert found.warnings == named.warnings


def test_a_small_node_near_capacity_is_answered_by_the_engine_within_what_it_says() -> None:
    question = question_of(8, 0.9, 40.0)
    found = answer(question, within=0.1, budget=4.0)
    assert found.chosen == ENGINE and found.trajectory.time.size == POINTS
    assert [each.method for each in found.tried] == ["lagrangian", "node_work", ENGINE]
    assert all(not each.error.bound <= 0.1 for each in found.tried[:2])
    assert found.error.bound <= 0.1 and set(DECIDING) <= set(found.error.errors)
    # another seed, as many runs: both means are off by their own noise
    other = answer(replace(question, seed=4), within=0.1, budget=4.0)
    for name in ("ttft", "e2el"):
        noise = math.hypot(
            *(each.error.errors[f"mean_{name}"].half_width for each in (found, other))
        )
        ratio = found.metrics().latencies[name].mean / other.metrics().latencies[name].mean
        assert abs(math.log(ratio)) <= 3.5 / 1.645 * noise


def test_the_same_question_has_the_same_answer() -> None:
    question = question_of(8, 0.7, 10.0)
    one, two = (answer(question, within=0.2) for _ in range(2))
    assert one.error.replications == two.error.replications
    assert one.metrics().to_json() == two.metrics().to_json()


def test_a_stream_without_an_end_is_answered_in_its_steady_state() -> None:
    found = answer(question_of(2000, 0.6, None), within=0.1)
    assert found.chosen == "stationary" and found.error.bound <= 0.1
    with pytest.raises(UnsupportedError, match="steady state"):
        found.metrics()
    small = question_of(8, 0.6, None)
    by_runs = answer(small, within=0.04)
    assert by_runs.chosen == ENGINE and by_runs.error.bound <= 0.04
    model = ode.stationary(small.mix, small.instance, small.mean_rate)
    low, high = model.error.errors["mean_e2el"].interval
    assert low < model.latencies["e2el"].mean / by_runs.latencies["e2el"].mean - 1 < high


def test_a_steady_state_that_runs_do_not_reach_is_not_the_engines() -> None:
    """Near capacity a queue settles later than a run of the engine can begin to count."""
    question = question_of(40, 0.999, None)
    found = answer(question, within=1e-4)
    assert found.chosen == "stationary"
    (engine,) = [each for each in found.tried if each.method == ENGINE]
    assert engine.of is None and "requests to settle" in str(engine.error.reason)
    assert any("nobody is expected" in line for line in found.warnings) or (
        found.error.confidence == "unknown"
    )


def test_a_steady_run_without_the_time_to_settle_is_not_the_engines() -> None:
    question = question_of(40, 0.95, None)
    found = answer(question, within=1e-4, budget=0.01)
    (engine,) = [each for each in found.tried if each.method == ENGINE]
    assert found.chosen == "stationary" and engine.of is None
    assert "takes the engine longer than 0.01 s" in str(engine.error.reason)


def test_of_given_arrivals_one_run_is_exact() -> None:
    table = question_of(20, 0.8, 4.0).requests
    question = Question(table, question_of(20, 0.8, 4.0).instance)
    found = answer(question)
    run = discrete.simulate(table, question.instance)
    assert found.chosen == ENGINE and found.error.bound == 0 and found.error.replications == 1
    assert found.metrics().to_json() == run.metrics().to_json()
    assert "exactly these requests" in found.error.words
    random = changed(question, victim_policy="random")
    assert answer(random, within=0.5).error.replications != 1


def test_what_takes_the_engine_too_long_is_answered_by_a_method_that_says_so() -> None:
    table = question_of(20, 0.8, 100.0).requests
    question = Question(table, question_of(20, 0.8, 4.0).instance)
    found = answer(question, budget=1e-3)
    assert found.chosen == "lagrangian" and found.error.confidence == "unknown"
    assert found.tried[0].method == ENGINE and "take the engine longer" in found.words
    workload = question_of(300, 0.8, 4.0)
    closer = answer(workload, within=1e-3, budget=1e-3)
    known = {each.method: each.error for each in closer.tried}
    assert closer.chosen == closest(known) != ENGINE
    assert any("nobody is expected to be within" in line for line in closer.warnings)


def test_where_no_method_knows_its_error_the_engine_answers_and_else_the_first_that_can() -> None:
    question = question_of(20, 0.7, 4.0)
    table = BatchTimeLaw(d_0=1.0, d_kv=1e-3, d_decode_table=((1.0, 0.0), (8.0, 0.5), (16.0, 2.0)))
    bent = changed(question, batch_time=table)
    found = answer(bent, within=0.2)
    assert found.chosen == ENGINE and "with a table" in found.words
    later = answer(question, initial=ode.InitialState(waiting=5.0))
    assert later.chosen == "lagrangian" and "empty start" in str(later.error.reason)
    unmodelled = changed(question, queue_policy="SJF")
    assert answer(unmodelled, within=0.2).chosen == ENGINE
    read_as = answer(unmodelled, approximate=True)
    assert read_as.chosen == "lagrangian" and read_as.warnings


def test_runs_that_follow_each_other_are_those_that_each_replication_makes_alone() -> None:
    question = question_of(12, 1.1, 5.0)
    assert can_be_joined(question)
    assert can_be_joined(changed(question, victim_policy="random"))
    apart = joined(question, 2, 5, np.linspace(0.0, question.end, 9))
    assert apart is not None
    at = apart.run.requests
    for k in range(5):
        alone = over_time(question, 2 + k)
        rows = slice(apart.rows[k], apart.rows[k + 1])
        e2el = at["completion_time"][rows] - at["arrival_time"][rows]
        np.testing.assert_allclose(e2el, alone.e2el, rtol=1e-7)
        ttft = at["first_token_time"][rows] - at["arrival_time"][rows]
        np.testing.assert_allclose(ttft, alone.ttft, rtol=1e-7)


def test_a_pool_of_runs_averages_what_single_runs_say() -> None:
    question = question_of(12, 1.1, 5.0)
    pool = Pool(question, Clock(question, 60.0))
    pool.add(6)
    tables = [table for k in range(6) if (table := question.replication(k)) is not None]
    runs = [discrete.simulate(table, question.instance) for table in tables]
    assert len(runs) == 6
    totals = [run.totals() for run in runs]
    found = pool.metrics({"e2el": 100.0})
    for name in ("duration", "completed", "output_tokens", "evictions", "recompute_waste"):
        mean = np.mean([each[name] for each in totals])
        assert found.totals[name] == pytest.approx(mean, rel=1e-9), name
    for name in ("memory_utilization", "gpu_utilization"):
        lasts = [each["duration"] for each in totals]
        mean = np.average([each[name] for each in totals], weights=lasts)
        assert found.totals[name] == pytest.approx(mean, rel=1e-6), name
    e2el = np.concatenate([run.samples().e2el for run in runs])
    assert found.latencies["e2el"].mean == pytest.approx(e2el.mean())
    itl = [run.samples().of("itl") for run in runs]
    values, weights = (np.concatenate(each) for each in zip(*itl, strict=True))
    assert found.latencies["itl"].mean == pytest.approx(np.average(values, weights=weights))
    good = np.mean([run.metrics({"e2el": 100.0}).request_goodput or 0.0 for run in runs])
    assert found.request_goodput == pytest.approx(good, rel=0.1)
    for name in ("in_system", "completed", "memory", "evicted"):
        paths = [run.trajectory(pool.trajectory.time)(name, pool.trajectory.time) for run in runs]
        np.testing.assert_allclose(
            pool.trajectory.outputs[name], np.mean(paths, axis=0), rtol=1e-6, atol=1e-9
        )


def test_what_is_known_before_an_answer_is_no_more_than_what_the_answer_says() -> None:
    for question in (question_of(10, 0.6, 5.0), question_of(300, 0.9, 3.0)):
        asked = question.mix, question.instance, question.mean_rate, 1.0, question.profile
        before = before_the_answer(("lagrangian", "node_work"), *asked)
        for method, least in before.items():
            flow = ode.solve(question.profile, question.mix, question.instance, method=method)
            assert isinstance(least, float) and 0 < least <= flow.error.bound
    few = question_of(10, 0.1, 5.0)
    asked = few.mix, few.instance, few.mean_rate, 1.0, few.profile
    reason = before_the_answer(("lagrangian",), *asked)["lagrangian"]
    assert isinstance(reason, ErrorReport) and "load 0.1 is outside" in str(reason.reason)


def test_the_engine_says_the_noise_of_its_means_and_what_it_cannot_tell() -> None:
    means, noise = np.ones(len(METRICS)), np.full(len(METRICS), 0.01645)
    told = engine_error(means, noise, 24)
    assert told.errors["p99_ttft"].half_width == pytest.approx(0.01645)
    assert told.confidence == "high" and "24 runs of the engine" in told.words
    noise[METRICS.index("p99_ttft")] = math.nan
    silent = engine_error(means, noise, 8)
    assert silent.confidence == "unknown" and "p99_ttft" in silent.words


@pytest.mark.parametrize("wrong", [{"within": 0.0}, {"within": math.inf}, {"budget": -1.0}])
def test_what_no_answer_can_meet_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="a finite number"):
        answer(question_of(50, 0.5, 2.0), **wrong)


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
