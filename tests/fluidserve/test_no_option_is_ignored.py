"""Every option of a command changes what the command answers, or is refused; none is ignored."""

from __future__ import annotations

import json

import click
import pytest

from fluidserve.cli import cli
from fluidserve.options import WORKLOAD_KEYS

FILE = "arrival_time,prefill_length,decode_length,priority,predicted_decode_length\n" + "".join(
    f"{0.7 * i},{20 + 7 * (i % 5)},{10 + 5 * (i % 7)},{i % 3},{40 - 5 * (i % 7)}\n"
    for i in range(40)
)
TIGHT = ("--requests", "r.csv", "--M-total", 300, "--B", "none")
"""A file that fills the memory, so that everything about evictions matters."""

DRAWN = ("--num-requests", 40, "--load", 0.9)
TALK = ("--num-requests", 40, "--turns", 3, "--think-time", 9)
PROFILE = ("--model", "Llama-3.1-8B", "--hardware", "RTX4090")
POLICY = "def order(requests):\n    return -requests.prefill_length\n"


def without(line, flag):
    """Return a line without an option and its value."""
    if flag not in line:
        return line
    at = line.index(flag)
    return line[:at] + line[at + 2 :]


SERVED = "arrival_time,prefill_length,decode_length,priority\n" + "".join(
    f"{0.02 * (i // 4)},{20 + 7 * (i % 5)},{10 + 5 * (i % 7)},{i % 3}\n" for i in range(40)
)
VLLM = (
    "--engine", "vllm_v1", "--requests", "v.csv", "--num-gpu-blocks", 60, "--block-size", 4,
    "--max-num-batched-tokens", 64, "--max-num-seqs", 8, "--d-0", 0.01, "--d-prefill", 1e-4,
    "--d-decode", 1e-4, "--d-kv", 1e-6,
)  # fmt: skip
"""A vLLM server that is short of memory, of tokens and of seats."""

OLDER = ("--engine", "vllm_v0", *VLLM[2:])
SWAPPING = (*OLDER, "--preemption-mode", "swap")

FED = (*VLLM, "--remote-prefill")
DRAFTING = (*VLLM, "--num-speculative-tokens", 3)

REFUSED_BY_FLUID = (
    "vllm_version", "long_prefill_token_threshold_adaptive", "speculative_method",
    "speculative_accept", "free_recompute",
)  # fmt: skip
"""Settings that matter only on servers that the fluid model refuses."""

FLUID = ("solve", "compare", "analyze")

SAMPLES = {
    "vllm_version": ((*VLLM, "--long-prefill-token-threshold", 8), "--vllm-version", "0.19"),
    "block_size": (without(VLLM, "--block-size"), "--block-size", 2),
    "num_gpu_blocks": (without(VLLM, "--num-gpu-blocks"), "--num-gpu-blocks", 90),
    "max_num_seqs": (without(VLLM, "--max-num-seqs"), "--max-num-seqs", 3),
    "max_num_batched_tokens": (
        without(VLLM, "--max-num-batched-tokens"),
        "--max-num-batched-tokens",
        32,
    ),
    "num_cpu_blocks": (SWAPPING, "--num-cpu-blocks", 3),
    "preemption_mode": (OLDER, "--preemption-mode", "swap"),
    "max_model_len": (VLLM, "--max-model-len", 40),
    "enable_chunked_prefill": (VLLM, "--no-enable-chunked-prefill"),
    "enable_prefix_caching": (VLLM, "--no-enable-prefix-caching"),
    "async_scheduling": (VLLM, "--no-async-scheduling"),
    "pipeline_parallel_size": (VLLM, "--pipeline-parallel-size", 2),
    "scheduling_policy": (VLLM, "--scheduling-policy", "priority"),
    "ignore_eos": (VLLM, "--ignore-eos"),
    "long_prefill_token_threshold": (VLLM, "--long-prefill-token-threshold", 8),
    "long_prefill_token_threshold_adaptive": (
        (*VLLM, "--long-prefill-token-threshold", 1),
        "--long-prefill-token-threshold-adaptive",
    ),
    "scheduler_reserve_full_isl": (
        (*VLLM, "--max-num-batched-tokens", 16),
        "--no-scheduler-reserve-full-isl",
    ),
    "watermark": (VLLM, "--watermark", 0.2),
    "max_num_active_seqs": (VLLM, "--max-num-active-seqs", 2),
    "prefill_schedule_interval": (VLLM, "--prefill-schedule-interval", 5),
    "cpu_gap": (VLLM, "--cpu-gap", 0.5),
    "num_speculative_tokens": (VLLM, "--num-speculative-tokens", 2),
    "speculative_method": (DRAFTING, "--speculative-method", "draft_model"),
    "speculative_accept": (DRAFTING, "--speculative-accept", "3,1"),
    "remote_prefill": (VLLM, "--remote-prefill"),
    "free_recompute": (FED, "--free-recompute"),
    "kv_connector": (FED, "--kv-connector", "sync"),
    "d_prefill": (without(VLLM, "--d-prefill"), "--d-prefill", 2e-4),
    "d_prefill_attention": (VLLM, "--d-prefill-attention", 1e-6),
    "d_prefill_context": (VLLM, "--d-prefill-context", 1e-6),
    "d_mixed_decode": (VLLM, "--d-mixed-decode", 1e-4),
    "d_prefill_table": (VLLM, "--d-prefill-table", "1:0.01,8:0.03"),
    "d_mixed_kv_table": (VLLM, "--d-mixed-kv-table", "1:0.01,900:0.03"),
    "strict": ((*VLLM, "--max-model-len", 40), "--strict"),
    "request_file": (DRAWN[2:], "--requests", "r.csv"),
    "trace": ((), "--trace", "r.csv"),
    "format": (("--trace", "azure.csv"), "--format", "own"),
    "columns": (("--trace", "odd.csv"), "--columns", "arrival=a,prompt=p,output=o"),
    "trace_time_unit": (("--trace", "mooncake.jsonl"), "--trace-time-unit", "s"),
    "closed_loop": ((*TALK, "--sessions", 9), "--closed-loop"),
    "max_concurrency": (VLLM, "--max-concurrency", 3),
    "prefix_hit_share": (VLLM, "--prefix-hit-share", 0.5),
    "hash_block_size": (("--trace", "hashes.jsonl"), "--hash-block-size", 5),
    "drop_oversized": (("--requests", "r.csv", "--M-total", 60), "--drop-oversized"),
    "limit": (TIGHT, "--limit", 20),
    "start": (TIGHT, "--start", 9),
    "rate_scale": (TIGHT, "--rate-scale", 1.5),
    "L_filter": (TIGHT, "--L-filter", 25),
    "scenario": (DRAWN, "--scenario", "heavy"),
    "types": (DRAWN[:2], "--types", "(20,20,0.05)"),
    "lengths": (DRAWN, "--lengths", "r.csv"),
    "num_requests": (DRAWN[2:], "--num-requests", 50),
    "horizon": (DRAWN[2:], "--horizon", 500),
    "arrival_rate": (DRAWN[:2], "--arrival-rate", 0.07),
    "burstiness": (DRAWN, "--burstiness", 0.5),
    "rate_shape": (DRAWN, "--rate-shape", "steps(0:0.5,200:1.5)"),
    "turns": ((*DRAWN, "--think-time", 9), "--turns", 3),
    "think_time": ((*TALK, "--load", 0.9), "--think-time", 20),
    "answer_token_time": ((*TALK, "--load", 0.9), "--answer-token-time", 0.5),
    "sessions": (TALK, "--sessions", 9),
    "system_prompts": ((*DRAWN, "--system-prompt-length", 9), "--system-prompts", 2),
    "system_prompt_length": ((*DRAWN, "--system-prompts", 2), "--system-prompt-length", 9),
    "load": (DRAWN[:2], "--load", 0.5),
    "scale": (DRAWN, "--scale", 3),
    "seed": (DRAWN, "--seed", 7),
    "config_file": (DRAWN, "--config", "node.yaml"),
    "model": ((*DRAWN, *PROFILE[2:]), "--model", "Llama-3.1-8B"),
    "hardware": ((*DRAWN, *PROFILE[:2]), "--hardware", "RTX4090"),
    "tp": ((*DRAWN, "--model", "Llama-3.1-8B", "--hardware", "A100"), "--tp", 2),
    "gpu_memory_utilization": ((*DRAWN, *PROFILE), "--gpu-memory-utilization", 0.8),
    "engine": (DRAWN, "--engine", "vllm_v1"),
    "time_unit": (DRAWN, "--time-unit", "ms"),
    "mode": (TIGHT, "--mode", "sacrifice"),
    "M_total": (DRAWN, "--M-total", 700),
    "B": (DRAWN, "--B", 1000),
    "admission_threshold": (TIGHT, "--admission-threshold", 0.5),
    "queue_policy": (TIGHT, "--queue-policy", "SJF"),
    "victim_policy": (TIGHT, "--victim-policy", "FIFO"),
    "length_source": ((*TIGHT, "--queue-policy", "SJF"), "--length-source", "predicted"),
    "d_0": (DRAWN, "--d-0", 2),
    "d_decode": (DRAWN, "--d-decode", 0.01),
    "d_kv": (DRAWN, "--d-kv", 0.002),
    "d_swap": (TIGHT, "--d-swap", 0.1),
    "d_decode_table": (DRAWN, "--d-decode-table", "1:1,8:2"),
    "d_1": (DRAWN, "--d-1", 0.002),
    "goodput": (DRAWN, "--goodput", "ttft:5"),
    "law_error": (VLLM, "--law-error", 0.1),
    "until": (TIGHT, "--until", 20),
    "resume": ((), "--resume", "s.npz"),
    "at_batch": (DRAWN, "--at-batch", 5),
    "inject": (DRAWN, "--inject", "r.csv"),
    "inject_at": ((*DRAWN, "--inject", "r.csv"), "--inject-at", 90),
    "keep_arrivals": ((*DRAWN, "--inject", "r.csv"), "--keep-arrivals"),
    "method": (DRAWN, "--method", "node_work"),
    "within": ((*DRAWN, "--method", "auto", "--budget", 0.2), "--within", 5),
    "budget": ((*DRAWN, "--method", "auto", "--within", 1e-3), "--budget", 0.05),
    "methods": (DRAWN, "--methods", "node_work"),
    "drain": (DRAWN, "--no-drain"),
    "initial_waiting": (DRAWN, "--initial-waiting", 30),
    "step": ((*DRAWN, "--method", "eulerian_jax"), "--step", 0.25),
    "batches_per_step": (DRAWN, "--batches-per-step", 4),
    "approximate": ((*TIGHT, "--queue-policy", "SJF"), "--approximate"),
    "transient": (DRAWN[2:], "--stationary"),
    "replications": (DRAWN, "--replications", 3),
}
"""What makes each option matter, and a value of it that is not its default."""

OWN_SAMPLES = {
    ("compare", "within"): (DRAWN, "--within", 5),
    ("analyze", "method"): ((*DRAWN, "--budget", 0.1), "--method", "model"),
}
"""Where an option of one command matters, if not where it does for the others."""

ELSEWHERE = {
    "output_dir", "output", "verbose", "progress_interval", "workers", "pictures", "events",
    "save_state", "solve_gradients", "decision_log", "request_log", "log_extended",
    "batch_priority", "help", "as_json",
    "bench_json", "save_detailed", "percentile_metrics", "metric_percentiles", "llmd_report",
}  # fmt: skip
"""Options about files, progress and processes (tests of their own), and one of a single choice."""

COMMANDS = {
    "simulate": (),
    "solve": ("--method", "lagrangian"),
    "compare": ("--replications", 2, "--methods", "lagrangian", "--no-pictures", "--workers", 1),
    "analyze": ("--method", "model", "--transient"),
    "generate": (),
}


def options_of(name):
    command = cli.get_command(click.Context(cli), name)
    shown = [p.name for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if name == "generate":  # its node is there for --load and for requests that can never finish
        shown = [p for p in shown if p in WORKLOAD_KEYS]
    # who reads lengths is refused, or read as FCFS, where no engine runs: nothing is left to change
    return [p for p in shown if p != "length_source" or name == "simulate"]


def answer(run, line, out):
    """Return what a command answers: its result, or why it refuses."""
    done = run(*line) if line[0] == "generate" else run(*line, "--no-verbose", "--out", out)
    if done.exit_code != 0:
        assert done.exit_code == 2, (done.exception, done.stderr)
        return done.stderr
    found = json.loads(done.stdout)
    for key in ("seconds", "output_dir"):
        found.pop(key, None)
    if line[0] == "compare":
        for each in (found["discrete"], *found["methods"].values()):
            each.pop("seconds"), each.pop("speedup", None)
    for key in ("instance", "seed"):  # echoes of what was given are no answer
        found.pop(key, None)
    if line[0] == "generate":
        with open("requests.csv") as file:
            found["requests"] = file.read()
    return json.dumps(found)


@pytest.fixture
def folder(run, tmp_path):
    (tmp_path / "r.csv").write_text(FILE)
    (tmp_path / "v.csv").write_text(SERVED)
    (tmp_path / "azure.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,20,30\n"
        "2023-11-16 18:16:46.68,25,9\n"
    )
    (tmp_path / "odd.csv").write_text("a,p,o\n1,20,30\n3,25,9\n")
    row = '{{"timestamp": {}, "input_length": 20, "output_length": 9}}\n'
    (tmp_path / "mooncake.jsonl").write_text(row.format(1000) + row.format(31000))
    hashed = [{"timestamp": 31000 * k, "input_length": 20, "output_length": 9, "hash_ids": [0, k]}
              for k in range(2)]  # fmt: skip
    (tmp_path / "hashes.jsonl").write_text("\n".join(map(json.dumps, hashed)))
    (tmp_path / "node.yaml").write_text("M_total: 600\nd_0: 1.5\n")
    done = run("simulate", *DRAWN, "--until", 50, "--save-state", "s.npz", "--out", "s")
    assert done.exit_code == 0, done.stderr
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "simulate",
        "generate",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("solve", "compare", "analyze")),
    ],
)
def test_no_option_is_ignored(run, folder, monkeypatch, name):
    # the derivatives of an analysis take seconds and say nothing that its latencies do not
    monkeypatch.setattr("studies.analysis._central", lambda *_: ({}, {}))
    ignored, answers = [], {}
    for option in options_of(name):
        if option in ELSEWHERE:
            continue
        assert option in SAMPLES, f"say in SAMPLES where {option} matters"
        base, *given = OWN_SAMPLES.get((name, option), SAMPLES[option])
        own = without(COMMANDS[name], given[0])
        if name in FLUID and option in REFUSED_BY_FLUID:
            assert run(name, *own, *base).exit_code == 2, f"{name} answers: does it see {option}?"
            continue
        if (*own, *base) not in answers:
            answers[*own, *base] = answer(run, (name, *own, *base), "before")
        if answer(run, (name, *own, *base, *given), "after") == answers[*own, *base]:
            ignored.append(option)
    assert not ignored, " ".join(ignored)


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("simulate --resume s.npz --no-events", "--no-events"),
        ("simulate --resume s.npz --model Llama-3.1-8B --hardware RTX4090", "--model"),
        ("simulate --resume s.npz --load 0.5", "--load"),
        ("sweep grid.yaml --scheduler tcp://10.0.0.1:8786 --workers 2", "--workers"),
        ("phase-diagram --quick --no-engine --seed 7", "--seed"),
        ("analyze --num-requests 40", "--num-requests"),
        ("analyze --load 0.7 --stationary --horizon 40", "--horizon"),
    ],
)
def test_an_option_that_cannot_matter_is_refused(run, folder, line, flag):
    (folder / "grid.yaml").write_text("kind: solve\ngrid: {load: [0.5]}\n")
    done = run(*line.split())
    assert done.exit_code == 2 and flag in done.stderr and len(done.stderr.splitlines()) == 1


def test_progress_is_told_of_the_engine_alone(run):
    """Only the engine goes batch by batch: no other command takes the batches between two looks."""
    assert [name for name in COMMANDS if "progress_interval" in options_of(name)] == ["simulate"]
