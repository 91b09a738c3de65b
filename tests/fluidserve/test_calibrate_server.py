"""A law of a server that computes its prompts, written for the engine that decides like it."""

from __future__ import annotations

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
