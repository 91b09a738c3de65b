"""What a simulated server would have written: the engine's run under noisy batch times, as files.

Decisions of the engine depend on the order of arrivals and batch ends alone. So a run whose batches
take longer or shorter, with arrivals moved along, is the run that a noisy server would have had.
"""

from __future__ import annotations

import json

import numpy as np


class Served:
    """Requests and batches of one run; times in the unit of the run.

    ``tokens`` are the emission times of each request, ``batches`` arrays ``end``, ``prefill``,
    ``decode``, ``emitted``, ``running`` and ``held`` (KV after the batch).
    """

    def __init__(self, arrival, prompt, output, tokens, batches):
        self.arrival, self.prompt, self.output = arrival, prompt, output
        self.tokens, self.batches = tokens, batches

    @classmethod
    def of_run(cls, run, noise=0.0, seed=0):
        """Return a decode node's run with batch times times ``1 + noise * normal``."""
        b, r, spans = run.batches, run.requests, run.spans
        factor = 1 + noise * np.random.default_rng(seed).standard_normal(b["time"].size)
        gaps = np.diff(b["start_time"], prepend=0.0) - np.concatenate(
            [[0], b["batch_duration"][:-1]]
        )
        start = np.cumsum(gaps + np.concatenate([[0.0], (b["batch_duration"] * factor)[:-1]]))
        end = start + b["batch_duration"] * factor
        knots = np.stack([b["start_time"], b["time"]], 1).ravel()
        moved = np.stack([start, end], 1).ravel()
        keep = np.concatenate([[True], np.diff(knots) > 0])
        arrival = np.interp(r["arrival_time"], np.concatenate([[0.0], knots[keep]]),
                            np.concatenate([[0.0], moved[keep]]))  # fmt: skip
        tokens = [[] for _ in arrival]
        for i, first, last in zip(spans["request"], spans["first_batch"], spans["last_batch"],
                                  strict=True):  # fmt: skip
            tokens[i].append(end[first : last + 1])
        entered = np.searchsorted(b["start_time"], np.sort(r["first_enter_running_time"]), "right")
        sizes = r["prefill_length"][np.argsort(r["first_enter_running_time"], kind="stable")]
        batches = {
            "end": end, "emitted": b["batch_size"], "running": b["running_count"],
            "held": b["gpu_memory_used"],
            "prefill": np.bincount(np.maximum(entered - 1, 0), sizes, minlength=end.size),
        }  # fmt: skip
        return cls(arrival, r["prefill_length"], r["decode_length"],
                   [np.concatenate(t) for t in tokens], batches)  # fmt: skip

    def bench_json(self, offset=0.0):
        """Return the text of ``vllm bench serve --save-detailed``; ``offset`` joins every TTFT."""
        first = np.array([t[0] for t in self.tokens])
        return json.dumps({
            "input_lens": self.prompt.tolist(), "output_lens": self.output.tolist(),
            "ttfts": (first - self.arrival + offset).tolist(),
            "itls": [np.diff(t).tolist() for t in self.tokens],
            "start_times": (self.arrival + 1234.5).tolist(), "errors": [""] * self.prompt.size,
        })  # fmt: skip

    def csv(self):
        """Return the text of a CSV of arrival, first token, finish and lengths."""
        rows = ["arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens"]
        rows += [
            f"{a},{t[0]},{t[-1]},{p},{d}"
            for a, t, p, d in zip(self.arrival, self.tokens, self.prompt, self.output, strict=True)
        ]
        return "\n".join(rows) + "\n"

    def metrics(self, interval, capacity):
        """Return scrape times and vLLM's gauges and counters at them."""
        b = self.batches
        times = np.arange(0.0, b["end"][-1] + 2 * interval, interval)
        at = np.searchsorted(b["end"], times, side="right")
        finish = np.array([t[-1] for t in self.tokens])
        order = np.argsort(finish)
        done = np.searchsorted(finish[order], times, side="right")
        arrived = np.searchsorted(np.sort(self.arrival), times, side="right")

        def counted(values, upto=at):
            return np.concatenate([[0.0], np.cumsum(values)])[upto]

        def now(values):
            return np.concatenate([[0.0], values])[at]

        running = now(b["running"])
        return times, {
            "vllm:num_requests_running": running,
            "vllm:num_requests_waiting": np.maximum(arrived - done - running, 0),
            "vllm:kv_cache_usage_perc": now(b["held"]) / capacity,
            "vllm:prompt_tokens_total": counted(b["prefill"]),
            "vllm:generation_tokens_total": counted(b["emitted"]),
            "vllm:iteration_tokens_total_count": at.astype(float),
            "vllm:request_prompt_tokens_sum": counted(self.prompt[order], done),
            "vllm:request_generation_tokens_sum": counted(self.output[order], done),
        }


def exposition(times, metrics, capacity=None, labels='engine="0",model_name="m"'):
    """Return scrapes of ``/metrics``, each below a comment with its time."""
    lines = []
    for at, time in enumerate(times):
        lines.append(f"# time {time + 1.7e9:.3f}")
        if capacity is not None:
            lines.append(f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{capacity // 16}'
                         f'",{labels}}} 1.0')  # fmt: skip
        for name, values in metrics.items():
            lines.append(f"# TYPE {name} untyped")
            lines.append(f"{name}{{{labels}}} {float(values[at])!r}")
        lines.append('vllm:some_other_metric{le="0.5"} 3')
    return "\n".join(lines) + "\n"


def range_export(times, metrics):
    """Return the answer of Prometheus to query_range."""
    result = [
        {"metric": {"__name__": name, "engine": "0", "instance": "h:8000"},
         "values": [[float(t) + 1.7e9, repr(float(v))] for t, v in zip(times, values, strict=True)]}
        for name, values in metrics.items()
    ]  # fmt: skip
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})
