"""Tuning: objectives as text, verdicts, and values held against scans that share no search."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import discrete
from fluid import capacity
from serving import (
    LATENCIES,
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    FluidServeError,
    UnsupportedError,
)
from studies.tuning import (
    KNOBS,
    Knob,
    Measurement,
    Operation,
    Point,
    knob_named,
    measure,
    parse_slo,
    plain_bisection_runs,
    tune,
)
from studies.tuning.engine import GROWTH
from studies.tuning.slo import STATISTICS
from workload import Ramp, Steps, describe

NODE = DecodeNode()
OPERATION = Operation(describe("normal"), NODE)
LAMBDA_M = capacity(OPERATION.workload.mix, NODE)
QUICK = {"tolerance": 0.03, "most_requests": 200_000}


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
    assert knob_named("M_total") is KNOBS["M-total"] and knob_named("MAX-RATE").name == "max-rate"
    with pytest.raises(ConfigError, match="admission-threshold"):
        knob_named("max")


# Runs and verdicts


def test_a_run_is_measured_without_its_start():
    """The statistics are those that NumPy finds in a plain run of the same draw."""
    operation = OPERATION.at_rate(0.7 * LAMBDA_M)
    slos = [parse_slo(t) for t in ("p99_ttft<90", "mean_tpot<2", "p90_e2el<1", "mean_itl<2")]
    measured = measure(operation, slos, 2000, 3, 42)
    table = operation.workload.sample(np.random.SeedSequence(42, spawn_key=(3,)), num_requests=2000)
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


def test_replications_share_their_draws_at_every_rate():
    """Common random numbers: arrival times are the same draw, stretched."""
    one, other = (
        OPERATION.at_rate(rate).workload.sample(np.random.SeedSequence(1), num_requests=500)
        for rate in (0.05, 0.1)
    )
    assert (one.decode_length == other.decode_length).all()
    np.testing.assert_allclose(one.arrival_time, 2 * other.arrival_time, rtol=1e-12)


def test_growth_is_what_the_backlog_grows_by():
    over = measure(OPERATION.at_rate(1.5 * LAMBDA_M), [], 20_000, 0, 1).values[GROWTH]
    assert over == pytest.approx(1 - 1 / 1.5, abs=0.02)
    assert abs(measure(OPERATION.at_rate(0.5 * LAMBDA_M), [], 20_000, 0, 1).values[GROWTH]) < 2e-3


def test_growth_under_bursts_compares_equal_phases():
    """A burst just before the end is no growth."""
    bursts = Steps((0.0, 200.0), (3.0, 0.6), period=1200.0)
    operation = Operation(replace(OPERATION.workload, shape=bursts), NODE).at_rate(0.7 * LAMBDA_M)
    assert operation.mean_rate == pytest.approx(0.7 * LAMBDA_M)
    growth = [measure(operation, [], n, 0, 1).values[GROWTH] for n in range(20_000, 20_200, 20)]
    assert np.abs(growth).max() < 4e-3


def points_of(margins, growth=-0.4, settled=True):
    found = [Measurement({}, {GROWTH: growth, "p99_ttft<1": m}, settled) for m in margins]
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
    found = tune("max-rate", OPERATION)
    assert found.value == pytest.approx(LAMBDA_M, rel=0.01)
    assert found.answer.estimate == pytest.approx(LAMBDA_M, rel=0.01)
    assert found.fluid_value == pytest.approx(LAMBDA_M, rel=0.002)
    assert found.monotone and found.answer.met.value < found.answer.missed.value


@pytest.mark.slow
def test_an_objective_that_never_binds_leaves_lambda_m():
    found = tune("max-rate", OPERATION, [parse_slo("p99_ttft<1e7")])
    assert found.value == pytest.approx(LAMBDA_M, rel=0.01)


def by_scan(slo, rates, requests, replications):
    """Return where a statistic passes its limit, by plain runs at each rate and interpolation."""
    percentile = slo.percentile
    logs = []
    for rate in rates:
        each = []
        for r in range(replications):
            table = OPERATION.at_rate(rate).workload.sample(900 + r, num_requests=requests)
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
    found = tune("max-rate", OPERATION, [slo], tolerance=0.02)
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

    def wrong(operation):
        return predict(operation.at_rate(0.7 * operation.mean_rate))

    def silent(operation):
        raise UnsupportedError("no answer")

    right = tune("max-rate", OPERATION, [slo], **QUICK)
    misled = tune("max-rate", OPERATION, [slo], predictor=wrong, **QUICK)
    alone = tune("max-rate", OPERATION, [slo], predictor=silent, **QUICK)
    assert misled.fluid_value > 1.02 * right.fluid_value
    assert misled.value == pytest.approx(right.value, rel=0.03)
    assert alone.value == pytest.approx(right.value, rel=0.03) and alone.fluid_value is None
    assert any("could not scout" in each for each in alone.warnings)


def test_an_impossible_objective_says_so():
    found = tune("max-rate", OPERATION, [parse_slo("p99_ttft<1")])
    assert found.value is None and found.answer is None
    assert "impossible" in found.reason and "p99_ttft<1" in found.reason
    assert json.loads(json.dumps(found.to_json()))["value"] is None


@pytest.mark.slow
def test_the_smallest_memory_is_where_a_scan_finds_it():
    slo = parse_slo("p99_ttft<100")
    operation = OPERATION.at_rate(0.5 * LAMBDA_M)
    found = tune("M-total", operation, [slo], **QUICK)
    assert found.value == int(found.value)

    def p99(memory):
        node = replace(NODE, M_total=int(memory))
        runs = [
            discrete.simulate(
                operation.workload.sample(70 + r, num_requests=100_000), node, record_batches=False
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
    operation = Operation(describe(types="(20,20,1)", rate_shape=bursts), node).at_rate(4.4)
    found = tune("admission-threshold", operation, scan=8, tolerance=0.05, replications=4,
                 most_requests=200_000)  # fmt: skip
    assert not found.monotone and any("not monotone" in each for each in found.warnings)
    assert len(found.crossings) == 2
    ((low, high),) = found.ranges
    assert found.value == high
    growth = {
        value: measure(KNOBS["admission-threshold"].turned(operation, value), [], 100_000, 9, 1)
        for value in (0.8 * low, math.sqrt(low * high), min(1.15 * high, 1.0))
    }
    first, middle, last = (each.values[GROWTH] for each in growth.values())
    assert middle < 0.004 < min(first, last)


@pytest.mark.slow
def test_crossings_of_a_made_up_knob_are_all_found():
    """A knob that helps, hurts and helps again, by changing the rate: four of five are known."""

    def rate(x):
        return LAMBDA_M * (0.95 + 0.35 * math.sin(2 * math.pi * x))

    knob = Knob(
        "wave", "a test", "larger", False, "linear",
        lambda operation, x: operation.at_rate(rate(x)),
        lambda _: (0.05, 2.2), lambda _: (0.0, 3.0),
    )  # fmt: skip
    found = tune(knob, OPERATION, scan=12, tolerance=0.02, most_requests=200_000)
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
    operation = Operation(replace(OPERATION.workload, shape=shape), NODE)
    with pytest.raises(ConfigError, match="constant or periodic"):
        tune("max-rate", operation)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"tolerance": 0}, "tolerance"), ({"replications": 2}, "replications"), ({"scan": 1}, "scan"),
     ({"confidence": 1.0}, "confidence"), ({"least_requests": 10}, "run_length"),
     ({"bracket": (2.0, 1.0)}, "bracket"), ({"bracket": (0.0, 1.0)}, "bracket")],
)  # fmt: skip
def test_options_that_are_not_allowed_are_named(options, key):
    with pytest.raises(ConfigError, match=key):
        tune("max-rate", OPERATION, **options)


# Two knobs


def test_the_most_goodput_of_a_grid_is_what_all_of_it_run_would_say():
    from studies.tuning import most_goodput
    from studies.tuning.goodput import measured_goodput

    thresholds = {"ttft": 50.0, "tpot": 2.5}
    brackets = ((0.4 * LAMBDA_M, 1.1 * LAMBDA_M), (0.1, 0.9))
    options = {"steps": 5, "replications": 3, "requests": 20_000}
    found = most_goodput(
        ("max-rate", "admission-threshold"), OPERATION, thresholds, brackets=brackets, **options
    )

    def goodput(values):
        operation = OPERATION
        for knob, value in zip(found.knobs, values, strict=True):
            operation = knob.turned(operation, value)
        return np.mean([measured_goodput(operation, thresholds, 20_000, r, 42) for r in range(3)])

    everywhere = {point.values: goodput(point.values) for point in found.points}
    assert len(everywhere) == 25
    assert found.best is not None
    assert found.best.values == max(everywhere, key=lambda values: everywhere[values])
    assert found.best.mean == everywhere[found.best.values]
    assert found.engine_runs < 25 * 3
    assert found.best.fluid == pytest.approx(found.best.mean, rel=0.15)


def test_goodput_that_nothing_reaches_is_no_answer():
    from studies.tuning import most_goodput

    found = most_goodput(
        ("B", "M-total"), OPERATION.at_rate(0.5 * LAMBDA_M), {"ttft": 0.5},
        steps=3, replications=2, requests=2000,
    )  # fmt: skip
    assert found.best is None and "impossible" in found.to_json()["reason"]
