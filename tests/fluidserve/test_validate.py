"""``fluidserve validate`` from a run to its folder, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest

from tests.references.measured import BENT_SERVER, LAW, SETTINGS, workload, write_run

LAW_FLAGS = ["--d-0", "0.012", "--d-decode", "3e-5", "--d-kv", "3e-8", "--d-prefill", "5e-5"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return [
        str(write_run(folder, "one", workload(1, 300, 6.0, prompts=30), front_end=0.02)),
        str(write_run(folder, "two", workload(2, 300, 9.0), front_end=0.02)),
    ]


def test_a_run_is_held_against_the_law_that_made_it(run, runs, tmp_path):
    out = tmp_path / "out"
    told = run("validate", runs[0], *LAW_FLAGS, "--front-end-offset", "0.02", "--fluid",
               "--out", str(out))  # fmt: skip
    result = json.loads(told.stdout)
    assert result["engine"]["e2el_ms"]["mean"]["error"] == pytest.approx(0, abs=1e-9)
    assert result["instance"]["max_num_seqs"] == 64
    assert result["fluid"]["completed"]["predicted"] == pytest.approx(300, rel=1e-3)
    assert result["calibration"] is None and result["law_from"] == "the options"
    assert any("repeat after 30 requests" in each for each in result["assumptions"])
    names = {each.name for each in out.iterdir()}
    assert {
        "report.html",
        "validation.png",
        "validation.csv",
        "summary.json",
        "requests.csv",
    } <= names
    page = (out / "report.html").read_text()
    assert "The fluid model" in page
    assert "Measured against predicted" in page and "repeat after 30 requests" in page
    (out / "validation.png").unlink()
    run("plot", str(out))
    assert (out / "validation.png").exists()


def test_a_law_of_a_file_is_matched_to_another_run(run, runs, tmp_path):
    bent = {"front_end": 0.02, "server": BENT_SERVER}
    one = write_run(tmp_path, "first", workload(1, 300, 6.0, prompts=30), **bent)
    two = write_run(tmp_path, "other", workload(2, 300, 9.0), **bent)
    law = tmp_path / "law.yaml"
    law.write_text("time_unit: ms\nd_0: 9.0\nd_decode: 0.05\nd_kv: 3.0e-5\nd_prefill: 0.04\n")
    told = run(
        "validate", str(one), "--law-file", str(law), "--calibrate-on", str(two),
        "--front-end-offset", "matched", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    result = json.loads(told.stdout)
    assert result["calibration"]["runs"] == ["other"]
    assert result["instance"]["d_0"] == pytest.approx(LAW.d_0, rel=0.02)
    assert abs(result["engine"]["tpot_ms"]["mean"]["error"]) < 0.005
    assert result["front_end_offset"] == pytest.approx(0.02, abs=0.003)
    assert result["warnings"] == []
    told = run(
        "validate", runs[0], *LAW_FLAGS, "--calibrate-on", runs[0], "--out", str(tmp_path / "same")
    )
    assert "very run" in json.loads(told.stdout)["warnings"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "does not say d_0"),
        ([*LAW_FLAGS, "--calibrate-until", "0"], "--calibrate-until 0"),
        ([*LAW_FLAGS, "--calibrate-until", "9", "--calibrate-on", "TWO"], "both calibrate"),
        ([*LAW_FLAGS, "--front-end-offset", "matched"], "--front-end-offset matched"),
        ([*LAW_FLAGS, "--front-end-offset", "-1"], "--front-end-offset -1"),
        ([*LAW_FLAGS, "--engine", "decode_node"], "decode_node"),
        ([*LAW_FLAGS, "--law-file", "nowhere.yaml"], "nowhere.yaml"),
        ([*LAW_FLAGS, "--calibrate-until", "999"], "--calibrate-until 999.*last arrival"),
        ([*LAW_FLAGS, "--calibrate-steps", "nowhere.csv"], "nowhere.csv"),
        ([*LAW_FLAGS, "--calibrate-until", "0.5"], "no request finished|at least 10"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, runs, tmp_path, options, words):
    given = [runs[1] if each == "TWO" else each for each in options]
    told = run("validate", runs[0], *given, "--out", str(tmp_path / "out"))
    assert told.exit_code == 2
    assert re.search(words, told.stderr.splitlines()[-1]), told.stderr
    assert not (tmp_path / "out").exists()


def test_a_law_is_not_matched_to_a_run_of_another_model(run, tmp_path):
    paths = [write_run(tmp_path, name, workload(1, 60, 6.0)) for name in ("a", "b")]
    said = {"engine_kwargs": {"model": "x/other", **SETTINGS}}
    (tmp_path / "b_config.json").write_text(json.dumps(said))
    (tmp_path / "a_config.json").write_text(json.dumps({**said, "model": "x/this"}))
    told = run("validate", paths[0], *LAW_FLAGS, "--calibrate-on", paths[1], "--out", "out")
    assert told.exit_code == 2
    assert "its model is x/other, that of a x/this" in told.stderr
