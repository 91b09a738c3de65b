"""Tuning: objectives as text, verdicts, and values held against scans that share no search."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unread import Unread, unread_kind

import discrete
from fluid import capacity
from serving import (
    KINDS,
    LATENCIES,
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    FluidServeError,
    SolveError,
    UnsupportedError,
    kind_of,
)
from studies.question import Question
from studies.tuning import (
    GoodputSettings,
    Knob,
    Measurement,
    Point,
    SearchSettings,
    at_mean_rate,
    knob_named,
    knobs_of,
    measure,
    most_goodput,
    parse_slo,
    plain_bisection_runs,
)
from studies.tuning import tune as tuned
from studies.tuning.engine import BACKLOG_GROWTH
from studies.tuning.slo import STATISTICS
from workload import Ramp, Steps, describe

NODE = DecodeNode()
DECODE_NODE = kind_of(NODE)
QUESTION = Question(describe("normal"), NODE)
LAMBDA_M = capacity(QUESTION.mix, NODE)
QUICK = SearchSettings(tolerance=0.03, most_requests=200_000)

tune = partial(tuned, method="engine")
"""These tests are about the search by the engine, whatever the model knows of its own error."""


# Objectives


@given(
    st.sampled_from(STATISTICS),
    st.sampled_from(LATENCIES),
    st.floats(1e-6, 1e9),
    st.sampled_from(["none", "s", "ms"]),
)
def test_an_objective_is_read_as_it_is_written(statistic, latency, limit, unit):
    slo = parse_slo(f"{statistic}_{latency} < {limit!r}", unit)
    assert (slo.name, slo.limit) == (f"{statistic}_{latency}", limit)
    if unit != "none":
        factor = {"s": 1e-3, "ms": 1.0}[unit]
        assert parse_slo(f"{slo.name}_ms<{limit!r}", unit).limit == limit * factor


@pytest.mark.parametrize(
    "text",
    ["p99_ttft", "p98_ttft<1", "p99_tttft<1", "p99_ttft<", "p99_ttft<0", "p99_ttft<-1", "ttft<1",
     "p99_ttft<1e", "p99_ttft<nan", "p99_ttft<1e999", "p99_ttft>1", ""],
)  # fmt: skip
def test_an_objective_that_cannot_be_read_is_one_line_with_the_form(text):
    with pytest.raises(FluidServeError, match=r"--slo .* is not allowed; allowed: STATISTIC"):
        parse_slo(text)


def test_milliseconds_need_a_time_unit():
    with pytest.raises(FluidServeError, match="no ms"):
        parse_slo("p99_ttft_ms<2", "none")


def test_knobs_are_named_as_people_type_them():
    assert knob_named("M_total", DECODE_NODE).name == "M-total"
    assert knob_named("MAX-RATE", DECODE_NODE).name == "max-rate"
    with pytest.raises(ConfigError, match="admission-threshold"):
        knob_named("max", DECODE_NODE)


def test_a_knob_turns_a_question_into_a_question():
    settings = {"M-total": ("M_total", 9000), "B": ("B", 700),
                "admission-threshold": ("admission_threshold", 0.7)}  # fmt: skip
    knobs = knobs_of(DECODE_NODE)
    assert knobs.keys() == {"max-rate", *settings}
    for name, (key, value) in settings.items():
        turned = knobs[name].turned(QUESTION, value)
        assert turned.instance == replace(NODE, **{key: value})
        assert turned.source is QUESTION.source and turned.seed == QUESTION.seed
    faster = knobs["max-rate"].turned(QUESTION, 0.07)
    assert faster.stream.mean_rate == pytest.approx(0.07) and faster.instance is NODE


# Runs and verdicts


def test_a_run_is_measured_without_its_start():
    """The statistics are those that NumPy finds in a plain run of the same draw."""
    question = at_mean_rate(QUESTION, 0.7 * LAMBDA_M)
    slos = [parse_slo(t) for t in ("p99_ttft<90", "mean_tpot<2", "p90_e2el<1", "mean_itl<2")]
    measured = measure(question, slos, 2000, 3)
    table = question.stream.sample(np.random.SeedSequence(42, spawn_key=(3,)), num_requests=2000)
    run = discrete.simulate(table, NODE)
    kept = slice(200, None)
    arrival, first, last = (
        run.requests[name][kept] for name in ("arrival_time", "first_token_time", "completion_time")
    )
    more = run.requests["decode_length"][kept] - 1
    assert measured.values["p99_ttft"] == np.percentile(first - arrival, 99)
    assert measured.values["mean_tpot"] == pytest.approx(np.mean((last - first) / more), rel=1e-12)
    assert measured.values["p90_e2el"] == np.percentile(last - arrival, 90)
    # every new token but the first of each request ends one inter-token latency
    assert measured.values["mean_itl"] == pytest.approx(
        (last - first).sum() / more.sum(), rel=1e-12
    )
    assert measured.margins["p99_ttft<90"] == math.log(measured.values["p99_ttft"] / 90)


@pytest.mark.parametrize("replication", [0, 2])
def test_replications_share_their_draws_at_every_rate(replication):
    """Common random numbers: arrival times are the same draw, stretched."""
    one, other = (
        at_mean_rate(QUESTION, rate).of_requests(500).replication(replication)
        for rate in (0.05, 0.1)
    )
    assert (one.decode_length == other.decode_length).all()
    np.testing.assert_allclose(one.arrival_time, 2 * other.arrival_time, rtol=1e-12)


def test_growth_is_what_the_backlog_grows_by():
    def growth(load):
        question = at_mean_rate(QUESTION, load * LAMBDA_M)
        return measure(question, [], 20_000, 0).values[BACKLOG_GROWTH]

    assert growth(1.5) == pytest.approx(1 - 1 / 1.5, abs=0.02)
    assert abs(growth(0.5)) < 2e-3


def test_growth_under_bursts_compares_equal_phases():
    """A burst just before the end is no growth."""
    bursts = Steps((0.0, 200.0), (3.0, 0.6), period=1200.0)
    bursty = replace(QUESTION, source=replace(QUESTION.stream, shape=bursts))
    question = at_mean_rate(bursty, 0.7 * LAMBDA_M)
    assert question.stream.mean_rate == pytest.approx(0.7 * LAMBDA_M)
    growth = [measure(question, [], n, 0).values[BACKLOG_GROWTH] for n in range(20_000, 20_200, 20)]
    assert np.abs(growth).max() < 4e-3


def points_of(margins, growth=-0.4, settled=True):
    found = [Measurement({}, {BACKLOG_GROWTH: growth, "p99_ttft<1": m}, settled) for m in margins]
    return Point(1.0, 20_000, found)


def test_a_verdict_is_certain_only_when_its_replications_agree():
    assert points_of([-2.0]).certain(0.95) and points_of([-2.0]).met
    assert points_of([2.0]).certain(0.95) and not points_of([2.0]).met
    assert not points_of([-0.1]).certain(0.95)
    assert not points_of([-0.1, -0.11]).certain(0.95)
    assert points_of([-0.1, -0.11, -0.12]).certain(0.95)
    assert not points_of([-0.1, 0.05, -0.12]).certain(0.95)
    assert not points_of([-2.0], growth=0.1, settled=False).certain(0.95)
    assert not points_of([-2.0, -2.0, -2.0], growth=0.3).met


# Answers


def test_without_objectives_the_capacity_is_lambda_m():
    found = tune("max-rate", QUESTION)
    assert found.value == pytest.approx(LAMBDA_M, rel=0.01)
    assert found.answer.estimate == pytest.approx(LAMBDA_M, rel=0.01)
    assert found.fluid_value == pytest.approx(LAMBDA_M, rel=0.002)
    assert found.monotone and found.answer.met.value < found.answer.missed.value


@pytest.mark.slow
def test_an_objective_that_never_binds_leaves_lambda_m():
    found = tune("max-rate", QUESTION, [parse_slo("p99_ttft<1e7")])
    assert found.value == pytest.approx(LAMBDA_M, rel=0.01)


def by_scan(slo, rates, requests, replications):
    """Return where a statistic passes its limit, by plain runs at each rate and interpolation."""
    percentile = slo.percentile
    logs = []
    for rate in rates:
        each = []
        for r in range(replications):
            stream = at_mean_rate(QUESTION, rate).stream
            table = stream.sample(900 + r, num_requests=requests)
            rows = discrete.simulate(table, NODE, record_batches=False).requests
            end = {"ttft": "first_token_time", "e2el": "completion_time"}[slo.latency]
            values = (rows[end] - rows["arrival_time"])[requests // 10 :]
            each.append(values.mean() if percentile is None else np.percentile(values, percentile))
        logs.append(math.log(np.mean(each) / slo.limit))
    assert logs[0] < 0 < logs[-1]
    return float(np.exp(np.interp(0.0, logs, np.log(rates))))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["p99_ttft<200", "p90_e2el<400"])
def test_a_capacity_is_that_of_a_scan_for_a_tenth_of_a_bisections_runs(text):
    slo = parse_slo(text)
    found = tune("max-rate", QUESTION, [slo], settings=SearchSettings(tolerance=0.02))
    scanned = by_scan(slo, np.geomspace(0.6, 0.98, 12) * LAMBDA_M, 150_000, 3)
    assert found.value == pytest.approx(scanned, rel=0.03)
    low, high = found.answer.bracket
    assert low == found.value and high / low <= math.exp(0.02) * (1 + 1e-9)
    assert found.plain_runs == plain_bisection_runs(found.scanned, 0.02 * low, 16)
    assert 10 * found.engine_runs <= found.plain_runs
    assert found.answer.met.certain(0.95) and found.answer.missed.certain(0.95)


@pytest.mark.slow
def test_a_wrong_scout_costs_runs_but_no_truth():
    """The fluid is only asked where to look: one that is 30 % off changes no answer."""
    from studies.tuning import predict

    slo = parse_slo("mean_ttft<20")

    def wrong(question):
        return predict(at_mean_rate(question, 0.7 * question.stream.mean_rate))

    def silent(question):
        raise UnsupportedError("no answer")

    right = tune("max-rate", QUESTION, [slo], settings=QUICK)
    misled = tune("max-rate", QUESTION, [slo], predictor=wrong, settings=QUICK)
    alone = tune("max-rate", QUESTION, [slo], predictor=silent, settings=QUICK)
    assert misled.fluid_value > 1.02 * right.fluid_value
    assert misled.value == pytest.approx(right.value, rel=0.03)
    assert alone.value == pytest.approx(right.value, rel=0.03) and alone.fluid_value is None
    assert any("could not scout" in each for each in alone.warnings)


def test_the_fluid_model_scouts_up_to_the_capacity_and_no_further():
    from studies.tuning import predict

    waits = [predict(at_mean_rate(QUESTION, x * LAMBDA_M))["ttft"].mean for x in (0.3, 0.9, 0.99)]
    assert 0 < waits[0] < waits[1] < waits[2]
    with pytest.raises(SolveError, match="no steady state"):
        predict(at_mean_rate(QUESTION, 1.001 * LAMBDA_M))


def test_an_impossible_objective_says_so():
    found = tune("max-rate", QUESTION, [parse_slo("p99_ttft<1")])
    assert found.value is None and found.answer is None
    assert "impossible" in found.reason and "p99_ttft<1" in found.reason
    assert json.loads(json.dumps(found.to_json()))["value"] is None


@pytest.mark.slow
def test_the_smallest_memory_is_where_a_scan_finds_it():
    slo = parse_slo("p99_ttft<100")
    question = at_mean_rate(QUESTION, 0.5 * LAMBDA_M)
    found = tune("M-total", question, [slo], settings=QUICK)
    assert found.value == int(found.value)

    def p99(memory):
        node = replace(NODE, M_total=int(memory))
        runs = [
            discrete.simulate(
                question.stream.sample(70 + r, num_requests=100_000), node, record_batches=False
            ).samples(10_000)
            for r in range(4)
        ]
        return np.mean([np.percentile(run.ttft, 99) for run in runs])

    assert p99(1.04 * found.value) < 100 < p99(0.96 * found.value)


@pytest.mark.slow
def test_a_threshold_that_is_good_between_two_values_is_reported_as_such():
    """Sacrifice under bursts: admit too little and the node cannot keep up, too much and it
    collapses into recomputing; both edges are found and the answer is not taken for monotone."""
    node = DecodeNode(
        BatchTimeLaw.per_token(0.05, 0.00032), mode="sacrifice", M_total=10_000, B=10_000
    )
    bursts = "steps(0:3,100:0.8,period=1100)"
    stream = describe(types="(20,20,1)", rate_shape=bursts)
    question = at_mean_rate(Question(stream, node), 4.4)
    settings = SearchSettings(scan=8, tolerance=0.05, replications=4, most_requests=200_000)
    found = tune("admission-threshold", question, settings=settings)
    assert not found.monotone and any("not monotone" in each for each in found.warnings)
    assert len(found.crossings) == 2
    ((low, high),) = found.ranges
    assert found.value == high
    growth = {
        value: measure(found.knob.turned(question, value), [], 100_000, 9)
        for value in (0.8 * low, math.sqrt(low * high), min(1.15 * high, 1.0))
    }
    first, middle, last = (each.values[BACKLOG_GROWTH] for each in growth.values())
    assert middle < 0.004 < min(first, last)


@pytest.mark.slow
def test_crossings_of_a_made_up_knob_are_all_found():
    """A knob that helps, hurts and helps again, by changing the rate: four of five are known."""

    def rate(x):
        return LAMBDA_M * (0.95 + 0.35 * math.sin(2 * math.pi * x))

    knob = Knob(
        "wave", "a test", "larger", "linear",
        lambda question, x: at_mean_rate(question, rate(x)),
        lambda _: (0.05, 2.2), lambda _: (0.0, 3.0),
    )  # fmt: skip
    settings = SearchSettings(scan=12, tolerance=0.02, most_requests=200_000)
    found = tune(knob, QUESTION, settings=settings)
    truth = sorted(
        (k + side * math.asin(0.05 / 0.35) / (2 * math.pi)) if side > 0
        else k + 0.5 - math.asin(0.05 / 0.35) / (2 * math.pi)
        for k in range(3) for side in (1, -1)
    )  # fmt: skip
    truth = [x for x in truth if 0.05 < x < 2.2]
    middles = [math.sqrt(c.bracket[0] * c.bracket[1]) for c in found.crossings]
    assert middles == pytest.approx([x for x in truth if x > 0.06], rel=0.03)
    assert not found.monotone


@pytest.mark.parametrize("shape", [Ramp(1, 2, 100.0), Steps((0.0, 10.0), (1.0, 2.0))])
def test_a_workload_without_a_steady_state_is_refused(shape):
    question = replace(QUESTION, source=replace(QUESTION.stream, shape=shape))
    with pytest.raises(ConfigError, match="constant or periodic"):
        tune("max-rate", question)


def test_a_file_has_no_steady_state():
    with pytest.raises(UnsupportedError, match="stream"):
        tune("max-rate", Question(QUESTION.of_requests(100).requests, NODE))


@pytest.mark.parametrize(
    ("options", "key"),
    [({"tolerance": 0}, "tolerance"), ({"replications": 2}, "replications"), ({"scan": 1}, "scan"),
     ({"confidence": 1.0}, "confidence"), ({"least_requests": 10}, "least_requests"),
     ({"replications": 3.5}, "replications")],
)  # fmt: skip
def test_settings_that_are_not_allowed_are_named(options, key):
    with pytest.raises(ConfigError, match=key):
        SearchSettings(**options)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"steps": 1}, "steps"),
        ({"replications": 1}, "replications"),
        ({"confirmed": 0}, "confirmed"),
        ({"confidence": 0.1}, "confidence"),
        ({"requests": 1}, "requests"),
    ],
)
def test_settings_of_two_knobs_that_are_not_allowed_are_named(options, key):
    with pytest.raises(ConfigError, match=key):
        GoodputSettings(**options)


@pytest.mark.parametrize("bracket", [(2.0, 1.0), (0.0, 1.0), (1.0, math.inf)])
def test_a_bracket_that_is_not_allowed_is_named(bracket):
    with pytest.raises(ConfigError, match="bracket"):
        tune("max-rate", QUESTION, bracket=bracket)


# An engine that no fluid model reads


@pytest.fixture
def unread(monkeypatch):
    """A question of an instance of which no fluid model knows anything."""
    monkeypatch.setitem(KINDS, "unread", unread_kind())
    return QUESTION.on(Unread())


def test_a_kind_has_the_knobs_that_it_names(unread):
    assert list(knobs_of(kind_of(unread.instance))) == ["max-rate", "M-total"]
    with pytest.raises(ConfigError, match=r"'B'.*allowed: max-rate \| M-total$"):
        tune("B", unread)


def test_without_a_fluid_model_a_rate_is_found_in_a_bracket(unread):
    found = tune("max-rate", unread, bracket=(0.5 * LAMBDA_M, 1.5 * LAMBDA_M), settings=QUICK)
    assert found.value == pytest.approx(LAMBDA_M, rel=0.03)
    assert found.fluid_runs == 0 and found.fluid_value is None
    assert any("no fluid model reads" in each for each in found.warnings)


def test_without_a_fluid_model_a_rate_needs_a_bracket(unread):
    for search in (
        lambda: tune("max-rate", unread),
        lambda: most_goodput(("max-rate", "M-total"), unread, {"ttft": 50.0}),
    ):
        with pytest.raises(ConfigError, match=r"max-rate needs a bracket.*no fluid model reads"):
            search()


def test_without_a_fluid_model_a_setting_is_found_from_its_own_bracket(unread):
    question = at_mean_rate(unread, 0.5 * LAMBDA_M)
    found = tune("M-total", question, settings=QUICK)
    with_scout = tune("M-total", question.on(NODE), bracket=(500, 20_000), settings=QUICK)
    assert found.value == pytest.approx(with_scout.value, rel=0.03)


def test_without_a_fluid_model_the_grid_is_searched_from_all_over(unread):
    brackets = ((0.4 * LAMBDA_M, 1.1 * LAMBDA_M), (1000.0, 20_000.0))
    options = {"brackets": brackets,
               "settings": GoodputSettings(steps=4, replications=2, requests=5000)}  # fmt: skip
    knobs, thresholds = ("max-rate", "M-total"), {"ttft": 50.0}
    found = most_goodput(knobs, unread, thresholds, **options)
    assert found.fluid_runs == 0 and all(point.fluid is None for point in found.points)
    scouted = most_goodput(knobs, QUESTION, thresholds, **options)
    assert found.best.values == scouted.best.values


# Two knobs


def test_the_most_goodput_of_a_grid_is_what_all_of_it_run_would_say():
    from studies.tuning.engine import run_steadily
    from studies.tuning.goodput import measured_goodput

    thresholds = {"ttft": 50.0, "tpot": 2.5}
    brackets = ((0.4 * LAMBDA_M, 1.1 * LAMBDA_M), (0.1, 0.9))
    found = most_goodput(
        ("max-rate", "admission-threshold"), QUESTION, thresholds, brackets=brackets,
        settings=GoodputSettings(steps=5, replications=3, requests=20_000),
    )  # fmt: skip

    def goodput(values):
        question = QUESTION
        for knob, value in zip(found.knobs, values, strict=True):
            question = knob.turned(question, value)
        runs = [run_steadily(question, 20_000, replication) for replication in range(3)]
        return np.mean([measured_goodput(question, run, thresholds) for run in runs])

    everywhere = {point.values: goodput(point.values) for point in found.points}
    assert len(everywhere) == 25
    assert found.best is not None
    assert found.best.values == max(everywhere, key=lambda values: everywhere[values])
    assert found.best.mean == everywhere[found.best.values]
    assert found.engine_runs < 25 * 3
    assert found.best.fluid == pytest.approx(found.best.mean, rel=0.15)


def test_goodput_that_nothing_reaches_is_no_answer():
    found = most_goodput(
        ("B", "M-total"), at_mean_rate(QUESTION, 0.5 * LAMBDA_M), {"ttft": 0.5},
        settings=GoodputSettings(steps=3, replications=2, requests=2000),
    )  # fmt: skip
    printed = found.to_json()
    assert found.best is None and "impossible" in printed["reason"]
    assert printed["engine_runs_plain_grid"] == 9 * 2
