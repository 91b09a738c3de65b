"""Small files as load generators and Prometheus write them, from one simulated run."""

from __future__ import annotations

import json

import numpy as np
from served import exposition, range_export

EPOCH = 1.7e9
"""Time of day [s] at which the runs begin."""


def times_of(served):
    """Return arrival, first token and finish of every request [s]."""
    first = np.array([each[0] for each in served.tokens])
    return served.arrival, first, np.array([each[-1] for each in served.tokens])


def inference_perf(served):
    """Return ``per_request_lifecycle_metrics.json`` of inference-perf."""
    records = [
        {
            "start_time": EPOCH + arrival, "end_time": EPOCH + tokens[-1] + 0.01, "request": "{}",
            "info": {"input_tokens": int(prompt), "output_tokens": int(output),
                     "output_token_times": [EPOCH + each for each in tokens]},
            "error": None,
        }
        for arrival, prompt, output, tokens in zip(
            served.arrival.tolist(), served.prompt, served.output, served.tokens, strict=True
        )
    ]  # fmt: skip
    return json.dumps(records)


def guidellm(served, *, total=None, failed=0):
    """Return the result of guidellm with one benchmark."""
    records = [
        {
            "request_id": str(row), "prompt_tokens": int(prompt), "output_tokens": int(output),
            "request_start_time": EPOCH + a, "request_latency": z - a,
            "time_to_first_token_ms": 1e3 * (f - a),
        }
        for row, (a, f, z, prompt, output) in enumerate(
            zip(*times_of(served), served.prompt, served.output, strict=True)
        )
    ]  # fmt: skip
    totals = {} if total is None else {"metrics": {"request_totals": {"successful": total}}}
    requests = {"successful": records, "errored": [{}] * failed, "incomplete": []}
    strategy = {"config": {"strategy": {"type_": "constant", "rate": 5}}}
    return {"metadata": {"version": 1}, "benchmarks": [{"requests": requests} | totals | strategy]}


def aiperf(served):
    """Return ``profile_export.jsonl`` of aiperf, which counts nanoseconds since 1970."""
    lines = []
    for a, f, z, prompt, output, tokens in zip(
        *times_of(served), served.prompt, served.output, served.tokens, strict=True
    ):
        metrics = {
            "input_sequence_length": {"value": int(prompt), "unit": "tokens"},
            "output_sequence_length": {"value": int(output), "unit": "tokens"},
            "time_to_first_token": {"value": 1e3 * (f - a), "unit": "ms"},
            "request_latency": {"value": 1e3 * (z - a), "unit": "ms"},
            "inter_chunk_latency": {"value": (1e3 * np.diff(tokens)).tolist(), "unit": "ms"},
        }
        start = int(EPOCH) * 10**9 + round(a * 1e9)
        metadata = {"request_start_ns": start, "benchmark_phase": "profiling"}
        lines.append(json.dumps({"metadata": metadata, "metrics": metrics, "error": None}))
    return "\n".join(lines) + "\n"


def llmservingsim(served, clock=27_000.0):
    """Return ``requests.jsonl`` of LLMServingSim; the engine has a clock of its own."""
    return "".join(
        json.dumps(
            {"request_id": str(row), "input_toks": int(prompt), "output_toks": int(output),
             "arrival_time": EPOCH + a, "queued_ts": clock + a, "first_token_ts": clock + f,
             "last_token_ts": clock + z}
        ) + "\n"
        for row, (a, f, z, prompt, output) in enumerate(
            zip(*times_of(served), served.prompt, served.output, strict=True)
        )
    )  # fmt: skip


def every_kind(served, capacity):
    """Return one file of every kind that ``calibrate run`` reads, by name."""
    times, metrics = served.metrics(1.0, capacity)
    rows = np.linspace(1, 30, 30)
    windows = "".join(f"{t},{10 + t % 7},{t % 3},{t % 5 + 1},{100 * (t % 11)}\n" for t in rows)
    rates = "".join(f"{t},{50 * (t % 4)},{20 + t % 9},{2 + t % 3},{10 + t % 6}\n" for t in rows)
    return {
        "bench.json": served.bench_json(0.03),
        "requests.csv": served.csv(),
        "inference_perf.json": inference_perf(served),
        "guidellm.json": json.dumps(guidellm(served)),
        "aiperf.jsonl": aiperf(served),
        "llmservingsim.jsonl": llmservingsim(served),
        "metrics.prom": exposition(times, metrics, capacity),
        "range.json": range_export(times, metrics),
        "windows.csv": "t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens\n" + windows,
        "rates.csv": "t_s,prompt_throughput,gen_throughput,running,kv_cache_pct\n" + rates,
    }
