"""Closed loops from the command line: what is written, said and refused."""

from __future__ import annotations

import csv
import json

import pytest

SERVER = (
    "--engine", "vllm_v1", "--num-gpu-blocks", 2000, "--d-0", 0.012, "--d-prefill", 6e-5,
    "--d-decode", 6e-5, "--d-kv", 1e-8,
)  # fmt: skip
TALK = ("--sessions", 6, "--turns", 3, "--think-time", 2, "--closed-loop", "--num-requests", 60)


def rows(folder, name):
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def test_clients_and_a_file_of_their_sessions_give_the_same_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = run("simulate", *SERVER, *TALK, "--out", "a", "--no-verbose")
    assert drawn.exit_code == 0, drawn.stderr
    said = json.loads(drawn.stdout)
    assert said["workload"]["mean_arrival_rate"] is None and said["workload"]["horizon"] is None
    written = run("generate", *TALK, "--output", "talk.csv")
    assert written.exit_code == 0, written.stderr
    again = run("simulate", *SERVER, "--requests", "talk.csv", "--out", "b", "--no-verbose")
    assert again.exit_code == 0, again.stderr
    first, second = (rows(tmp_path / name, "request_traces.csv") for name in "ab")
    # times of a file count from its first request
    shift = float(first[0]["arrival_time"])
    for one, other in zip(first, second, strict=True):
        assert one["req_id"] == other["req_id"] and one["cached_tokens"] == other["cached_tokens"]
        for key in ("arrival_time", "completion_time", "first_token_time"):
            assert float(one[key]) - shift == pytest.approx(float(other[key]), abs=1e-9)
    sent = [float(row["arrival_time"]) for row in first]
    assert sent == sorted(sent) and [int(row["req_id"]) for row in first] != sorted(
        int(row["req_id"]) for row in first
    )
    # the request file of the folder is the question, not what came of it
    assert len({row["arrival_time"] for row in rows(tmp_path / "a", "requests.csv")}) == 6


def test_a_limit_is_kept_and_told_to_other_projects(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(
        "simulate", *SERVER, "--arrival-rate", 1000, "--num-requests", 80, "--max-concurrency", 7,
        "--out", "a", "--no-verbose", "--bench-json", "bench.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "bench.json").read_text())
    assert told["max_concurrency"] == 7
    events = [
        (float(row[key]), step)
        for row in rows(tmp_path / "a", "request_traces.csv")
        for key, step in (("arrival_time", 1), ("completion_time", -1))
    ]
    here, most = 0, 0
    for _, step in sorted(events):
        here += step
        most = max(most, here)
    assert most == 7


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("simulate", *TALK), "engine decode_node does not know turns"),
        (("simulate", "--max-concurrency", 3), "vllm_v1 can"),
        (("analyze", *SERVER, *TALK[:-2]), "no rate of their own"),
        (("tune", "max-rate", *SERVER, *TALK[:-2], "--slo", "mean_ttft<1"), "no rate"),
        (("simulate", *SERVER, "--max-concurrency", 0), "whole number >= 1"),
        (("simulate", *SERVER, "--turns", 3, "--think-time", 2, "--closed-loop"), "arrival_rate"),
    ],
)
def test_what_has_no_answer_is_refused(run, tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    done = run(*line)
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") <= 2


def warnings_of(done):
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["warnings"]


def test_a_run_names_the_values_that_a_fluid_model_tells_beside_it(run):
    closed = warnings_of(run("simulate", *SERVER, *TALK, "--out", "a"))
    fluid = [line for line in closed if line.startswith(("conversations", "prefix hits"))]
    assert len(fluid) == 2
    assert all("the capacity told here is for" in line and "the run " in line for line in fluid)
    assert not any("load" in line or "fluid models" in line for line in closed)
    # the same turns at times of their own have a load as well; a solve is the model's own answer
    open_loop = ("--sessions", 6, "--turns", 3, "--think-time", 2, "--num-requests", 60)
    seen = warnings_of(run("simulate", *SERVER, *open_loop, "--out", "b"))
    assert sum("the capacity and load told here are for" in line for line in seen) == 2
    solved = warnings_of(run("solve", "--method", "lagrangian", *SERVER, *open_loop, "--out", "c"))
    assert sum("fluid models, and the load and capacity" in line for line in solved) == 2


def test_a_limit_of_the_clients_makes_no_queue_grow(run):
    rate = ("--arrival-rate", 1000, "--num-requests", 40)
    limited = run("simulate", *SERVER, *rate, "--max-concurrency", 3, "--out", "a")
    assert "waits at the clients" in (said := " ".join(warnings_of(limited)))
    assert "queues grow" not in said
    assert "queues grow" in " ".join(warnings_of(run("simulate", *SERVER, *rate, "--out", "b")))
