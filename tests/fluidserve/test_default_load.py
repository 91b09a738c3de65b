"""Generated requests without a rate have a load that the node bears, and a note says so."""

from __future__ import annotations

import json

import pytest

from fluidserve.inputs import DEFAULT_LOAD

NOTE = "note: no rate was given, the load is 0.8 of capacity; see --load\n"
PROFILE = ("--model", "Llama-3.1-8B", "--hardware", "RTX4090")


@pytest.mark.parametrize(
    "workload",
    [
        (),
        ("--scenario", "heavy"),
        ("--scenario", "bursty"),
        ("--lengths", "r.csv"),
        ("--scale", 10),
        PROFILE,
    ],
)
def test_without_a_rate_the_node_bears_the_load(run, tmp_path, workload):
    (tmp_path / "r.csv").write_text("arrival_time,prefill_length,decode_length\n0,20,30\n1,9,5\n")
    done = (
        run("generate", "--horizon", 1, *workload)
        if workload == PROFILE
        else run("generate", *workload)
    )
    found = json.loads(done.stdout)["workload"]
    if workload != ("--scenario", "bursty"):  # 100 requests end within a burst
        assert found["load"] == pytest.approx(DEFAULT_LOAD)
    assert done.stderr.endswith(NOTE) and found["note"] in NOTE


@pytest.mark.parametrize(
    "workload",
    [
        ("--load", 0.5),
        ("--arrival-rate", 0.01),
        ("--types", "(20,20,0.01)"),
        ("--requests", "r.csv"),
    ],
)
def test_a_rate_that_is_given_is_kept(run, tmp_path, workload):
    (tmp_path / "r.csv").write_text("arrival_time,prefill_length,decode_length\n0,20,30\n99,9,5\n")
    done = run("generate", *workload)
    assert done.stderr == "" and "note" not in json.loads(done.stdout)["workload"]


def test_a_bare_simulate_and_solve_are_not_overloaded(run):
    for command in ("simulate", "solve"):
        who = ("--method", "lagrangian") if command == "solve" else ()
        done = run(command, "--no-verbose", *who)  # a slow machine would say how far it is
        assert done.exit_code == 0 and done.stderr == NOTE
        assert json.loads(done.stdout)["warnings"] == []


def test_a_search_for_a_rate_has_no_note_and_one_for_memory_has(run):
    few = ("--no-verbose", "--run-length", 2000, "--max-run-length", 2000, "--replications", 3)
    assert "note" not in run("tune", "max-rate", *few, "--bracket", "0.02:0.2").stderr
    assert NOTE in run("tune", "M-total", *few, "--bracket", "2000:9000").stderr
