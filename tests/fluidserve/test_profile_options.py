"""A profile on every command that takes an instance; ``profiles`` and ``calibrate run``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from chunked_prefill_server import serve
from served import Served, exposition

import discrete
from calibration.profiles.serving_defaults import GIVEN, OF_THE_CARD
from fluidserve.config import instance_of, load_config
from serving import BatchTimeLaw, DecodeNode, RequestTable

PROFILE = ("--model", "meta-llama/Llama-3.1-8B-Instruct", "--hardware", "rtx4090")
NODE = ("--engine", "decode_node")


@pytest.mark.parametrize("command", ["simulate", "solve", "compare"])
def test_a_profile_sets_law_unit_and_memory(run, tmp_path, command):
    more = {
        "compare": ("--replications", 2, "--methods", "lagrangian"),
        "solve": ("--method", "lagrangian"),
    }.get(command, ())
    done = run(command, *NODE, *PROFILE, "--load", 0.5, "--num-requests", 60, "--out", "x", *more)
    assert done.exit_code == 0, done.stderr
    assert "profile: meta-llama/Llama-3.1-8B on 1 x RTX4090: measured" in done.stderr
    used = yaml.safe_load((tmp_path / "x" / "config_used.yaml").read_text())
    assert used["time_unit"] == "s" and used["B"] is None
    assert 40_000 < used["M_total"] < 50_000
    assert used["d_0"] == pytest.approx(0.017, rel=0.02)


def test_flags_and_file_win_over_a_profile(run, tmp_path):
    (tmp_path / "c.yaml").write_text("M_total: 7000\nd_1: 0.5\n")
    done = run("simulate", *PROFILE, "--config", "c.yaml", "--d-0", 3, "--num-requests", 9,
               "--out", "x")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    node = instance_of(load_config(tmp_path / "x" / "config_used.yaml"))
    assert (node.M_total, node.time_unit, node.B) == (7000, "s", None)
    law = node.batch_time
    assert (law.d_0, law.d_decode, law.d_kv, law.d_decode_table) == (3.0, 0.5, 0.5, None)
    assert law.d_prefill_table is None and law.measured_requests is None  # of another law


def test_a_coefficient_that_is_given_alone_changes_the_profile_s_law(run, tmp_path):
    done = run("simulate", *NODE, *PROFILE, "--d-0", 0.03, "--num-requests", 9, "--out", "x")
    assert done.exit_code == 0, done.stderr
    law = instance_of(load_config(tmp_path / "x" / "config_used.yaml")).batch_time
    assert law.d_0 == 0.03 and law.d_decode > 0
    assert law.d_prefill_table is not None and law.most_requests == 256


def test_a_law_of_a_file_takes_no_term_of_the_profile_beside_it(run, tmp_path):
    """A table of another law on top of a line would be a wrong number without a word."""
    (tmp_path / "own.yaml").write_text(
        "time_unit: s\nd_0: 0.02\nd_decode: 1.0e-5\nd_kv: 1.0e-7\nd_prefill: 1.0e-4\nB: null\n"
        "M_total: 90000\n"
    )
    mixture = ("--model", "Qwen/Qwen3-30B-A3B", "--hardware", "RTXPRO6000")
    done = run(
        "simulate", *NODE, *mixture, "--config", "own.yaml", "--num-requests", 9, "--out", "x"
    )
    assert done.exit_code == 0, done.stderr
    law = instance_of(load_config(tmp_path / "x" / "config_used.yaml")).batch_time
    assert law == BatchTimeLaw(d_0=0.02, d_decode=1e-5, d_kv=1e-7, d_prefill=1e-4)


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("simulate", ("--num-requests", 60)), ("analyze", ("--method", "model")),
        ("solve", ("--num-requests", 60, "--method", "lagrangian")),
        ("compare", ("--num-requests", 60, "--replications", 2, "--methods", "lagrangian",
                     "--no-pictures")),
    ],
)  # fmt: skip
def test_every_answer_says_how_much_prefill_it_leaves_out(run, tmp_path, command, more):
    done = run(command, *NODE, *PROFILE, "--load", 0.5, "--out", "x", *more)
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert done.exit_code == 0, done.stderr
    (line,) = [each for each in summary["warnings"] if each.startswith("prefill is left out")]
    assert f"warning: {line}" in done.stderr
    assert json.loads(done.stdout)["warnings"] == summary["warnings"]
    pages = [path.read_text() for path in (tmp_path / "x").glob("*.html")]
    assert all("refill is left out" in page for page in pages)
    # a configuration of the run keeps what a run of it must say
    args = ("--config", "x/config_used.yaml", "--load", 0.5)
    named = "x/requests.csv" if command in ("simulate", "compare") else None
    again = run(command, *(("--config", "x/config_used.yaml") if named else args), "--out", "y",
                *more)  # fmt: skip
    assert again.exit_code == 0 and "prefill is left out" in again.stderr


def test_generate_takes_a_profile_for_its_load(run):
    done = run("generate", *PROFILE, "--tp", 2, "--load", 0.5, "--num-requests", 9,
               "--output", "r.csv")  # fmt: skip
    assert done.exit_code == 0 and "estimated" in done.stderr, done.stderr


def test_list_and_show(run):
    listed = json.loads(run("profiles", "list").stdout)
    assert any(each["hardware"] == "RTX4090" for each in listed["measured"])
    assert listed["estimates"]["expected_error"]["decode"] < 0.1
    shown = json.loads(run("profiles", "show", "--model", "llama-3.1-8b", "--hardware", "RTX3090")
                       .stdout)  # fmt: skip
    assert shown["origin"] == "estimated" and shown["config"]["M_total"] == shown["kv_capacity"]
    served = shown["vllm_serve"]
    assert served["settings"]["max_num_seqs"] == {"value": 256, "origin": OF_THE_CARD}
    assert served["kv_capacity"] == 16 * served["num_gpu_blocks"]
    rest = served["memory_gib"]["usable"] - sum(
        value for key, value in served["memory_gib"].items() if key != "usable"
    )
    assert served["num_gpu_blocks"] == int(rest * 2**30 // (16 * 2**17))  # 128 KiB per token
    older = ("--vllm-version", "0.6.3", "--max-model-len", 8192, "--gpu-memory-utilization", 0.8)
    old = json.loads(run("profiles", "show", *PROFILE, *older).stdout)["vllm_serve"]["settings"]
    assert old["max_num_batched_tokens"]["value"] == 8192
    assert old["gpu_memory_utilization"] == {"value": 0.8, "origin": GIVEN}
    again = json.loads(run("profiles", "show", *PROFILE).stdout)
    assert again["licence"] == "MIT" and "LLMServingSim" in again["source"]


WRONG = [
    ("solve --model llama-3.1-8b", ["--model", "--hardware"]),
    ("solve --hardware H100", ["--hardware", "--model"]),
    ("solve --tp 2", ["--tp", "--model"]),
    ("solve --model nope --hardware H100", ["--model nope", "known are", "Llama-3.1-8B"]),
    ("solve --model llama-3.1-8b --hardware H1000", ["--hardware H1000", "H100", "known are"]),
    ("solve --model llama-3.1-8b --hardware H100 --tp 0", ["tp", "0", ">= 1"]),
    ("solve --model llama-3.1-8b --hardware H100 --gpu-memory-utilization 2",
     ["--gpu-memory-utilization 2", "<= 1"]),
    ("solve --model llama-3.1-8b --hardware H100 --time-unit none",
     ["--time-unit none", "real times"]),
    ("solve --model llama-3.1-70b --hardware L4", ["131.4 GiB", "--tp"]),
    ("profiles show --model nope --hardware H100", ["--model nope"]),
    ("profiles show --model llama-3.1-8b --hardware H100 --vllm-version 0.11", ["0.11", "0.33"]),
    ("profiles show --model llama-3.1-8b --hardware H100 --vllm-version 0.6.3", ["max_model_len"]),
    ("calibrate run nope.csv", ["nope.csv", "No such file"]),
    ("calibrate run empty.csv", ["empty.csv", "empty"]),
    ("calibrate run other.csv", ["other.csv", "vllm bench serve"]),
    ("calibrate run other.csv --interval 0", ["--interval", "0", "> 0"]),
    ("calibrate run windows.csv --kv-capacity 0", ["kv_capacity", "0"]),
    ("calibrate run windows.csv --windows 0", ["windows", "0"]),
    ("calibrate run windows.csv --config-out none/x.yaml", ["none/x.yaml", "No such file"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words"), WRONG)
def test_wrong_input_is_one_line_and_status_2(run, tmp_path, line, words):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    rows = [f"{t},{10 + t % 7},0,{t % 5 + 1},{t % 11 * 100}" for t in range(40)]
    head = "t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens"
    (tmp_path / "windows.csv").write_text("\n".join([head, *rows]) + "\n")
    done = run(*line.split())
    assert done.exit_code == 2
    assert done.stdout == ""
    said = [each for each in done.stderr.splitlines() if not each.startswith(("note", "profile"))]
    assert len(said) == 1
    for word in words:
        assert word in said[0], said


def test_calibrate_run_prints_the_law_and_writes_a_configuration(run, tmp_path):
    rng = np.random.default_rng(0)
    long = np.arange(500) // 50 % 2 == 1
    table = RequestTable.validated(
        np.cumsum(rng.exponential(np.where(long, 0.3, 0.05))),
        np.where(long, 2000, 50), rng.integers(50, 200, 500),
    )  # fmt: skip
    law = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=1e-7)
    node = DecodeNode(law, time_unit="s", M_total=160_000, B=None)
    times, metrics = Served.of_run(discrete.simulate(table, node)).metrics(1.0, 160_000)
    (tmp_path / "m.txt").write_text(exposition(times, metrics, 160_000))
    done = run("calibrate", "run", "m.txt", "--decode-node", "--config-out", "law.yaml")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["kind"] == "metrics" and said["law"]["d_prefill"]["value"] is None
    assert said["kv_capacity"]["value"] == 160_000
    assert said["law"]["d_0"]["value"] == pytest.approx(0.01, rel=0.05)
    config = load_config(tmp_path / "law.yaml")
    assert config.time_unit == "s" and config.M_total == 160_000
    assert config.d_kv == pytest.approx(said["law"]["d_kv"]["value"], rel=1e-4)


def test_the_law_of_a_run_is_used_with_a_stated_memory_or_asks_for_one(run, tmp_path):
    """A client sees no memory: the file of its law says so, and no command takes a toy's."""
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(np.where(np.arange(120) // 20 % 2, 0.4, 0.1)))
    served = serve(arrival, rng.integers(10, 900, 120), rng.integers(20, 90, 120),
                   (0.011, 4e-5, 6e-5, 1e-7), noise=0.02)  # fmt: skip
    (tmp_path / "run.csv").write_text(served.csv())
    calibrate = ("calibrate", "run", "run.csv", "--config-out")
    done = run(*calibrate, "a.yaml")
    assert done.exit_code == 0 and "note: a.yaml lacks the KV memory" in done.stderr
    said = json.loads(done.stdout)["warnings"]
    assert said and all(f"warning: {each}" in done.stderr for each in said)
    simulate = ("simulate", "--num-requests", 60, "--load", 0.5, "--config")
    refused = run(*simulate, "a.yaml")
    assert refused.exit_code == 2 and refused.stdout == ""
    assert "a.yaml: times are in s" in refused.stderr and "M_total" in refused.stderr
    for arguments in (("a.yaml", "--M-total", 80_000), ("a.yaml", *PROFILE)):
        assert run(*simulate, *arguments).exit_code == 0
    assert run(*calibrate, "b.yaml", "--kv-capacity", 80_000).exit_code == 0
    assert "# KV memory [tokens]: --kv-capacity." in (tmp_path / "b.yaml").read_text()
    done = run(*simulate, "b.yaml")
    assert done.exit_code == 0, done.stderr
    warnings = json.loads(done.stdout)["warnings"]
    assert any("prefill is left out" in each for each in warnings)
    assert not any("toy" in each for each in warnings)


def test_flags_in_real_time_that_leave_the_rest_to_the_toy_are_warned_of(run):
    flags = ("simulate", "--time-unit", "s", "--d-0", 0.02, "--d-1", 1e-7, "--num-requests", 20)
    (line,) = [each for each in json.loads(run(*flags).stdout)["warnings"] if "toy" in each]
    assert "M_total = 10000, B = 2000" in line and "times are in s" in line
    whole = run(*flags, "--M-total", 50_000, "--B", "none")
    assert not any("toy" in each for each in json.loads(whole.stdout)["warnings"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--label", "pod"), ["--label", "pod", "KEY=VALUE"]),
        (("--label", "a=1", "--label", "a=2"), ["--label", "a=2", "each key once"]),
        (("--result", 2), ["run.csv", "--result"]),
    ],
)
def test_what_chooses_nothing_is_refused(run, tmp_path, flags, words):
    (tmp_path / "run.csv").write_text("a,b\n1,2\n")
    done = run("calibrate", "run", "run.csv", *flags)
    assert done.exit_code == 2 and done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr
