"""What methods expect of their errors, beside the engine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fluid import capacity
from ode.error_model import ErrorReport, Expected
from ode.error_model.report import DECIDING, TITLES
from serving import BatchTimeLaw, ConfigError, DecodeNode
from studies import Question, Replications, compare
from studies.comparison import run_ensemble
from studies.comparison.expectation import Found, held_against, words_of
from studies.comparison.main_line import main_line
from workload import describe

NORMAL = describe("normal", rate_shape="constant")


def question_of(requests: float, load: float, arrivals: float, seed: int = 3) -> Question:
    """Return arrivals on a node that so many requests fill."""
    mix = NORMAL.mix
    tokens = int(requests * mix.work / mix.mean_decode)
    node = DecodeNode(BatchTimeLaw.per_token(1.0, 5.0 / tokens), M_total=tokens, B=None)
    rate = load * capacity(mix, node)
    return Question(NORMAL.at_rate(rate), node, horizon=arrivals / rate, seed=seed)


def expecting(bound: float) -> ErrorReport:
    """Return a report whose worst metric may be off by so much."""
    half = math.log1p(bound)
    return ErrorReport({name: Expected(0.0, half) for name in DECIDING})


UNKNOWN = ErrorReport(reason="never measured")


@pytest.mark.parametrize(
    ("errors", "main", "words"),
    [
        ({"lagrangian": 0.04, "node_work": 0.01}, "lagrangian", "expected to be within 5 %"),
        ({"lagrangian": 0.4, "node_work": 0.04}, "node_work", "expected to be within 5 %"),
        ({"lagrangian": 0.4, "node_work": 0.3}, "node_work", "comes nearest"),
        ({"node_work": 0.9, "lagrangian": 0.4}, "lagrangian", "comes nearest"),
        ({"lagrangian": None, "node_work": 0.3}, "node_work", "comes nearest"),
        ({"eulerian_jax": None, "lagrangian": None}, "lagrangian", "not measured"),
        ({"eulerian_scipy": None, "eulerian_jax": None}, "eulerian_scipy", "not measured"),
    ],
)
def test_the_main_line_is_the_cheapest_that_is_near_enough_else_the_nearest(errors, main, words):
    reports = {name: UNKNOWN if off is None else expecting(off) for name, off in errors.items()}
    found = main_line(reports, 0.05)
    assert found.method == main and words in found.words


@pytest.mark.parametrize(
    ("error", "noise", "inside"),
    [(0.11, 0.0, True), (0.13, 0.0, False), (-0.07, 0.0, True), (-0.09, 0.0, False),
     (0.13, 0.06, True), (0.13, math.nan, None)],
)  # fmt: skip
def test_an_engine_is_inside_of_an_interval_about_the_bias_but_for_its_noise(error, noise, inside):
    found = Found(error, noise, Expected(0.02, 0.1))
    assert found.inside is inside
    assert found.to_json()["error"] == pytest.approx(math.expm1(error))
    assert Found(error, noise, None).inside is None


def test_one_sentence_names_the_metrics_whose_interval_the_engine_left():
    tight, wide = Expected(0.0, 0.01), Expected(0.0, 0.5)
    values = {"mean_ttft": 1.1, "p99_ttft": 2.2, "mean_e2el": 3.3}
    engine = {"mean_ttft": 1.0, "p99_ttft": 2.0, "mean_e2el": 3.0, "p99_e2el": 4.0}
    noise = dict.fromkeys(engine, 0.001)
    found = held_against(values, engine, noise, {"mean_ttft": tight, "p99_ttft": wide}, 8)
    assert list(found) == ["mean_ttft", "p99_ttft", "mean_e2el"]
    assert words_of(found) == "the engine is inside of 1 of 2 intervals; not of mean TTFT"
    assert words_of({"mean_e2el": found["mean_e2el"]}) is None
    # one run tells no noise, and so no verdict
    alone = held_against(values, engine, noise, {"mean_ttft": tight}, 1)
    assert alone["mean_ttft"].inside is None


def test_standard_errors_are_the_spread_of_ensembles_on_other_seeds():
    told, values = [], []
    for seed in range(24):
        question = question_of(12, 0.7, 150, seed=1000 * seed)
        found = run_ensemble(question, Replications(16, workers=1))
        told.append([found.noise[name] for name in TITLES])
        values.append([found.values[name] for name in TITLES])
    spread = np.std(np.log(values), axis=0, ddof=1)
    usual = np.sqrt(np.mean(np.square(told), axis=0))
    # a standard deviation of 24 is known to 15 %
    assert (np.abs(np.log(usual / spread)) < 0.5).all(), usual / spread


def test_a_comparison_leads_with_the_method_that_expects_least_and_says_what_was_found():
    found = compare(question_of(100, 0.6, 300), ("lagrangian", "node_work"), Replications(24))
    said = found.to_json()
    assert found.main is not None and said["main"]["method"] == found.main.method
    bounds = {name: each.error.bound for name, each in found.methods.items()}
    assert found.main.method == min(bounds, key=bounds.__getitem__)
    both = ("node_work", "lagrangian")
    allowing = compare(question_of(100, 0.6, 300), both, Replications(2), within=9.0)
    assert allowing.to_json()["main"]["method"] == "lagrangian"
    for name, each in found.methods.items():
        row = said["methods"][name]
        assert row["confidence"] == each.error.confidence
        assert set(row["found"]) == set(row["error"]["metrics"]) == set(TITLES)
        for metric in ("mean_ttft", "mean_e2el"):
            ours, theirs = row["metrics"][metric], said["discrete"]["metrics"][metric]
            assert row["found"][metric]["error"] == pytest.approx(ours / theirs - 1)
            low, high = (row["error"]["metrics"][metric][end] for end in ("low", "high"))
            off, noise = row["found"][metric]["error"], row["found"][metric]["noise"]
            if low < off < high:
                assert row["found"][metric]["inside"] is True
            elif not (low - 2 * noise < off < high + 2 * noise):
                assert row["found"][metric]["inside"] is False


def test_the_mean_in_system_is_by_little_s_law_what_arrived_times_its_stay():
    found = compare(question_of(40, 0.5, 4000), ("lagrangian",), Replications(2, workers=1))
    rate = found.question.profile.mean_rate
    stay = found.to_json()["discrete"]["metrics"]["mean_e2el"]
    assert found.discrete.values["mean_in_system"] == pytest.approx(rate * stay, rel=0.05)


def test_without_a_name_one_node_is_asked_too_where_a_method_knows_it():
    question = question_of(30, 0.5, 40)
    assert list(compare(question, replications=Replications(1)).methods) == [
        "lagrangian", "eulerian_jax", "node_work",
    ]  # fmt: skip


def test_a_bound_that_nobody_can_meet_is_refused():
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="within"):
            compare(question_of(30, 0.5, 40), ("lagrangian",), within=wrong)
