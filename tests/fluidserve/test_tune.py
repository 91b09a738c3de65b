"""``fluidserve tune``: what it prints, its exit status, and what it refuses in one line."""

from __future__ import annotations

import csv
import json

import pytest
from unread import unread_kind

from serving import KINDS

QUICK = ("--tolerance", 0.05, "--max-run-length", 100_000, "--no-verbose")


def test_an_answer_is_json_with_its_context(run):
    done = run("tune", "max-rate", "--slo", "p99_ttft<200", "--slo", "mean_tpot<5", *QUICK)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    for key in ("knob", "value", "bracket", "slo", "engine_runs", "fluid_runs", "fluid_value"):
        assert found[key] is not None
    low, high = found["bracket"]
    assert low == found["value"] < high <= 1.06 * low and found["monotone"]
    assert found["slo"] == ["p99_ttft<200", "mean_tpot<5"]
    assert found["measured"]["p99_ttft"] < 200 and found["engine_runs"] == sum(
        point["replications"] for point in found["points"]
    )
    assert found["engine_requests"] == sum(
        point["replications"] * point["requests"] for point in found["points"]
    )


def test_milliseconds_are_those_of_the_instance(run):
    arguments = ("tune", "max-rate", "--time-unit", "s", *QUICK)
    one = json.loads(run(*arguments, "--slo", "mean_tpot<2").stdout)
    other = json.loads(run(*arguments, "--slo", "mean_tpot_ms<2000").stdout)
    assert one["value"] == other["value"]
    assert one["slo"] == ["mean_tpot<2"] and other["slo"] == ["mean_tpot_ms<2000"]


def test_numbers_are_in_the_unit_in_which_they_were_asked_for(run):
    """An objective has one key everywhere, and values in the unit of that key."""
    arguments = ("tune", "max-rate", "--time-unit", "s", *QUICK)
    one = json.loads(run(*arguments, "--slo", "mean_tpot<2").stdout)
    other = json.loads(run(*arguments, "--slo", "mean_tpot_ms<2000").stdout)
    assert set(other["measured"]) == {"backlog_growth", "mean_tpot_ms"}
    assert other["measured"]["mean_tpot_ms"] == pytest.approx(1000 * one["measured"]["mean_tpot"])
    for a, b in zip(one["points"], other["points"], strict=True):
        assert set(b["measured"]) == set(other["measured"])
        assert a["margin"] == pytest.approx(b["margin"], abs=1e-9)
    assert other["crossings"][0]["binding"] == "mean_tpot_ms<2000"
    missed = run(*arguments, "--slo", "mean_tpot_ms<1")
    assert missed.exit_code == 1 and "nearest: backlog_growth" in missed.stderr
    assert "mean_tpot_ms 1" in missed.stderr  # over 1,000 ms, told in ms


def test_no_answer_is_null_a_reason_and_status_1(run):
    done = run("tune", "max-rate", "--slo", "p99_ttft<1", *QUICK)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["value"] is None and found["reason"].startswith("impossible")
    assert "impossible" in done.stderr


def test_two_knobs_take_goodput(run):
    done = run("tune", "B,admission-threshold", "--load", 0.5, "--goodput", "ttft:5",
               "--run-length", 2000, "--replications", 2, "--no-verbose")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["knobs"] == ["B", "admission-threshold"] and found["goodput"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("max-rat",), "KNOB max-rat: not allowed; allowed: max-rate | M-total | B | admission-"),
        (("max-rate", "--slo", "p99_ttf<1"), "STATISTIC_LATENCY<LIMIT"),
        (("max-rate", "--slo", "p99_ttft_ms<1"), "no ms"),
        (("max-rate", "--bracket", "1"), "LOW:HIGH"),
        (
            ("max-rate", "--bracket", "2:1"),
            "--bracket 2:1: not allowed; allowed: two finite numbers LOW",
        ),
        (("max-rate", "--bracket", "1:2,3:4"), "LOW:HIGH"),
        (("admission-threshold", "--bracket", "0.5:2"), "from 0 to 1"),
        (("max-rate", "--num-requests", 10), "--run-length"),
        (("max-rate", "--tolerance", 0), "--tolerance 0.0: not allowed"),
        (("max-rate", "--replications", 2), "--replications 2: not allowed"),
        (("max-rate", "--confidence", 1), "--confidence 1.0: not allowed"),
        (("max-rate", "--scan", 1), "--scan 1: not allowed"),
        (("max-rate", "--run-length", 1), "--run-length 1: not allowed"),
        (("max-rate", "--max-run-length", 0), "--max-run-length 0: not allowed"),
        (("max-rate", "--profile", "ramp(first=1,last=2,duration=10)"), "constant or periodic"),
        (("max-rate", "--goodput", "ttft:1"), "two knobs"),
        (("max-rate,B",), "two knobs"),
        (("max-rate,B,M-total",), "KNOB: one knob, or two"),
        (("B,B", "--goodput", "ttft:1"), "KNOB B,B: not allowed; allowed: two different knobs"),
        (("max-rate,B", "--goodput", "ttft:1", "--scan", 5), "--scan is for one knob"),
        (("max-rate,B", "--goodput", "ttft:1", "--bracket", "1:2"), "LOW:HIGH,LOW:HIGH"),
        (("max-rate,B", "--goodput", "ttft:1", "--run-length", 1), "--run-length 1: not allowed"),
        (("max-rate,B", "--slo", "p99_ttft<1", "--goodput", "ttft:1"), "--slo with one"),
        (("max-rate", "--load", 0.5), "--load sets the rate, and max-rate looks for one"),
        (("Max_Rate", "--arrival-rate", 0.1), "--arrival-rate sets the rate"),
        (("max-rate,B", "--goodput", "ttft:1", "--load", 0.5), "--load sets the rate"),
        (("B", "--scenario", "heavy", "--types", "(1,2,3)"), "--scenario and --types both"),
        (("B", "--scenario", "normal", "--lengths", "x.csv"), "--scenario and --lengths both"),
        (("max-rate", "--types", "(9,1,2)", "--slo", "mean_tpot<3"), "tpot is not defined here"),
        (
            ("max-rate,B", "--types", "(9,1,2)", "--goodput", "tpot:3"),
            "--goodput 'tpot:3': tpot is not defined here",
        ),
        (("max-rate", "--scale", 1_000_000), "--max-run-length 1000000: not allowed; allowed: a w"),
    ],
)
def test_wrong_input_is_one_line(run, arguments, said):
    failed = run("tune", *arguments)
    assert failed.exit_code == 2 and said in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_file_is_no_steady_stream(run):
    run("generate", "--num-requests", 5, "--output", "r.csv")
    assert "steady stream" in run("tune", "max-rate", "--requests", "r.csv").stderr


@pytest.fixture
def unread(monkeypatch):
    monkeypatch.setitem(KINDS, "unread", unread_kind())


def test_an_engine_that_no_fluid_model_reads_needs_a_bracket(run, unread):
    failed = run("tune", "max-rate", "--engine", "unread", *QUICK)
    assert failed.exit_code == 2 and len(failed.stderr.splitlines()) == 1
    assert "--bracket is needed" in failed.stderr and "no fluid model reads" in failed.stderr
    knob = run("tune", "B", "--engine", "unread", *QUICK)
    assert "KNOB B: not allowed; allowed: max-rate | M-total | replicas\n" in knob.stderr


def test_an_engine_that_no_fluid_model_reads_is_tuned_in_a_bracket(run, unread):
    engine = ("--engine", "unread", *QUICK)
    found = json.loads(run("tune", "max-rate", "--bracket", "0.06:0.2", *engine).stdout)
    known = json.loads(run("tune", "max-rate", *QUICK).stdout)
    assert found["value"] == pytest.approx(known["value"], rel=0.05)
    assert found["capacity"] is None and found["fluid_value"] is None and found["warnings"]
    assert known["capacity"] == pytest.approx(0.133, abs=0.001)


def test_two_knobs_take_two_brackets(run, unread):
    done = run("tune", "max-rate,M-total", "--engine", "unread", "--bracket", "0.06:0.12,",
               "--goodput", "ttft:50", "--run-length", 2000, "--replications", 2,
               "--no-verbose")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    rate, memory = json.loads(done.stdout)["values"]
    assert 0.06 <= rate <= 0.12 and 500 <= memory <= 20_000


def test_the_help_names_the_knobs_of_each_engine(unread):
    from fluidserve.commands.tune import help_text

    assert "unread: M-total (smallest KV memory [tokens])." in help_text()
    assert "decode_node: M-total (smallest KV memory [tokens]); B (" in help_text()


def test_a_folder_holds_the_answer_and_the_curve(run, tmp_path):
    """Engine points and the fluid's line over the bracket, in ms, drawn again by ``plot``."""
    quick = ("--tolerance", 0.1, "--max-run-length", 20_000, "--no-verbose", "--out", "out")
    done = run("tune", "max-rate", "--time-unit", "s", "--slo", "p99_ttft_ms<200000", *quick)
    assert done.exit_code == 0, done.stderr
    found, folder = json.loads(done.stdout), tmp_path / "out"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["kind"] == "tuning" and summary["value"] == found["value"]
    assert "max-rate" in (folder / "summary.txt").read_text()
    assert (folder / "config_used.yaml").exists() and (folder / "meta.json").exists()
    with (folder / "rate_latency.csv").open() as file:
        rows = list(csv.DictReader(file))
    engine = [row for row in rows if row["source"] == "engine"]
    fluid = [row for row in rows if row["source"] == "fluid"]
    assert len(engine) >= 8 and len(fluid) >= 20
    rates = [float(row["max-rate"]) for row in engine]
    assert found["value"] in rates and max(rates) <= 1.02 * 1.11 * found["value"]
    for row in engine:
        for name in (f"{s}_{x}_ms" for s in ("mean", "p50", "p99") for x in ("ttft", "tpot")):
            assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])
    light = engine[1]  # of the same rate, found by another command
    load = float(light["max-rate"]) / found["capacity"]
    alone = run("simulate", "--time-unit", "s", "--num-requests", 20_000, "--load", load,
                "--no-verbose", "--out", "alone")  # fmt: skip
    metrics = json.loads(alone.stdout)["metrics"]
    assert float(light["mean_e2el_ms"]) == pytest.approx(metrics["mean_e2el_ms"], rel=0.02)
    at = {row["max-rate"]: row for row in fluid}[engine[-2]["max-rate"]]
    assert float(at["mean_ttft_ms"]) == pytest.approx(float(engine[-2]["mean_ttft_ms"]), rel=0.3)
    (folder / "rate_latency.png").unlink()
    again = run("plot", "out")
    assert json.loads(again.stdout)["written"] == ["rate_latency.png"]
    assert (folder / "rate_latency.png").stat().st_size > 20_000


def test_a_search_of_two_knobs_or_without_an_answer_leaves_a_folder_too(run, tmp_path):
    run("tune", "B,admission-threshold", "--load", 0.5, "--goodput", "ttft:5",
        "--run-length", 2000, "--replications", 2, "--no-verbose", "--out", "two")  # fmt: skip
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["knobs"] == ["B", "admission-threshold"] and summary["warnings"] == []
    none = run("tune", "max-rate", "--slo", "p99_ttft<1", *QUICK, "--out", "nothing")
    assert none.exit_code == 1
    assert json.loads((tmp_path / "nothing" / "summary.json").read_text())["value"] is None
    assert (tmp_path / "nothing" / "rate_latency.png").exists()


def test_the_help_lists_no_option_that_is_refused(run):
    shown = run("tune", "--help").stdout
    for flag in ("--num-requests", "--horizon"):
        assert flag not in shown
    assert "--lengths" in shown and "--out" in shown
    # a fleet serves a file as it is; a rate is sought of streams alone
    assert "--requests " in shown
    refused = run("tune", "max-rate", "--requests", "some.csv")
    assert refused.exit_code == 2 and len(refused.stderr.splitlines()) == 1


def test_thresholds_are_told_as_they_were_given(run):
    done = run("tune", "B,admission-threshold", "--load", 0.5, "--time-unit", "s",
               "--goodput", "ttft_ms:5000", "--run-length", 2000, "--replications", 2,
               "--no-verbose")  # fmt: skip
    assert json.loads(done.stdout)["thresholds"] == {"ttft_ms": 5000.0}
