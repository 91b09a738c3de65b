"""A second kind of engine at every door of the command line: it runs, or is answered in words."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from toy_engine import REFUSAL, TOY, ToyNode

import discrete
from fluidserve.config import flat, instance_of, load_config
from fluidserve.settings import all_settings, defaults_in_words
from serving import (
    KINDS,
    ConfigError,
    DecodeNode,
    FileAccessError,
    UnsupportedError,
    WorkloadError,
    setting,
)
from studies import Question, Replications, analyze, compare, run_ensemble
from workload import describe, generate, write_requests

REFERENCES = Path(__file__).resolve().parents[1] / "references"
PROGRAM = """
import json, sys
sys.path.insert(0, {references!r})
from toy_engine import TOY
from serving import register
register(TOY)
from click.testing import CliRunner
from fluidserve.cli import cli
for line in json.load(sys.stdin):
    done = CliRunner().invoke(cli, line)
    print(json.dumps([done.exit_code, done.stdout, done.stderr, repr(done.exception)]))
"""


@dataclass(frozen=True)
class Done:
    status: int
    stdout: str
    stderr: str
    exception: str


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(KINDS, "toy", TOY)
    return ToyNode()


def commands(folder: Path, *lines: str) -> list[Done]:
    """Run command lines in a process of its own, in which the toy is registered."""
    program = PROGRAM.format(references=str(REFERENCES))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, text=True, capture_output=True, check=True,
        input=json.dumps([shlex.split(line) for line in lines]),
    )  # fmt: skip
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


def test_it_runs_and_its_files_can_be_run_drawn_and_listed_again(tmp_path):
    first, again, drawn, listed = commands(
        tmp_path,
        "simulate --engine toy --num-requests 20 --slots 300 --out e1",
        "simulate --config e1/config_used.yaml --out e2",
        "plot e1",
        "experiments compare e1 e2 --home .",
    )
    assert [each.status for each in (first, again, drawn, listed)] == [0] * 4, drawn.exception
    said = json.loads(first.stdout)
    assert said["engine"] == "toy" and said["instance"]["slots"] == 300
    assert said["metrics"]["completed"] == 20 and said["metrics"]["evictions"] is None
    assert said["workload"]["capacity"] is None and said["workload"]["load"] is None
    header = (tmp_path / "e1" / "batch_snapshots.csv").read_text().splitlines()[0]
    assert header.split(",") == [column.name for column in TOY.snapshot]
    assert "toy with 300 slots" in (tmp_path / "e1" / "summary.txt").read_text()
    traces = [(tmp_path / e / "request_traces.csv").read_bytes() for e in ("e1", "e2")]
    assert traces[0] == traces[1]
    assert (tmp_path / "e1" / "system_dynamics.png").stat().st_size > 10_000
    assert (tmp_path / "e1" / "request_timeline.png").stat().st_size > 10_000


def test_a_saved_state_goes_on_and_leaves_a_configuration_that_runs(tmp_path):
    half, rest, refused, again = commands(
        tmp_path,
        "simulate --engine toy --num-requests 20 --at-batch 9 --save-state state --out e1",
        "simulate --resume state --out e2",
        "simulate --resume state --engine decode_node --out e3",
        "simulate --config e2/config_used.yaml --out e4",
    )
    assert half.status == rest.status == again.status == 0, (half, rest, again)
    assert refused.status == 2 and "--engine: a state brings its own" in refused.stderr
    traces = [(tmp_path / e / "request_traces.csv").read_bytes() for e in ("e1", "e2", "e4")]
    assert traces[0] == traces[1] == traces[2]


ANSWERS = {
    "solve --engine toy --method lagrangian": REFUSAL,
    "solve --engine toy --method node_work": REFUSAL,
    "compare --engine toy --num-requests 9": REFUSAL,
    "analyze --engine toy": REFUSAL,
    "simulate --engine toy --load 0.5": "capacity is not known; --arrival-rate sets the rate",
    "simulate --engine toy --requests requests.csv --load 0.5": "--rate-scale sets the rate",
    "tune max-rate --engine toy": REFUSAL,
    "tune M-total --engine toy": "max-rate | slots",
    "simulate --engine toy --M-total 500": "the engine toy has no such key, decode_node has",
    "simulate --slots 5": "the engine decode_node has no such key, toy has",
    "simulate --engine toy --slots 9": "allowed: <= slots = 9",
    "simulate --engine toy --d-1 0.1": "unknown config key 'd_1'",
    "simulate --engine toy --slots 0": "a whole number >= 1",
    "simulate --engine nothing": "decode_node | vllm_v1 | vllm_v0 | toy",
    "simulate --engine vllm_v1": "--num-gpu-blocks",
    "simulate --engine toy --inject requests.csv": "takes no other requests",
}


def test_what_it_cannot_do_is_said_in_one_line(tmp_path):
    write_requests(generate(num_requests=5), tmp_path / "requests.csv")
    for line, done in zip(ANSWERS, commands(tmp_path, *ANSWERS), strict=True):
        assert done.status == 2, (line, done)
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1, (line, done)
        assert ANSWERS[line] in done.stderr, (line, done)
    assert [each.name for each in tmp_path.iterdir()] == ["requests.csv"]


def test_profiles_knobs_and_help_know_it(tmp_path):
    profiled, tuned, help_text = commands(
        tmp_path,
        "simulate --engine toy --num-requests 5 --model Llama-3.1-8B --hardware RTX4090",
        "tune max-rate --engine toy --bracket 0.2:3 --run-length 2000 --tolerance 0.1"
        " --replications 4",
        "simulate --help",
    )
    assert profiled.status == tuned.status == help_text.status == 0, (profiled, tuned)
    instance = json.loads(profiled.stdout)["instance"]
    assert instance["slots"] == 44384 and instance["time_unit"] == "s"
    assert "d_decode" not in instance and instance["d_0"] > 0
    said = json.loads(tuned.stdout)
    mix = describe("normal").mix
    served = float(mix.probability @ (1 + 0.001 * (mix.prefill + mix.decode)))
    assert said["value"] == pytest.approx(1 / served, rel=0.15)
    assert said["capacity"] is None and any("scout" in line for line in said["warnings"])
    words = " ".join(help_text.stdout.split())
    assert "tokens that the one request may have" in words and "[engine toy]" in words
    assert "[engine decode_node]" in words


def test_coefficients_that_it_does_not_spend_are_none(toy):
    """The law's own defaults are no part of the law of a kind that has no such key."""
    config = load_config(flags={"engine": "toy", "d_0": 2.0, "d_kv": 0.5})
    node = instance_of(config)
    assert float(node.batch_time.duration(10, 4)) == 2.0 + 0.5 * (10 - 4)
    assert instance_of(load_config(flags=flat(node))) == node


def test_keys_of_two_kinds_allow_what_either_does_and_show_both_defaults(monkeypatch):
    other = make_dataclass(
        "Other",
        [
            ("time_unit", str, setting("s", "unit", choices=("s", "h"))),
            ("M_total", int | None, setting(None, "KV memory", minimum=1)),
        ],
        frozen=True,
    )
    monkeypatch.setitem(KINDS, "other", replace(TOY, name="other", settings=other))
    both = all_settings()
    assert both["time_unit"].rules["choices"] == ("none", "s", "ms", "h")
    in_words = "none for decode_node, s for vllm_v1, s for vllm_v0, s for other"
    assert defaults_in_words(both["time_unit"]) == in_words
    assert both["M_total"].optional and both["M_total"].kinds == ("decode_node", "other")
    wrong = make_dataclass("Wrong", [("M_total", str, setting("a", "KV memory"))], frozen=True)
    monkeypatch.setitem(KINDS, "other", replace(TOY, name="other", settings=wrong))
    with pytest.raises(ConfigError, match="M_total"):
        all_settings()


def test_a_sweep_runs_it_and_says_what_it_cannot(tmp_path):
    grid = "kind: simulate\nbase: {engine: toy, num_requests: 8}\ngrid: {slots: [200, 9]}\n"
    (tmp_path / "grid.yaml").write_text(grid)
    (done,) = commands(tmp_path, "sweep grid.yaml --output rows.csv --workers 1")
    assert done.status == 0, done
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 3 and "slots = 9" in rows[2]


def test_python_runs_saves_and_resumes_it(toy, tmp_path):
    table = generate(num_requests=30, seed=4)
    whole = discrete.engine_for(table, toy)
    whole.advance()
    engine = discrete.engine_for(table, toy)
    assert engine.advance(batches=7) == discrete.Stop.BATCHES
    discrete.save_state(engine, tmp_path / "state")
    later = discrete.resume(tmp_path / "state")
    assert later.instance == toy and later.advance() == discrete.Stop.FINISHED
    done = [each.run().requests["completion_time"] for each in (whole, later)]
    assert done[0].tobytes() == done[1].tobytes()
    run = whole.run()
    assert run.metrics().completed == 30 and np.isnan(run.metrics().memory_utilization)
    t = np.linspace(0, run.duration, 200)
    seen = run.trajectory(t)
    assert (seen("in_system", t) >= seen("running", t)).all()


def test_a_state_of_an_engine_that_is_not_here_is_refused(toy, tmp_path, monkeypatch):
    discrete.save_state(discrete.engine_for(generate(num_requests=3), toy), tmp_path / "state")
    monkeypatch.delitem(KINDS, "toy")
    with pytest.raises(FileAccessError, match="a state of the engine 'toy'; engines: decode_node"):
        discrete.resume(tmp_path / "state")


def test_studies_replicate_it_and_refuse_what_needs_a_fluid(toy):
    question = Question(describe("normal"), toy, num_requests=40)
    ensemble = run_ensemble(question, Replications(4, workers=1))
    assert ensemble.metrics is not None and ensemble.metrics.completed > 30
    assert np.isnan(question.capacity) and np.isnan(question.load)
    for ask in (
        lambda: compare(question, replications=Replications(2)),
        lambda: analyze(question),
        lambda: question.at_load(0.5),
    ):
        with pytest.raises(UnsupportedError, match=REFUSAL):
            ask()
    with pytest.raises(WorkloadError, match="slots = 20"):
        _ = Question(describe("normal"), ToyNode(slots=20), num_requests=40).requests


def test_the_default_kind_is_as_it_was(toy):
    assert Question(describe("normal"), DecodeNode(), num_requests=5).capacity > 0
