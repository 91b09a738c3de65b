"""``fluidserve tune replicas``: what it prints and writes, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import json

import pytest

FILE = "arrival_time,prefill_length,decode_length\n" + "".join(
    f"{0.5 * i},{20 + 7 * (i % 5)},{10 + 5 * (i % 7)}\n" for i in range(300)
)
BASE = (
    "tune", "replicas", "--requests", "r.csv", "--slo", "mean_ttft<2", "--B", 600, "--no-verbose",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.csv").write_text(FILE)
    return tmp_path


def test_an_answer_is_json_and_a_folder(run, folder):
    done = run(*BASE, "--time-unit", "s", "--gpu-price", 2, "--out", "o")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["knob"] == "replicas" and found["value"] > 1 and found["confirmed"]
    assert found["measured"]["mean_ttft"] <= 2 < found["measured_below"]["mean_ttft"]
    assert found["certainty_from"] == "blocks of the trace"
    gpu, best = found["gpu"], found["gpu"]["perfect_system"]
    assert 0 < best["gpu_hours"] <= gpu["gpu_hours"] and best["replicas"] <= found["value"]
    assert found["price"]["total"] == pytest.approx(2 * gpu["gpu_hours"])
    with (folder / "o" / "replicas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["replicas"]) for row in rows] == [s["replicas"] for s in found["sizes"]]
    summary = json.loads((folder / "o" / "summary.json").read_text())
    assert summary["value"] == found["value"]
    assert not (folder / "o.journal").exists()
    picture = folder / "o" / "replicas.png"
    drawn = picture.read_bytes()
    picture.unlink()
    assert json.loads(run("plot", "o").stdout)["written"] == ["replicas.png"]
    assert picture.read_bytes() == drawn


def test_another_experiment_leaves_no_fleets_behind(run, folder):
    assert run(*BASE, "--out", "o").exit_code == 0
    assert {"replicas.csv", "replicas.png"} <= {file.name for file in (folder / "o").iterdir()}
    done = run("simulate", "--num-requests", 20, "--no-verbose", "--out", "o")
    assert done.exit_code == 0, done.stderr
    assert not {file.name for file in (folder / "o").iterdir() if "replicas" in file.name}


def test_an_interval_holds_the_limit_where_a_verdict_is_not_certain(run, folder):
    for limit in (1.0, 2.0, 4.0):
        found = json.loads(run(*without(BASE, "--slo"), "--slo", f"mean_ttft<{limit}").stdout)
        for size in found["sizes"]:
            low, high = size["interval"]["mean_ttft"]
            assert low < size["measured"]["mean_ttft"] < high
            assert (low < limit < high) == (not size["certain"])
            assert size["gpu_time"] > 0 and size["gpu_hours"] is None


def test_a_table_shows_every_fleet(run, folder):
    shown = run(*BASE, "--table").stdout
    assert "replicas  met  certain" in shown and "perfect system" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_an_interrupted_search_goes_on_where_it_was(run, folder, monkeypatch):
    from scheduling import sizing

    whole = json.loads(run(*BASE, "--out", "whole").stdout)
    known, runs = sizing.measured, []

    def interrupted(sizing, replicas, number):
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(replicas)
        return known(sizing, replicas, number)

    monkeypatch.setattr(sizing, "measured", interrupted)
    stopped = run(*BASE, "--out", "o")
    assert stopped.exit_code != 0 and "2 runs are kept in" in stopped.stderr
    assert not (folder / "o").exists()
    further = []
    monkeypatch.setattr(sizing, "measured", lambda s, n, k: (further.append(n), known(s, n, k))[1])
    again = json.loads(run(*BASE, "--out", "o").stdout)
    assert not set(further) & set(runs)
    again.pop("output_dir"), whole.pop("output_dir")
    assert again == whole


def test_a_policy_changes_what_is_asked(run, folder):
    one = json.loads(run(*BASE).stdout)
    other = json.loads(run(*BASE, "--policy", "random").stdout)
    assert (one["policy"], other["policy"]) == ("jsq", "random")
    assert other["value"] > one["value"]


def test_a_stream_says_gpus_for_an_hour(run, folder):
    done = run("tune", "replicas", "--arrival-rate", 0.3, "--slo", "p99_ttft<40", "--time-unit",
               "s", "--run-length", 2000, "--replications", 4, "--no-verbose")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["gpu"]["duration"] == 3600 and found["gpu"]["gpu_hours"] == found["value"]
    assert found["gpu"]["output_tokens"] == pytest.approx(
        0.3 * 3600 * found["workload"]["mean_decode_length"]
    )


def test_no_answer_is_null_a_reason_and_status_1(run, folder):
    done = run(*without(BASE, "--slo"), "--slo", "p99_ttft<1e-3", "--bracket", "1:3")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["value"] is None and found["gpu"] is None and "impossible" in done.stderr


def without(line, flag):
    at = line.index(flag)
    return (*line[:at], *line[at + 2 :])


STREAM = ("tune", "replicas", "--arrival-rate", 0.3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (without(BASE, "--slo"), "name an objective"),
        (("tune", "replicas", "--slo", "p99_ttft<20"), "give --trace, --requests or --arrival-r"),
        ((*BASE, "--replications", 5), "--replications is for generated requests"),
        ((*BASE, "--run-length", 500), "--run-length is for generated requests"),
        ((*BASE, "--tolerance", 0.1), "--tolerance is for other knobs"),
        ((*BASE, "--scan", 5), "--scan is for other knobs"),
        ((*BASE, "--within", 0.1), "--within is for other knobs"),
        ((*BASE, "--method", "stationary"), "--method stationary is of one instance"),
        ((*BASE, "--goodput", "ttft:2"), "--goodput goes with two knobs"),
        ((*BASE, "--gpu-price", 2), "--gpu-price is per hour, which needs times in s or ms"),
        ((*BASE, "--gpu-price", -2), "--gpu-price -2.0: not allowed"),
        ((*BASE, "--policy", "shortest"), "--policy shortest: not allowed"),
        ((*BASE, "--bracket", "3:2"), "--bracket 3:2: not allowed; allowed: LOW:HIGH, whole num"),
        ((*BASE, "--bracket", "1.5:2"), "--bracket 1.5:2: not allowed"),
        ((*BASE, "--confidence", 1.5), "--confidence 1.5: not allowed"),
        ((*BASE, "--slo", "p99_itl<2"), "a fleet has no ITL"),
        ((*STREAM, "--scale", 2), "--scale makes one instance larger"),
        ((*STREAM, "--num-requests", 9), "tune sets the length of its runs"),
        ((*STREAM, "--replications", 2), "--replications 2: not allowed"),
        ((*STREAM, "--rate-shape", "ramp(first=0.5,last=2,duration=1000)"), "--rate-shape"),
        (("tune", "replicas,B", "--arrival-rate", 0.3), "replicas is looked for alone"),
        (("tune", "max-rate", "--policy", "jsq"), "--policy is for the knob replicas"),
        (("tune", "max-rate", "--gpu-price", 1), "--gpu-price is for the knob replicas"),
        (("tune", "replica"), "| replicas"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(run, folder, line, said):
    done = run(*line)
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout
