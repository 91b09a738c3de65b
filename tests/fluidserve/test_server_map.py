"""``fluidserve phase-diagram`` of a server: what is written, drawn and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fluid import saturation
from fluidserve.inputs import load_inputs
from studies.server_map import server_mix

CARD = {"model": "meta-llama/Llama-3.1-8B", "hardware": "RTX4090"}
ON_CARD = ("--model", CARD["model"], "--hardware", CARD["hardware"])
SERVER = (
    "--engine", "vllm_v1", "--num-gpu-blocks", 3000, "--d-0", 0.012, "--d-prefill", 6e-5,
    "--d-decode", 6e-5, "--d-kv", 1e-8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "given"),
    [(ON_CARD, CARD), ((*ON_CARD, "--engine", "vllm_v0", "--max-model-len", 8192),
                       {**CARD, "engine": "vllm_v0", "max_model_len": "8192"})],
    ids=["vllm_v1", "vllm_v0"],
)  # fmt: skip
def test_a_model_on_a_card_is_mapped_as_the_server_that_commands_ask(run, tmp_path, line, given):
    done = run("phase-diagram", *line, "--quick", "--no-engine", "--loads", "0.9,1.04,1.3")
    assert done.exit_code == 0, done.stderr
    said, found = json.loads(done.stdout), json.loads((tmp_path / "phase_diagram.json").read_text())
    node = load_inputs({**given, "arrival_rate": 1.0, "scenario": "normal"}).instance
    assert said["engine_kind"] == node.engine == found["engine_kind"]
    assert said["instance"]["num_gpu_blocks"] == node.num_gpu_blocks  # type: ignore
    assert (tmp_path / "phase_diagram.png").read_bytes()[:4] == b"\x89PNG"
    assert np.array(found["regime"]).shape == (5, 4, 3) and found["points"] == []
    for i, cv in enumerate(found["cv"]):
        for j, ratio in enumerate(found["ratio"]):
            full = saturation(server_mix(cv, ratio), node)
            assert found["binds"][i][j] == full.binds
            assert found["capacity"][i][j] == full.throughput
    assert any("extrapolated" in line for line in said["warnings"]) == (
        max(map(max, found["running"])) > 256
    )


@pytest.mark.slow
def test_the_engine_is_asked_at_marked_points(run, tmp_path):
    done = run("phase-diagram", *SERVER, "--quick", "--loads", "0.7,1.2", "--output", "map")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["engine"] == {"points": 8, "agree": 8, "disagree": []}
    points = json.loads((tmp_path / "map.json").read_text())["points"]
    assert {(p["cv"], p["ratio"]) for p in points} == {(a, b) for a in (0, 0.2) for b in (0.1, 2)}
    again = run("phase-diagram", *SERVER, "--quick", "--loads", "0.7,1.2", "--output", "two")
    assert (tmp_path / "map.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    other = run("phase-diagram", *SERVER, "--quick", "--loads", "0.7", "--seed", 1)
    assert json.loads(again.stdout)["engine"] != json.loads(other.stdout)["engine"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--engine", "vllm_v1"), "is a real server, but the command does not say d_0"),
        (("--d-0", 0.1), "--d-0: the map of a decode_node has a law and a memory of its own"),
        (("--config", "c.yaml"), "--config: the map of a decode_node"),
        (("--engine", "decode_node", *ON_CARD), "--model: the map of a decode_node"),
        (("--engine", "decode_node", "--max-num-seqs", 3), "decode_node has no such key"),
        ((*SERVER, "--mode", "swapping"), "--mode: the engine vllm_v1 has no such key"),
        ((*SERVER, "--max-num-seqs", 0), "--max-num-seqs 0"),
        ((*SERVER, "--remote-prefill"), "no fluid model answers"),
        ((*SERVER, "--scheduling-policy", "priority"), "--approximate"),
        (("--approximate",), "--approximate: the map of a decode node"),
        ((*SERVER[:3], 14, *SERVER[4:]), "give a smaller --mean-decode"),
        (("--model", CARD["model"]), "needs --hardware too"),
    ],
)
def test_what_has_no_map_is_refused_in_one_line(run, tmp_path, line, words):
    (tmp_path / "c.yaml").write_text("seed: 3\n")
    done = run("phase-diagram", *line, "--quick", "--no-engine")
    assert done.exit_code == 2 and done.stdout == "" and words in done.stderr, done.stderr
    assert not list(tmp_path.glob("phase_diagram*"))


def test_settings_that_are_read_as_others_are_said(run):
    asked = (*SERVER, "--scheduling-policy", "priority", "--approximate")
    done = run("phase-diagram", *asked, "--quick", "--no-engine", "--loads", "0.9")
    assert done.exit_code == 0, done.stderr
    assert "approximate: scheduling_policy" in " ".join(json.loads(done.stdout)["warnings"])
