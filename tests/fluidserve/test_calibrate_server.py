"""A law of a server that computes its prompts, written for the engine that decides like it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from iteration_log import BLOCK, CAPACITY, LAW, served, text


def test_a_law_joins_the_configuration_of_its_server(tmp_path, run):
    (tmp_path / "log").write_text(text(served(seed=1)))
    (tmp_path / "server.yaml").write_text(
        "engine: vllm_v1\nmax_num_seqs: 128\nasync_scheduling: false\nd_0: 7\n"
    )
    sized = ("--kv-capacity", str(CAPACITY), "--block-size", str(BLOCK))
    with_server = ("--config", str(tmp_path / "server.yaml"), "--out", str(tmp_path / "law"))
    run("calibrate", "steps", str(tmp_path / "log"), "--law", "linear", *sized, *with_server)
    written = yaml.safe_load((tmp_path / "law" / "config_used.yaml").read_text())
    assert written["engine"] == "vllm_v1"
    assert written["max_num_seqs"] == 128
    assert written["num_gpu_blocks"] == CAPACITY // 16 + 1
    assert written["d_0"] == pytest.approx(LAW[0], rel=0.02)


SERVER = """engine: vllm_v1
max_num_batched_tokens: 512
num_gpu_blocks: 401
async_scheduling: false
ignore_eos: true
"""
TRUTH = {"d_0": 0.0111, "d_decode": 6e-5, "d_kv": 9e-8, "d_prefill": 4e-5}


@pytest.fixture
def result(run, tmp_path):
    """The result of a client of a server whose law is TRUTH, and what its requests consist of."""
    (tmp_path / "server.yaml").write_text(SERVER)
    rng = np.random.default_rng(0)
    lines = ["arrival_time,prefill_length,decode_length,content"]
    for at, prompt, output in zip(
        np.cumsum(rng.exponential(1 / 8, 200)), rng.integers(120, 700, 200),
        rng.integers(5, 300, 200), strict=True,
    ):  # fmt: skip
        lines.append(f"{at:.6f},{prompt},{output},{rng.integers(1, 4)}:100")
    (tmp_path / "requests.csv").write_text("\n".join(lines) + "\n")
    law = [f"--{key.replace('_', '-')}={value}" for key, value in TRUTH.items()]
    out = run("simulate", "--requests", "requests.csv", "--config", "server.yaml", *law, "--out",
              "run", "--bench-json", "result.json", "--save-detailed", "--no-events")  # fmt: skip
    assert out.exit_code == 0, out.output
    return tmp_path


def test_a_replay_gives_the_law_back_and_simulate_takes_it(run, result):
    options = ("--config", "server.yaml", "--contents", "requests.csv")
    out = run("calibrate", "run", "result.json", *options, "--config-out", "law.yaml")
    assert out.exit_code == 0, out.output
    found = json.loads(out.stdout)
    assert found["reconstructed"] == 1.0
    for each in found["latencies"].values():
        assert each["replayed"] == pytest.approx(each["measured"], rel=0.01)
        assert each["half_width"] < 0.02 * each["measured"]
    law = yaml.safe_load((result / "law.yaml").read_text())
    assert {key: law[key] for key in TRUTH} == pytest.approx(TRUTH, rel=1e-3)
    assert law["num_gpu_blocks"] == 401
    again = run("simulate", "--requests", "requests.csv", "--config", "law.yaml", "--out", "again")
    runs = [json.loads((result / each / "summary.json").read_text()) for each in ("run", "again")]
    assert again.exit_code == 0
    for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms"):
        assert runs[1]["metrics"][name] == pytest.approx(runs[0]["metrics"][name], rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contents", "requests.csv"], "--contents is for a replay: give --config"),
        (["--stalls"], "--stalls is for the configuration that --config-out writes"),
        (["--config", "server.yaml", "--contents", "short.csv"], "short.csv: has 1 requests"),
        (["--config", "node.yaml", "--contents", "requests.csv"], "an engine that computes"),
        (["--config", "blocks.yaml"], "does not say num_gpu_blocks"),
        (["--config", "nobody.yaml"], "nobody.yaml"),
    ],
)
def test_what_has_no_part_in_a_replay_is_refused(run, result, options, words):
    (result / "short.csv").write_text("arrival_time,prefill_length,decode_length\n0,5,5\n")
    (result / "node.yaml").write_text("B: 200\n")
    (result / "blocks.yaml").write_text("engine: vllm_v1\n")
    out = run("calibrate", "run", "result.json", *options)
    assert out.exit_code == 2
    assert words in out.stderr


def test_an_error_of_the_law_is_asked_for_by_an_option(run, result):
    law = [f"--{key.replace('_', '-')}={value}" for key, value in TRUTH.items()]
    asked = ("simulate", "--requests", "requests.csv", "--config", "server.yaml", *law,
             "--law-error", "0.05", "--no-events")  # fmt: skip
    found = json.loads(run(*asked, "--out", "ends").stdout)
    ends = found["within_law_error"]
    assert ends["law_error"] == 0.05
    for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms"):
        assert ends[name][0] < found["metrics"][name] < ends[name][1]
    refused = run(*asked, "--until", "3", "--out", "no")
    assert refused.exit_code == 2
    assert "--law-error repeats a whole run; leave out --until" in refused.stderr
