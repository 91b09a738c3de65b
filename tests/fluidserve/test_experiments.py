"""Experiment folders as a collection, by the command and by the scripts that wrap it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tarfile

import pytest


@pytest.fixture
def home(run, tmp_path):
    for name, load in (("calm", 0.5), ("busy", 0.9)):
        run("simulate", "--load", load, "--num-requests", 50, "--out", f"data/experiments/{name}")
    run(
        "solve",
        "--method",
        "lagrangian",
        "--load",
        0.5,
        "--horizon",
        200,
        "--out",
        "data/experiments/deep/flow",
    )
    (tmp_path / "data/experiments/notes").mkdir()
    return tmp_path / "data" / "experiments"


def said(run, *args):
    done = run("experiments", *args)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_list_and_details_say_what_the_folders_say(run, home):
    listed = {each["experiment"]: each for each in said(run, "list")}
    assert set(listed) == {"busy", "calm", "flow"}
    summary = json.loads((home / "busy" / "summary.json").read_text())
    assert listed["busy"]["mean_e2el"] == summary["metrics"]["mean_e2el"]
    assert listed["flow"]["kind"] == "solution"
    details = said(run, "details", "calm")
    assert details["meta"]["seed"] == 42 and details["workload"]["load"] is not None
    assert details["files"]["summary.json"] == (home / "calm" / "summary.json").stat().st_size


def test_compare_gives_values_and_changes(run, home):
    compared = said(run, "compare", "calm", str(home / "busy"))
    e2el = compared["metrics"]["mean_e2el"]
    calm, busy = e2el["values"]
    assert e2el["change"] == [busy / calm - 1] and busy > calm
    assert compared["settings"] == {}


def test_archive_is_whole_and_holds_the_very_files(run, home, tmp_path):
    said(run, "archive", "calm", "busy", "--output", "two.tar.gz")
    with tarfile.open(tmp_path / "two.tar.gz") as tar:
        for name in ("calm/summary.json", "busy/requests.csv"):
            file = tar.extractfile(name)
            assert file is not None and file.read() == (home / name).read_bytes()
    assert (home / "calm").is_dir()


def test_export_has_a_row_for_each(run, home, tmp_path):
    said(run, "export", "--output", "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    said(run, "export", "--output", "all.json")
    again = {row["experiment"]: row for row in json.loads((tmp_path / "all.json").read_text())}
    assert set(rows) == set(again) == {"calm", "busy", "flow"}
    assert float(rows["calm"]["p99_ttft"]) == again["calm"]["p99_ttft"]


def test_stats_count_and_spread(run, home):
    stats = said(run, "stats")
    assert stats["kinds"] == {"run": 2, "solution": 1} and stats["experiments"] == 3
    listed = [each["mean_e2el"] for each in said(run, "list")]
    spread = stats["metrics"]["mean_e2el"]
    assert (spread["min"], spread["max"]) == (min(listed), max(listed))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("details", "nobody"), "nobody is no experiment folder"),
        (("compare", "calm"), "two experiments"),
        (("archive", "calm", "--output", "x.zip"), ".tar.gz"),
        (("archive", "calm", "calm", "--output", "x.tar.gz"), "different names"),
        (("export", "--output", "x.xlsx"), ".csv or .json"),
        (("list", "--home", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_wrong_input_is_one_line(run, home, tmp_path, arguments, expected):
    failed = run("experiments", *arguments)
    assert failed.exit_code == 2 and expected in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("x.*"))


@pytest.fixture
def script(root, tmp_path):
    """Run a script of the project with the Python of this test in place of a new environment."""
    fake = tmp_path / "venv" / "bin"
    fake.mkdir(parents=True)
    import sys

    for name, line in (
        ("python", f'exec "{sys.executable}" "$@"'),
        ("fluidserve", f'exec "{sys.executable}" -m fluidserve "$@"'),
    ):
        (fake / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (fake / name).chmod(0o755)
    lock = "requirements.lock"
    stamp = subprocess.run(
        f"cat pyproject.toml {lock} | cksum", shell=True, cwd=root, capture_output=True, text=True
    ).stdout
    (fake.parent / f".fluidserve-{lock}").write_text(stamp)

    def invoke(name, *args):
        return subprocess.run(
            ["bash", str(root / "scripts" / name), *map(str, args)],
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
            env={**os.environ, "FLUIDSERVE_VENV": str(fake.parent), "PYTHONPATH": str(root)},
        )  # fmt: skip

    return invoke


@pytest.mark.slow
def test_the_scripts_wrap_the_commands(script, home, tmp_path):
    listed = script("manage_experiments.sh", "list", "--home", home)
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)) == 3
    done = script("run_scenarios.sh", "three", "--num-requests", 100)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["metrics"]["mean_e2el"]["values"]) == 3
    assert script("manage_experiments.sh", "details", "nobody").returncode == 2
