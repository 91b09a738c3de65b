"""``solve --method auto``, and the expected error that every answer carries."""

from __future__ import annotations

import json

import pytest

LARGE = ("--scale", 100, "--load", 0.6, "--horizon", 300)


def test_auto_says_who_answers_and_what_a_named_method_would_have_been(run):
    done = run("solve", "--method", "auto", "--within", 0.2, *LARGE, "--out", "a")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["auto"]["chosen"] == result["method"] == "lagrangian"
    (tried,) = result["auto"]["tried"]
    assert tried["error"] == result["error"] and result["confidence"] in {"high", "fair"}
    shown = run("solve", *LARGE, "--table", "--out", "c")
    assert f"expected: {result['error']['words']}" in shown.stderr.splitlines()
    named = json.loads(run("solve", *LARGE, "--out", "b").stdout)
    assert named["metrics"] == result["metrics"] and named["error"] == result["error"]
    assert "auto" not in named


def test_auto_lets_the_engine_answer_and_says_its_noise(run):
    done = run("solve", "--method", "auto", "--load", 0.9, "--horizon", 400, "--budget", 0.4)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["method"] == result["auto"]["chosen"] == "engine"
    assert [each["method"] for each in result["auto"]["tried"]] == ["lagrangian", "node_work"]
    assert f"the mean of {result['stats']['replications']} runs" in result["error"]["words"]
    far = [line for line in result["warnings"] if "give a larger --budget" in line]
    bound = max(
        max(-row["low"], row["high"])
        for name, row in result["error"]["metrics"].items()
        if name in ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el")
    )
    assert bool(far) == (bound > 0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--within", 0.1), "--within belongs to --method auto"),
        (("--method", "auto", "--within", 0), "within 0.0: not allowed"),
        (("--method", "auto", "--no-drain"), "--no-drain"),
        (("--method", "auto", "--initial-waiting", 5), "--initial-waiting"),
        (("--method", "auto", "--batches-per-step", 2), "--batches-per-step needs the method"),
    ],
)
def test_what_auto_does_not_take_is_refused(run, words, said):
    done = run("solve", "--load", 0.5, *words)
    assert done.exit_code == 2 and said in done.stderr
    assert not done.stdout
