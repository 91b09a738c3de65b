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
    shown = run("solve", "--within", 0.2, *LARGE, "--table", "--out", "c")
    assert f"expected: {result['error']['words']}" in shown.stderr.splitlines()
    named = json.loads(run("solve", "--method", "lagrangian", *LARGE, "--out", "b").stdout)
    assert named["metrics"] == result["metrics"] and named["error"] == result["error"]
    assert "auto" not in named


def test_auto_lets_the_engine_answer_and_says_its_noise(run):
    done = run("solve", "--method", "auto", "--load", 0.9, "--horizon", 400, "--budget", 0.4)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["method"] == result["auto"]["chosen"] == "engine"
    assert [each["method"] for each in result["auto"]["tried"]] == [
        "lagrangian", "node_work", "engine",
    ]  # fmt: skip
    assert f"the mean of {result['stats']['replications']} runs" in result["error"]["words"]
    far = [line for line in result["warnings"] if "nobody is expected to be within" in line]
    bound = max(
        max(-row["low"], row["high"])
        for name, row in result["error"]["metrics"].items()
        if name in ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el")
    )
    assert bool(far) == (bound > 0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "lagrangian", "--within", 0.1), "--within belongs to --method auto"),
        (("--batches-per-step", 2, "--budget", 1), "--budget belongs to --method auto"),
        (("--within", 0), "within 0.0: not allowed"),
        (("--budget", "nan"), "budget"),
    ],
)
def test_what_auto_does_not_take_is_refused(run, words, said):
    done = run("solve", "--load", 0.5, *words)
    assert done.exit_code == 2 and said in done.stderr
    assert not done.stdout


def test_what_only_a_method_can_do_is_done_by_one_with_its_reason(run):
    for words, reason in (
        (("--no-drain",), "until the last has left"),
        (("--initial-waiting", 5), "empty start"),
        (("--queue-policy", "SJF", "--approximate"), "approximate readings"),
    ):
        done = run("solve", "--load", 0.5, "--num-requests", 40, *words)
        assert done.exit_code == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["method"] == "lagrangian" and result["confidence"] == "unknown"
        assert reason in result["error"]["words"]
    own = json.loads(run("solve", "--load", 0.5, "--num-requests", 40, "--step", 0.5).stdout)
    assert own["method"] == "eulerian_jax" and "auto" not in own


def test_of_a_file_the_engine_runs_exactly_its_requests(run):
    run("generate", "--num-requests", 60, "--load", 0.8)
    done = run("solve", "--requests", "requests.csv", "--out", "a")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["method"] == "engine" and result["stats"]["replications"] == 1
    alone = json.loads(run("simulate", "--requests", "requests.csv", "--out", "b").stdout)
    assert result["metrics"] == alone["metrics"]
    assert "exactly these requests" in result["error"]["words"]


def test_analyze_takes_latencies_of_whoever_is_close_enough(run):
    done = run("analyze", "--load", 0.6, "--budget", 0.3, "--out", "a")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["auto"]["chosen"] == "engine" and "runs of the engine" in result["latencies_are"]
    model = json.loads(run("analyze", "--load", 0.6, "--method", "model", "--out", "b").stdout)
    assert "auto" not in model and model["gradients"] == result["gradients"]
    assert model["latencies_are"] == "stationary" and model["metrics"] != result["metrics"]
    wide = json.loads(run("analyze", "--load", 0.6, "--within", 3, "--out", "c").stdout)
    assert wide["auto"]["chosen"] == "stationary" and wide["metrics"] == model["metrics"]
    refused = run("analyze", "--load", 0.6, "--method", "model", "--within", 0.1)
    assert refused.exit_code == 2 and "--within belongs to --method auto" in refused.stderr
