"""Files of requests at the command line: whatever clock and form they have, the answer is right."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from pandas import read_csv

from fluidserve.inputs import load_inputs
from workload import read_trace

HEAD = "arrival_time,prefill_length,decode_length\n"
NODE = ("--time-unit", "s", "--d-0", 0.02, "--d-1", 2e-5)


def request_file(since=0.0, n=120, seed=4, digits=3):
    """Return requests at 4/s whose clock shows ``since`` at the first."""
    rng = np.random.default_rng(seed)
    times = np.round(np.cumsum(rng.exponential(0.25, n)), 3)
    times += since - times[0]
    rows = zip(times, rng.integers(60, 200, n), rng.integers(10, 60, n), strict=True)
    return HEAD + "".join(f"{t:.{digits}f},{p},{d}\n" for t, p, d in rows)


def answers(result, path=""):
    """Return the numbers of a result by their path, but not those of the folder and the clock."""
    found = {}
    items = result.items() if isinstance(result, dict) else enumerate(result)
    for key, value in items:
        if key in ("timings_seconds", "output_dir", "seconds", "wall_time", "solver_seconds"):
            continue
        if isinstance(value, dict | list):
            found |= answers(value, f"{path}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{path}/{key}"] = value
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("simulate", "--out", "x", "--no-verbose"),
        ("simulate", "--load", 0.8, "--out", "x", "--no-verbose"),
        ("simulate", "--rate-scale", 2, "--out", "x", "--no-verbose"),
        ("solve", "--method", "lagrangian", "--out", "x"),
        ("solve", "--method", "lagrangian", "--load", 0.8, "--out", "x"),
    ],
)
def test_a_file_on_another_clock_gets_the_same_answer(run, tmp_path, command):
    found = []
    for since, name in ((0.0, "r0.csv"), (3600.0, "r1.csv"), (1.7e9, "r2.csv")):
        (tmp_path / name).write_text(request_file(since))
        done = run(command[0], "--requests", name, *NODE, *command[1:])
        assert done.exit_code == 0, done.stderr
        found.append(answers(json.loads(done.stdout)))
    assert len(found[0]) > 20
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, value in found[0].items():
            if "batch" not in key or "time" in key:  # a count may change with the last bit
                assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("more", [{}, {"load": 0.8}, {"rate_scale": 2.0}, {"scale": 3}])
def test_every_command_starts_from_the_same_requests_on_any_clock(tmp_path, more):
    found = []
    for since, name in ((0.0, "r0.csv"), (3600.0, "r1.csv"), (1.7e9, "r2.csv")):
        path = tmp_path / name
        path.write_text(request_file(since))
        for key in ("request_file", "trace"):  # analyze, compare, solve, simulate, generate
            found.append(load_inputs({key: str(path), "time_unit": "s", **more}).describe())
    for other in found[1:]:
        for key in ("requests", "horizon", "mean_arrival_rate", "load", "capacity"):
            assert other[key] == pytest.approx(found[0][key], rel=1e-6), key


def test_load_and_throughput_of_a_file_count_from_its_first_request(run, tmp_path):
    (tmp_path / "late.csv").write_text(HEAD + "".join(f"{3600 + t},100,20\n" for t in range(41)))
    done = run("simulate", "--requests", "late.csv", *NODE, "--out", "x", "--no-verbose")
    result = json.loads(done.stdout)
    assert result["workload"]["mean_arrival_rate"] == pytest.approx(41 / 40)
    # 41 requests leave between the first arrival and 40 s plus the last answer: 20 batches, .44 s.
    assert 41 / 40.5 < result["metrics"]["request_throughput"] < 41 / 40.4


def test_a_run_can_be_run_again_on_its_own_clock(run, tmp_path):
    run("simulate", "--num-requests", 60, "--out", "first", "--no-verbose")
    assert "request_start: 0.0" in (tmp_path / "first" / "config_used.yaml").read_text()
    done = run("simulate", "--config", "first/config_used.yaml", "--out", "again", "--no-verbose")
    assert done.exit_code == 0, done.stderr
    for name in ("requests.csv", "request_traces.csv", "batch_snapshots.csv", "summary.json"):
        first, again = ((tmp_path / d / name).read_bytes() for d in ("first", "again"))
        if name != "summary.json":
            assert first == again, name
        else:
            a, b = json.loads(first)["metrics"], json.loads(again)["metrics"]
            assert a == b


QWEN = "".join(
    json.dumps({"chat_id": k, "timestamp": round(1.9 * k + 0.544, 3), "input_length": 600 + k,
                "output_length": 40, "type": "text", "hash_ids": [k, 1]}) + "\n"
    for k in range(30)
)  # fmt: skip


def test_seconds_under_the_keys_of_a_millisecond_format_are_seen_and_said(run, tmp_path):
    (tmp_path / "q.jsonl").write_text(QWEN)
    done = run("trace", "convert", "q.jsonl", "out.csv")
    assert done.exit_code == 0 and "is read in s" in done.stderr
    assert "--trace-time-unit" in done.stderr
    result = json.loads(done.stdout)
    assert result["workload"]["horizon"] == pytest.approx(29 * 1.9)
    assert "is read in s" in result["warnings"][0]
    done = run("trace", "convert", "q.jsonl", "out.csv", "--trace-time-unit", "ms")
    assert done.stderr == "" and json.loads(done.stdout)["warnings"] == []
    assert json.loads(done.stdout)["workload"]["horizon"] == pytest.approx(29 * 1.9e-3)


@pytest.mark.parametrize(
    "command",
    [("simulate",), ("solve",), pytest.param(("analyze", "--stationary"), marks=pytest.mark.slow)],
)
def test_every_answer_says_once_what_was_assumed_about_its_trace(run, tmp_path, command):
    (tmp_path / "q.jsonl").write_text(QWEN)
    done = run(*command, "--trace", "q.jsonl", *NODE, "--out", "x")
    warnings = json.loads(done.stdout)["warnings"]
    assert sum("is read in s" in each for each in warnings) == 1
    assert done.stderr.count("is read in s") == 1


def test_whole_seconds_under_those_keys_are_refused_until_somebody_says_the_unit(run, tmp_path):
    (tmp_path / "q.jsonl").write_text(
        "".join(
            json.dumps({"timestamp": 2 * k, "input_length": 9, "output_length": 4}) + "\n"
            for k in range(30)
        )
    )
    done = run("trace", "convert", "q.jsonl", "out.csv")
    assert done.exit_code == 2 and "--trace-time-unit" in done.stderr
    assert not (tmp_path / "out.csv").exists()
    for unit, horizon in (("s", 58), ("ms", 0.058)):
        done = run("trace", "convert", "q.jsonl", "out.csv", "--trace-time-unit", unit)
        assert json.loads(done.stdout)["workload"]["horizon"] == pytest.approx(horizon)


def test_a_unit_that_is_none_is_refused(run, tmp_path):
    (tmp_path / "r.csv").write_text(request_file())
    done = run("simulate", "--requests", "r.csv", "--trace-time-unit", "min")
    assert done.exit_code == 2 and "min" in done.stderr and "s | ms | us | ns" in done.stderr


def test_a_request_file_in_another_unit_than_the_node(run, tmp_path):
    (tmp_path / "r.csv").write_text(HEAD + "".join(f"{250 * k},50,9\n" for k in range(41)))
    for unit, rate in (("s", 4.1), ("ms", 4.1e-3)):
        done = run("solve", "--requests", "r.csv", "--trace-time-unit", "ms", "--time-unit", unit,
                   "--out", "x")  # fmt: skip
        assert json.loads(done.stdout)["workload"]["mean_arrival_rate"] == pytest.approx(rate)


def test_requests_that_never_fit_are_dropped_only_if_asked(run, tmp_path):
    rows = "0,300,20\n1,4970,30\n2,20000,10\n3,200,10\n\n4,30000,10\n"  # 5000 just fits
    (tmp_path / "o.csv").write_text(HEAD + rows)
    done = run("simulate", "--requests", "o.csv", *NODE, "--M-total", 5000, "--out", "x")
    assert done.exit_code == 2 and "o.csv:4, row 3" in done.stderr
    assert "2 of 5 requests" in done.stderr and "--drop-oversized" in done.stderr
    done = run("simulate", "--requests", "o.csv", *NODE, "--M-total", 5000, "--out", "x",
               "--drop-oversized", "--no-verbose")  # fmt: skip
    assert done.exit_code == 0 and "dropped 2 rows: longer than the node can hold" in done.stderr
    workload = json.loads(done.stdout)["workload"]
    assert workload["requests"] == 3
    assert workload["dropped"] == {"longer than the node can hold (M_total = 5000)": 2}
    done = run("simulate", "--requests", "o.csv", *NODE, "--M-total", 50, "--drop-oversized")
    assert done.exit_code == 2 and "none of 5 requests" in done.stderr


def test_any_columns_can_be_named(run, tmp_path):
    text = "when (ms),in,out,x\n" + "".join(f"{500 * k},30,{k + 1},a\n" for k in range(20))
    (tmp_path / "c.csv").write_text(text)
    names = "arrival=when (ms),prompt=in,output=out"
    done = run("simulate", "--trace", "c.csv", "--columns", names, *NODE, "--out", "x",
               "--no-verbose")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    workload = json.loads(done.stdout)["workload"]
    assert workload["horizon"] == pytest.approx(9.5) and workload["format"] == "columns"
    for wrong, word in (
        ("arrival=t,prompt=in,output=out", "'t'"),
        ("arrival=x,prompt=in,output=out", "'a'"),
        ("prompt=in", "--columns"),
        ("a=b", "arrival=NAME"),
    ):
        done = run("trace", "convert", "c.csv", "o.csv", "--columns", wrong)
        assert done.exit_code == 2 and word in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "trace convert r.csv r.csv",
        "trace convert r.csv ./r.csv",
        "trace convert r.csv link.csv",
        "trace convert none.csv none/out.csv",
        "trace convert r.csv folder",
        "generate --requests none.csv --output none/out.csv",
        "phase-diagram --output none/map",
        "simulate --requests none.csv --out x --save-state none/state.npz",
        "calibrate run none.csv --config-out none/server.yaml",
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(run, tmp_path, line):
    text = request_file()
    (tmp_path / "r.csv").write_text(text)
    os.symlink("r.csv", tmp_path / "link.csv")
    (tmp_path / "folder").mkdir()
    before = sorted(os.listdir(tmp_path))
    done = run(*line.split())
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert line.split()[-1].removeprefix("./") in done.stderr
    assert (tmp_path / "r.csv").read_text() == text
    assert sorted(os.listdir(tmp_path)) == before


def test_a_file_that_takes_long_to_read_says_how_far_it_is(run, tmp_path, monkeypatch):
    (tmp_path / "r.csv").write_text(request_file())
    assert run("trace", "convert", "r.csv", "o.csv").stderr == ""
    seconds = iter(range(1000))
    monkeypatch.setattr("fluidserve.progress.time.monotonic", lambda: 0.6 * next(seconds))
    said = run("trace", "convert", "r.csv", "o.csv").stderr.splitlines()
    assert said[0] == "reading r.csv: 0 MB" and said[-1] == "read r.csv: 120 requests"


def test_convert_keeps_the_gaps_of_a_request_file(run, tmp_path):
    (tmp_path / "r.csv").write_text(request_file(3600.0))
    run("trace", "convert", "r.csv", "o.csv")
    assert np.diff(read_trace(tmp_path / "o.csv").requests.arrival_time) == pytest.approx(
        np.diff(read_trace(tmp_path / "r.csv").requests.arrival_time), abs=1e-9
    )


def test_lengths_that_never_fit_and_columns_of_a_length_file(run, tmp_path):
    text = "in,out\n" + "300,20\n" * 3 + "20000,10\n"
    (tmp_path / "l.csv").write_text(text)
    node = (*NODE, "--M-total", 5000, "--arrival-rate", 2)
    source = ("--lengths", "l.csv", "--columns", "prompt=in,output=out")
    more = ("--horizon", 100, "--drop-oversized", "--out", "x", "--method", "lagrangian")
    done = run("solve", *source, *node, *more)
    assert done.exit_code == 0, done.stderr
    assert "l.csv: dropped 25 % of the requests: longer than the node can hold" in done.stderr
    workload = json.loads(done.stdout)["workload"]
    assert workload["mean_prefill_length"] == 300 and "scenario" not in workload
    assert workload["mean_arrival_rate"] == pytest.approx(1.5)
    done = run("generate", *source, *node, "--num-requests", 50)
    assert done.exit_code == 2 and "M_total = 5000" in done.stderr
    done = run("solve", *source, *NODE, "--M-total", 50, "--drop-oversized", "--out", "x")
    assert done.exit_code == 2 and "l.csv: no request fits" in done.stderr
    done = run("solve", "--drop-oversized", *NODE)
    assert done.exit_code == 2 and "--drop-oversized needs" in done.stderr


def test_a_sweep_reads_files_by_the_same_options(run, tmp_path):
    (tmp_path / "q.jsonl").write_text(QWEN.replace('"timestamp"', '"at"'))
    (tmp_path / "grid.yaml").write_text(
        "kind: simulate\nbase:\n  trace: q.jsonl\n  time_unit: s\n  d_0: 0.02\n  d_1: 2.0e-5\n"
        "  columns: arrival=at,prompt=input_length,output=output_length\n"
        "  trace_time_unit: us\ngrid: {M_total: [5000, 9000]}\n"
    )
    done = run("sweep", "grid.yaml", "--workers", 1)
    assert done.exit_code == 0, done.stderr
    rows = read_csv(json.loads(done.stdout)["output"])
    assert rows["requests"].tolist() == [30, 30]
    assert rows["mean_arrival_rate"].tolist() == pytest.approx([30 / 29 / 1.9e-6] * 2)
