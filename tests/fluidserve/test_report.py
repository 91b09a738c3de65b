"""What the report says in words."""

from __future__ import annotations

import pytest

from fluidserve.report.analysis import _model
from fluidserve.report.comparison import _cautions, _headline, _metrics, _pressure, _verdict
from fluidserve.report.errors import errors_beside_the_engine, expected_errors
from fluidserve.text import deviation, duration, number, percent

METRICS = {"mean_ttft_ms": 20.0, "mean_e2el_ms": 80.0}


def summary(error=0.02, floor=0.01, *, fit=1000.0, labels=(), noise=0.2, **more):
    method = {
        "nrmse": {"in_system": error}, "noise_floor": {"in_system": floor}, "seconds": 2e-5,
        "labels": list(labels), "stats": {"requests_that_fit": fit},
        "metrics": {"mean_ttft_ms": 19.0, "mean_e2el_ms": 80.0},
    }  # fmt: skip
    return {
        "methods": {"lagrangian": method},
        "discrete": {"replications": 8, "seconds": 2.0, "metrics": METRICS},
        "workload": {"load": 0.5},
        "single_run_noise": noise,
        "warnings": [f"lagrangian: {label}" for label in labels],
    } | more


def said(found):
    return " ".join(_cautions(found))


def verdict(found):
    return _verdict(
        "lagrangian", found["methods"]["lagrangian"], found["discrete"], found["workload"]
    )


@pytest.mark.parametrize(("error", "floor"), [(0.02, 0.01), (0.04, 0.001), (0.2, 0.1)])
def test_a_fluid_that_follows_is_said_to(error, floor):
    found = summary(error, floor)
    assert "predicts the mean" in said(found) and "off here" not in said(found)
    assert "follows the mean of 8 runs" in verdict(found)


def test_a_fluid_that_is_off_does_not_reassure():
    found = summary(0.3, 0.01, fit=4.2)
    text = said(found)
    assert "predicts the mean" not in text and "follows" not in verdict(found)
    assert "off here, Lagrangian by 30 % of the number in system (noise: 1 %)" in text
    assert "only about 4.2 requests fill the node" in text
    assert "off from the mean of 8 runs of the discrete engine by 30 %" in verdict(found)
    assert "approximates, listed below" in said(summary(0.3, 0.01, labels=["approximate: x"]))
    assert "near saturation" in said(summary(0.3, None))


def test_every_warning_of_the_result_is_on_the_page():
    found = summary(warnings=["prefill is left out", "lagrangian, eulerian_jax: approximate: x"])
    assert "Prefill is left out." in said(found)
    assert "Lagrangian, eulerian_jax: approximate: x." in said(found)


def test_the_headline_says_how_far_mean_latencies_are_off():
    found = summary()
    method = found["methods"]["lagrangian"]
    tiles = _headline("lagrangian", method, found["discrete"], found["workload"])
    assert ("-5.0 %", "error of the mean TTFT") in tiles
    assert ("0.0 %", "error of the mean E2EL") in tiles
    assert ("20 \u00b5s", "one fluid solve, warm") in tiles


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([], "never"),
        ([(1, 2)], "from 1 to 2 s; before it memory suffices, after it"),
        ([(1, 2), (4, 5)], "2 times: from 1 to 2 s, 4 to 5 s; outside them"),
        ([(2 * i, 2 * i + 1) for i in range(9)], "10 to 11 s and 3 more; outside them"),
    ],
)
def test_the_caption_counts_spans_of_pressure(spans, words):
    assert words in _pressure({"memory_pressure": spans, "instance": {"time_unit": "s"}})


def test_words_for_numbers():
    assert [percent(x) for x in (0.0123, 0.999, 12.0, None)] == ["1.2 %", "100 %", "1,200 %", "-"]
    assert [deviation(x, 1.0) for x in (0.9999, 1.0001, 0.5)] == ["0.0 %", "0.0 %", "-50.0 %"]
    assert [duration(x) for x in (2, 0.002, 2e-5, None)] == ["2 s", "2 ms", "20 \u00b5s", "-"]
    assert number(float("inf")) == "inf"


def test_every_latency_of_the_table_has_its_unit():
    truth = {"mean_ttft": 2.0, "p99_e2el": 9.0, "duration": 3.0, "gpu_utilization": 0.5}
    page = _metrics({"lagrangian": {"metrics": truth}}, {"metrics": truth}, "none")
    assert "TTFT mean [time]" in page and "E2EL p99 [time]" in page and "GPU utilization<" in page
    in_ms = {"mean_ttft_ms": 2.0, "gpu_utilization": 0.5}
    page = _metrics({"lagrangian": {"metrics": in_ms}}, {"metrics": in_ms}, "s")
    assert "TTFT mean [ms]" in page and "GPU utilization<" in page


@pytest.mark.parametrize(("unit", "time"), [("s", "s"), ("ms", "ms"), ("none", "time")])
def test_metrics_have_the_unit_of_the_run(unit, time):
    latencies, end = ("time", "") if unit == "none" else ("ms", "_ms")
    metrics = {"duration": 62.0, "request_throughput": 185.0, "output_throughput": 7e3,
               f"mean_ttft{end}": 45.0, "gpu_utilization": 0.5}  # fmt: skip
    text = _metrics({}, {"metrics": metrics}, unit)
    for words in (f"duration [{time}]", f"completed per time [requests/{time}]",
                  f"output per time [tokens/{time}]", f"TTFT mean [{latencies}]"):  # fmt: skip
        assert words in text
    assert "GPU utilization<" in text  # a pure number


OF_TTFT = {"expected": 0.0, "low": -0.2, "high": 0.3}


def test_a_page_says_in_a_sentence_and_a_table_how_far_off_its_answer_is_expected_to_be():
    error = {"words": "confidence low: of answers like this one", "metrics": {"mean_ttft": OF_TTFT}}
    page = " ".join(expected_errors({"confidence": "low", "error": error}))
    assert "<p>Confidence low: of answers like this one.</p>" in page
    assert "mean TTFT" in page and "-20 to +30 %" in page
    nobody = {"words": "confidence unknown: never measured", "metrics": {}}
    page = " ".join(expected_errors({"confidence": "unknown", "error": nobody}))
    assert "never measured" in page and "<table" not in page
    assert expected_errors({}) == []  # of an older version


def test_a_page_says_for_each_metric_whether_the_engine_is_inside():
    found = {"mean_ttft": {"error": 0.5, "noise": 0.02, "inside": False},
             "mean_e2el": {"error": 0.01, "noise": 0.03, "inside": None}}  # fmt: skip
    words = "the engine is inside of 0 of 1 intervals; not of mean TTFT"
    method = {"found": found, "error": {"metrics": {"mean_ttft": OF_TTFT}}, "confidence": "low",
              "found_words": words}  # fmt: skip
    summary = {"methods": {"lagrangian": method},
               "main": {"method": "lagrangian", "words": "it comes nearest"}}  # fmt: skip
    page = " ".join(errors_beside_the_engine(summary))
    assert "Main line: Lagrangian: it comes nearest." in page
    assert "Lagrangian: the engine is inside of 0 of 1 intervals; not of mean TTFT." in page
    assert "+50.0 % <small>-20 to +30 %: outside" in page
    assert "+1.0 % <small>not known" in page and "known to 3 %" in page
    assert errors_beside_the_engine({"methods": {"lagrangian": {}}}) == []  # of an older version


def test_a_page_says_whose_latencies_it_shows():
    model, engine = {"auto": {"chosen": "stationary"}}, {"auto": {"chosen": "engine"}}
    assert "node-work process" in _model(model) and "node-work process" in _model({})
    assert "engine itself" in _model(engine) and "node-work" not in _model(engine)
    assert "engine itself" in _model(engine | {"binds": "seats"})
