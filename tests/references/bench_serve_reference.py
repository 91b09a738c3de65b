"""``vllm bench serve`` as plain Python: a reading of its definitions, and vLLM's own function.

``metrics`` goes over requests and outputs one by one, by the rules of vLLM 0.33. ``vllm_metrics``
runs ``calculate_metrics`` itself, taken out of the source of an unpacked wheel, which needs NumPy
alone. Cases that it answered are in ``bench_serve_golden.json``; to record them again::

    python tests/references/bench_serve_reference.py WHEEL/vllm/benchmarks/serve.py
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import math
import random
import statistics
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

GOLDEN = Path(__file__).with_name("bench_serve_golden.json")
NAMES = ("ttft", "tpot", "itl", "e2el")
PERCENTILES = (0.0, 25.0, 50.0, 99.0, 99.9)


def percentile(values, q):
    """Return a percentile, linear between the samples."""
    values = sorted(values)
    at = q / 100 * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def metrics(requests, duration, goodput, percentiles=PERCENTILES):
    """Return the result of requests, each a mapping with the keys of :func:`drawn`; goodput in ms.

    A request has a prompt_len, a start, a ttft, the itl between its outputs, a latency, its
    output_tokens, and an error, empty where it completed.
    """
    done = [each for each in requests if not each["error"]]
    tokens = sum(each["output_tokens"] for each in done)
    prompts = sum(each["prompt_len"] for each in done)
    samples = {name: [] for name in NAMES}
    good = 0
    for each in done:
        tpot = 0.0
        samples["ttft"].append(each["ttft"])
        samples["e2el"].append(each["latency"])
        samples["itl"].extend(each["itl"])
        if each["output_tokens"] > 1:
            tpot = (each["latency"] - each["ttft"]) / (each["output_tokens"] - 1)
            samples["tpot"].append(tpot)
        seen = {"ttft": each["ttft"], "tpot": tpot, "e2el": each["latency"]}
        good += all(seen[name] <= most / 1000 for name, most in goodput.items())
    out = {
        "completed": len(done),
        "failed": len(requests) - len(done),
        "total_input_tokens": prompts,
        "total_output_tokens": tokens,
        "request_throughput": len(done) / duration,
        "request_goodput": good / duration if goodput else None,
        "output_throughput": tokens / duration,
        "total_token_throughput": (prompts + tokens) / duration,
        **busiest_seconds(done),
        "rtfx": 0.0,
    }
    for name, values in samples.items():
        values = values or [0.0]
        out[f"mean_{name}_ms"] = 1000 * statistics.fmean(values)
        out[f"median_{name}_ms"] = 1000 * statistics.median(values)
        out[f"std_{name}_ms"] = 1000 * statistics.pstdev(values)
        for q in percentiles:
            word = int(q) if q == int(q) else q
            out[f"p{word}_{name}_ms"] = 1000 * percentile(values, q)
    return out


def busiest_seconds(done):
    """Return the most outputs and the most requests in one second, counted from the first start."""
    outputs, requests = {}, {}
    origin = min((each["start"] for each in done), default=0.0)
    for each in done:
        time = each["start"] + each["ttft"]
        times = [time]
        for gap in each["itl"]:
            time += gap
            times.append(time)
        for time in times:
            outputs[int(time - origin)] = outputs.get(int(time - origin), 0) + 1
        ends = int(each["start"] + each["latency"] - origin)
        for second in range(int(each["start"] - origin), ends + 1):
            requests[second] = requests.get(second, 0) + 1
    return {
        "max_output_tokens_per_s": float(max(outputs.values(), default=0)),
        "max_concurrent_requests": max(requests.values(), default=0),
    }


def drawn(seed):
    """Return random requests: some failed, some of one token, some with several tokens at once.

    Times are multiples of 1/64 s, so that sums are exact and many fall on whole seconds.
    """
    rng = random.Random(seed)
    requests, failures = [], rng.choice([0.0, 0.0, 0.3, 1.0])
    for _ in range(rng.choice([1, 3, 20])):
        gaps = [rng.randint(0, 96) / 64 for _ in range(rng.choice([0, 0, 1, 2, 30]))]
        failed = rng.random() < failures
        ttft = rng.randint(1, 200) / 64
        requests.append(
            {
                "prompt_len": rng.randint(1, 900),
                "start": rng.randint(64, 3200) / 64,
                "ttft": ttft,
                "itl": gaps,
                "latency": 0.0 if failed else ttft + sum(gaps),
                "output_tokens": 0 if failed else len(gaps) + 1 + rng.choice([0, 0, 3]) * len(gaps),
                "error": "gone" if failed else "",
            }
        )
    goodput = {
        name: rng.choice([100.0, 500.0, 4000.0])
        for name in ("ttft", "tpot", "e2el")
        if rng.random() < 0.4
    }
    return requests, 64.0 + rng.randint(0, 640) / 64, goodput


@functools.cache
def vllm_function(source):
    """Return ``calculate_metrics`` of the file ``source``."""
    import numpy as np

    wanted = ("BenchmarkMetrics", "calculate_metrics")
    tree = ast.parse(Path(source).read_text(encoding="utf-8"))
    tree.body = [
        *ast.parse("from __future__ import annotations").body,
        *(
            node for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in wanted
        ),
    ]  # fmt: skip
    scope = {
        "np": np, "dataclass": dataclass, "warnings": warnings, "TERM_PLOTLIB_AVAILABLE": False,
        "MILLISECONDS_TO_SECONDS_CONVERSION": 1000, "__name__": __name__,
    }  # fmt: skip
    exec(compile(tree, str(source), "exec"), scope)
    return scope["calculate_metrics"]


def vllm_metrics(source, requests, duration, goodput):
    """Return what ``calculate_metrics`` in the file ``source`` of vLLM says of requests."""
    outputs = [
        SimpleNamespace(
            success=not each["error"], error=each["error"], output_tokens=each["output_tokens"],
            prompt_len=each["prompt_len"], latency=each["latency"], ttft=each["ttft"],
            itl=each["itl"], start_time=each["start"], input_audio_duration=0.0,
        )
        for each in requests
    ]  # fmt: skip
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculate = vllm_function(source)
        found, _ = calculate([], outputs, duration, None, PERCENTILES, goodput)
    out = {
        "completed": found.completed,
        "failed": found.failed,
        "total_input_tokens": found.total_input,
        "total_output_tokens": found.total_output,
        "request_throughput": found.request_throughput,
        "request_goodput": found.request_goodput if goodput else None,
        "output_throughput": found.output_throughput,
        "total_token_throughput": found.total_token_throughput,
        "max_output_tokens_per_s": found.max_output_tokens_per_s,
        "max_concurrent_requests": found.max_concurrent_requests,
        "rtfx": found.rtfx,
    }
    for name in NAMES:
        for stat in ("mean", "median", "std"):
            out[f"{stat}_{name}_ms"] = float(getattr(found, f"{stat}_{name}_ms"))
        for q, value in getattr(found, f"percentiles_{name}_ms"):
            out[f"p{int(q) if q == int(q) else q}_{name}_ms"] = float(value)
    return out


def vllm_keys(source):
    """Return the keys of a result in order, and those that only ``--save-detailed`` keeps."""
    tree = ast.parse(Path(source).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    head = [
        target.slice.value
        for node in functions["main_async"].body if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Subscript) and ast.unparse(target.value) == "result_json"
    ]  # fmt: skip
    results = [
        [key.value for key in node.value.keys]
        for node in ast.walk(functions["benchmark"])
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "result"
        and isinstance(node.value, ast.Dict)
    ]  # fmt: skip
    detailed = [
        [each.value for each in node.iter.elts]
        for node in ast.walk(functions["main_async"])
        if isinstance(node, ast.For) and isinstance(node.iter, ast.List)
    ]
    (result,) = [keys for keys in results if "failed" in keys]
    (lists,) = detailed
    return {"keys": head + result, "detailed": [key for key in result if key in lists]}


def record(source, cases=12):
    """Write what vLLM says of some cases; they are drawn anew from their seeds."""
    answers = {seed: vllm_metrics(source, *drawn(seed)) for seed in range(cases)}
    content = {**vllm_keys(source), "answers": answers}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1])
