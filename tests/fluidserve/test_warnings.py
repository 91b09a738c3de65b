"""What was assumed about requests and node stands with every answer, on stderr and in the JSON."""

from __future__ import annotations

import json
import re

import pytest

SECONDS = "".join(
    json.dumps({"timestamp": 2 * i + 0.5, "input_length": 40, "output_length": 20}) + "\n"
    for i in range(30)
)
"""Keys of Mooncake, whose timestamps are milliseconds, with timestamps that can only be seconds."""

ANSWERS = {
    "simulate": (),
    "solve": ("--method", "lagrangian"),
    "analyze": ("--method", "model"),
    "compare": ("--replications", 2, "--methods", "lagrangian", "--no-pictures"),
}


@pytest.mark.parametrize("command", ANSWERS)
def test_a_unit_that_was_seen_in_the_times_is_said_with_every_answer(run, tmp_path, command):
    (tmp_path / "t.jsonl").write_text(SECONDS)
    done = run(command, "--trace", "t.jsonl", "--out", "x", *ANSWERS[command])
    assert done.exit_code == 0, done.stderr
    (said,) = [line for line in json.loads(done.stdout)["warnings"] if "is read in s" in line]
    assert f"warning: {said}" in done.stderr.splitlines()


@pytest.mark.parametrize("command", [*ANSWERS, "tune"])
def test_toy_defaults_under_real_times_are_said_with_every_answer(run, command):
    real = ("--time-unit", "s", "--d-0", 0.02, "--d-1", 1e-5, "--B", 5000)
    more = {
        **ANSWERS,
        "tune": ("--bracket", "1:20", "--run-length", 3000, "--max-run-length", 3000,
                 "--replications", 3, "--tolerance", 0.5),
    }[command]  # fmt: skip
    words = {"tune": ("tune", "max-rate"), "analyze": ("analyze",)}.get(
        command, (command, "--num-requests", 40)
    )
    done = run(*words, *real, *(() if command == "tune" else ("--load", 0.5)), *more)
    assert done.exit_code == 0, done.stderr
    (said,) = [line for line in json.loads(done.stdout)["warnings"] if "toy node" in line]
    assert "M_total = 10000" in said and "B =" not in said
    assert f"warning: {said}" in done.stderr.splitlines()


SHORT_OF_MEMORY = (
    "simulate", "--engine", "vllm_v0", "--d-0", 0.01, "--d-decode", 1e-4, "--d-kv", 1e-6,
    "--d-prefill", 1e-4, "--num-requests", 60, "--arrival-rate", 30, "--json",
)  # fmt: skip


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (
            ("--num-gpu-blocks", 20, "--preemption-mode", "swap", "--num-cpu-blocks", 3),
            "swap_space_exhausted",
            "the run ended as swap_space_exhausted at ",
        ),
        (
            ("--num-gpu-blocks", 12, "--preemption-mode", "swap", "--watermark", 0.1),
            "stuck",
            "the run ended as stuck at ",
        ),
        (("--num-gpu-blocks", 12), "finished", " of 60 requests were ignored, as vLLM ignores"),
    ],
)
def test_a_run_says_who_got_no_whole_answer(run, more, status, words):
    done = run(*SHORT_OF_MEMORY, *more)
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    (warning,) = (line for line in said["warnings"] if words in line)
    assert said["status"] == status and f"warning: {warning}" in done.stderr
    left = sum(map(int, re.findall(r"(\d+) of 60", " ".join(said["warnings"]))))
    assert said["metrics"]["completed"] == 60 - left > 0
