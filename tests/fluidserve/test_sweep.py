"""Sweeps: the same bytes on any workers and in any order, after any kill; bad grids are told."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from serving import ConfigError, FluidServeError
from studies.sweeps import Journal, grid_of

GRID = """\
kind: simulate
base: {num_requests: 60, scenario: normal}
grid:
  load: {from: 0.5, to: 0.95, steps: 4}
  seed: [1, 2]
zip:
  - {mode: [swapping, sacrifice], admission_threshold: [1.0, 0.5]}
"""
GRID_40 = """\
base: {num_requests: 500}
grid:
  load: {from: 0.5, to: 0.95, steps: 10}
  seed: [1, 2, 3, 4]
"""
GRID_200 = """\
base: {num_requests: 500}
grid:
  load: {from: 0.5, to: 0.95, steps: 20}
  seed: {from: 1, to: 10, steps: 10}
"""


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    return "grid.yaml"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def started(tmp_path, *args):
    return subprocess.Popen(
        [sys.executable, "-m", "fluidserve", *args], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finished(tmp_path, *args):
    process = started(tmp_path, *args)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


def test_every_point_is_a_row_that_simulate_agrees_with(run, grid, tmp_path):
    result = json.loads(run("sweep", grid, "--workers", 1).stdout)
    assert (result["points"], result["failed"], result["resumed"]) == (16, 0, 0)
    rows = rows_of(tmp_path / "sweep.csv")
    assert [int(row["point"]) for row in rows] == list(range(16))
    assert len({(r["load"], r["seed"], r["mode"]) for r in rows}) == 16
    assert {(r["mode"], r["admission_threshold"]) for r in rows} == {
        ("swapping", "1.0"), ("sacrifice", "0.5"),
    }  # fmt: skip
    row = rows[5]
    alone = json.loads(
        run("simulate", "--num-requests", 60, "--load", row["load"], "--seed", row["seed"],
            "--mode", row["mode"], "--admission-threshold", row["admission_threshold"],
            "--out", "one").stdout
    )  # fmt: skip
    for name, value in alone["metrics"].items():
        assert (None if row[name] == "" else float(row[name])) == value
    assert not (tmp_path / "sweep.csv.journal").exists()


@pytest.mark.parametrize(("kind", "column"), [
    ("solve", "mean_e2el"), ("compare", "lagrangian_nrmse_in_system"),
])  # fmt: skip
def test_the_other_kinds_have_their_columns(run, tmp_path, kind, column):
    more = ", replications: 2" if kind == "compare" else ", method: lagrangian"
    (tmp_path / "g.yaml").write_text(
        f"kind: {kind}\nbase: {{num_requests: 40{more}}}\ngrid: {{load: [0.5, 0.8]}}\n"
    )
    assert json.loads(run("sweep", "g.yaml", "--workers", 1).stdout)["failed"] == 0
    assert all(float(row[column]) > 0 for row in rows_of(tmp_path / "sweep.csv"))


def test_a_point_that_cannot_run_is_a_row_with_an_error(run, tmp_path):
    (tmp_path / "g.yaml").write_text("base: {num_requests: 20}\ngrid: {M_total: [5000, 50]}\n")
    done = run("sweep", "g.yaml", "--workers", 1)
    assert done.exit_code == 0 and "1 of 2 points failed" in done.stderr
    first, second = rows_of(tmp_path / "sweep.csv")
    assert first["error"] == "" and float(first["completed"]) == 20
    assert "50" in second["error"] and second["completed"] == ""


def test_an_interrupted_sweep_says_how_to_go_on(run, grid, tmp_path, monkeypatch):
    import fluidserve.jobs.sweep

    count = [0]
    real = fluidserve.jobs.sweep.row_of

    def interrupted(shared, point):
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        return real(shared, point)

    monkeypatch.setattr(fluidserve.jobs.sweep, "row_of", interrupted)
    stopped = run("sweep", grid, "--workers", 1)
    assert stopped.exit_code == 130 and not (tmp_path / "sweep.csv").exists()
    assert "of 16 points are kept in sweep.csv.journal" in stopped.stderr
    monkeypatch.setattr(fluidserve.jobs.sweep, "row_of", real)
    resumed = json.loads(run("sweep", grid, "--workers", 1).stdout)["resumed"]
    assert 0 < resumed < 6
    whole = (tmp_path / "sweep.csv").read_bytes()
    run("sweep", grid, "--workers", 1, "--output", "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == whole


@pytest.mark.slow
def test_two_hundred_points_killed_in_the_middle_lose_and_double_none(run, tmp_path):
    (tmp_path / "g.yaml").write_text(GRID_200)
    journal = tmp_path / "killed.csv.journal"
    process = started(tmp_path, "sweep", "g.yaml", "--output", "killed.csv", "--workers", "2")
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if journal.exists() and journal.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed.csv").exists()
    with journal.open("ab") as file:  # and what a kill in the middle of a write leaves
        file.write(b'{"digest": "0123456789abcdef", "content": [[199, {"err')
    done = finished(tmp_path, "sweep", "g.yaml", "--output", "killed.csv", "--workers", "2")
    assert 0 < done["resumed"] < 200 and done["failed"] == 0
    rows = rows_of(tmp_path / "killed.csv")
    assert [int(row["point"]) for row in rows] == list(range(200))
    assert len({(row["load"], row["seed"]) for row in rows}) == 200
    assert run("sweep", "g.yaml", "--output", "whole.csv", "--workers", 1).exit_code == 0
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="dask.distributed is not installed"
)
def test_a_dask_cluster_of_two_workers_gives_the_same_bytes(run, tmp_path):
    (tmp_path / "g.yaml").write_text(GRID_40)
    script = (
        "import subprocess, sys\n"
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as it:\n"
        "        sys.exit(subprocess.run([sys.executable, '-m', 'fluidserve', 'sweep', 'g.yaml',\n"
        "            '--output', 'cluster.csv', '--scheduler', it.scheduler_address]).returncode)\n"
    )
    (tmp_path / "cluster.py").write_text(script)
    subprocess.run(
        [sys.executable, "cluster.py"], cwd=tmp_path, check=True, timeout=240, capture_output=True
    )
    assert run("sweep", "g.yaml", "--output", "here.csv", "--workers", 1).exit_code == 0
    assert (tmp_path / "cluster.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert len(rows_of(tmp_path / "cluster.csv")) == 40


def test_a_scheduler_that_is_not_there_is_one_line(run, grid, monkeypatch):
    import studies.sweeps.executors as executors

    if importlib.util.find_spec("distributed") is None:
        assert "needs dask.distributed" in run("sweep", grid, "--scheduler", "tcp://x:1").stderr
        return
    monkeypatch.setattr(executors, "CONNECT", "0.2s")
    failed = run("sweep", grid, "--scheduler", "tcp://127.0.0.1:1")
    assert failed.exit_code == 2 and "no Dask scheduler" in failed.stderr


# The journal


def test_a_journal_keeps_whole_chunks_of_its_own_sweep(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, "sweep", 10)
    journal.add([(3, {"x": 0.1}), (4, {"x": None})])
    journal.add([(3, {"x": 9.9}), (5, {"x": 2})])  # a point that is there already stays
    with pytest.raises(FluidServeError, match="another sweep is writing"):
        Journal(path, "sweep", 10)
    journal.close()
    again = Journal(path, "sweep", 10)
    assert again.rows == {3: {"x": 0.1}, 4: {"x": None}, 5: {"x": 2}}
    again.close()
    with pytest.raises(FluidServeError, match="journal of another sweep"):
        Journal(path, "other", 10)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_a_journal_cut_anywhere_goes_on_from_its_last_whole_chunk(tmp_path, keep):
    path = tmp_path / "j"
    journal = Journal(path, "sweep", 100)
    for i in range(20):
        journal.add([(i, {"x": i / 7})])
    journal.close()
    content = path.read_bytes()
    cut = content[: int(keep * len(content))]
    path.write_bytes(cut)
    journal = Journal(path, "sweep", 100)
    assert len(journal.rows) == max(cut.count(b"\n") - 1, 0)
    assert all(row == {"x": i / 7} for i, row in journal.rows.items())
    for i in range(20):
        journal.add([(i, {"x": i / 7})])
    journal.close()
    assert path.read_bytes() == content


@pytest.mark.parametrize("length", [1, 9, 10, 40])
def test_a_journal_whose_first_line_was_cut_begins_anew(tmp_path, length):
    path = tmp_path / "j"
    Journal(path, "sweep", 3).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    Journal(path, "sweep", 3).close()
    assert path.read_bytes() == whole


def test_a_journal_gives_back_rows_of_points_of_its_sweep_and_no_others(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, "sweep", 3)
    journal.add([(i, {"x": i}) for i in range(-1, 5)])
    journal.close()
    again = Journal(path, "sweep", 3)
    assert again.rows == {0: {"x": 0}, 1: {"x": 1}, 2: {"x": 2}}
    again.close()


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    path = tmp_path / "j"
    path.write_text("my notes\n")
    with pytest.raises(FluidServeError, match="no journal"):
        Journal(path, "sweep", 3)
    assert path.read_text() == "my notes\n"


# The grid


def test_ranges_are_what_one_would_write():
    grid = grid_of(
        {"grid": {"load": {"from": 0.1, "to": 0.7, "steps": 3},
                  "M_total": {"from": 100, "to": 10000, "steps": 3, "spacing": "log"}}},
        ("simulate",),
    )  # fmt: skip
    assert [point["load"] for point in grid.points] == [0.1] * 3 + [0.4] * 3 + [0.7] * 3
    assert [point["M_total"] for point in grid.points[:3]] == [100, 1000, 10000]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: {load: []}", "grid.load"),
        ("grid: {load: 0.5}", "a list of values"),
        ("grid: {load: {from: 1, to: 2}}", "steps"),
        ("grid: {load: {from: 0, to: 2, steps: 3, spacing: log}}", "ends > 0"),
        ("base: {load: 0.5}", "keys with values"),
        ("base: {load: 0.5}\ngrid: {load: [1]}", "one place"),
        ("kind: train\ngrid: {load: [1]}", "simulate | solve | compare"),
        ("loads: 3", "the keys of a grid"),
        ("zip: [{mode: [swapping, sacrifice], seed: [1]}]", "one length"),
        ("grid: {laod: [1]}", "did you mean 'load'"),
        ("grid: {load: [fast]}", "load"),
        ("grid: {load: [1]}\ngrid: {seed: [1]}", "given twice"),
        ("grid: {trace: [nothing.csv]}", "nothing.csv"),
        ("- 3", "holds no keys"),
    ],
)
def test_a_grid_that_is_wrong_is_one_line(run, tmp_path, text, said):
    (tmp_path / "g.yaml").write_text(text + "\n")
    failed = run("sweep", "g.yaml", "--workers", 1)
    assert failed.exit_code == 2 and said in failed.stderr
    assert "g.yaml" in failed.stderr or said == "nothing.csv"
    assert len(failed.stderr.splitlines()) == 1 and not (tmp_path / "sweep.csv").exists()


def test_other_bad_input_is_one_line(run, grid, tmp_path):
    for arguments, said in (
        ((grid, "--output", "a.txt"), ".csv or .parquet"),
        ((grid, "--output", "no/where/a.csv"), "there is no folder"),
        ((grid, "--workers", 0), "a whole number >= 1"),
        (("none.yaml",), "cannot read none.yaml"),
    ):
        failed = run("sweep", *arguments)
        assert failed.exit_code == 2 and said in failed.stderr.replace("\n", " ")
    with pytest.raises(ConfigError):
        grid_of({"grid": {"seed": {"from": 1, "to": 9, "steps": 2**40}}}, ("simulate",))


def test_points_whose_answers_are_limited_say_so_in_their_row_and_at_the_end(run, tmp_path):
    (tmp_path / "g.yaml").write_text(
        "kind: solve\nbase: {num_requests: 20, types: '(100,20,1)', d_prefill: 0.01}\n"
        "grid: {load: [0.2, 0.4]}\n"
    )
    done = run("sweep", "g.yaml", "--workers", 1)
    assert done.exit_code == 0, done.stderr
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 100 tokens at .01 are 1 of time a prompt, so that the share is the rate itself
    for row in rows:
        share = 100 * float(row["mean_arrival_rate"])
        assert f"would take {share:,.0f} % of the time" in row["warnings"]
    assert "warning: 2 of 2 points carry warnings" in done.stderr


SERVED = {"model": "meta-llama/Llama-3.1-8B", "hardware": "RTXPRO6000"}
LAW = {"num_gpu_blocks": 300, "d_0": 0.012, "d_prefill": 6e-5, "d_decode": 6e-5, "d_kv": 1e-8}
ENGINES = {
    "the default": ({}, "load", [0.5, 1.2]),
    "a decode node on a card": ({**SERVED, "engine": "decode_node"}, "load", [0.5]),
    "a decode node by its setting": ({**SERVED, "B": 3000}, "arrival_rate", [3.0]),
    "a model on a card": (SERVED, "load", [0.5]),
    "its settings": ({**SERVED, "arrival_rate": 30}, "max_num_seqs", [4, 64]),
    "its memory": ({**SERVED, "arrival_rate": 3}, "gpu_memory_utilization", [0.4, 0.9]),
    "vllm_v1": ({"engine": "vllm_v1", **LAW, "arrival_rate": 40}, "num_gpu_blocks", [40, 900]),
    "vllm_v0": ({"engine": "vllm_v0", **LAW}, "load", [0.5]),
    "vllm_v0 on a card": ({**SERVED, "engine": "vllm_v0"}, "max_model_len", [4096]),
}
"""What points share, the key that varies and its values."""


def options_of(keys):
    return [part for key, value in keys.items() for part in (f"--{key.replace('_', '-')}", value)]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("kind", ["simulate", "solve", "compare"])
def test_a_point_says_what_the_command_says_for_every_engine(run, tmp_path, name, kind):
    base, key, values = ENGINES[name]
    shared = {k: v for k, v in base.items() if k != key} | {"num_requests": 40}
    if kind == "compare":
        shared |= {"replications": 2, "methods": "lagrangian"}
    if kind == "solve":  # a bound that is met: what a budget stops depends on the machine
        shared |= {"within": 0.5}
    file = {"kind": kind, "base": shared, "grid": {key: values}}
    (tmp_path / "g.yaml").write_text(json.dumps(file))  # JSON is YAML
    done = run("sweep", "g.yaml", "--workers", 1, "--no-verbose")
    assert done.exit_code == 0 and json.loads(done.stdout)["failed"] == 0, done.stderr
    assert "profile:" not in done.stderr  # it is a column, and not said by every point
    more = ("--no-pictures", "--workers", 1) if kind == "compare" else ()
    for row, value in zip(rows_of(tmp_path / "sweep.csv"), values, strict=True):
        asked = run(kind, *options_of({**shared, key: value}), *more, "--out", "one")
        assert asked.exit_code == 0, asked.stderr
        alone = json.loads(asked.stdout)
        assert row["warnings"] == "; ".join(alone["warnings"])
        told = asked.stderr.splitlines()
        told = [line for line in told if line.startswith(("profile:", "note:"))]
        told = [line for line in told if not line.startswith("note: confidence")]
        assert row.get("confidence") == (alone["confidence"] if kind == "solve" else None)
        assert row.get("notes", "") == "; ".join(told)
        for column, of in (("capacity", "capacity"), ("realised_load", "load")):
            assert float(row[column]) == alone["workload"][of]
        expected = {"": alone.get("metrics")}
        if kind == "compare":
            expected = {"discrete_": alone["discrete"]["metrics"]}
            expected |= {"lagrangian_": alone["methods"]["lagrangian"]["metrics"]}
        for prefix, metrics in expected.items():
            for metric, number in metrics.items():
                got = row[prefix + metric]
                assert (None if got == "" else float(got)) == number, metric


def test_a_point_of_a_sweep_carries_the_labels_of_its_answer(run, tmp_path):
    (tmp_path / "g.yaml").write_text(
        "kind: solve\nbase: {num_requests: 40, approximate: true}\ngrid: {queue_policy: [SJF]}\n"
    )
    assert json.loads(run("sweep", "g.yaml", "--workers", 1).stdout)["failed"] == 0
    assert "approximate" in rows_of(tmp_path / "sweep.csv")[0]["warnings"]
