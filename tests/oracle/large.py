"""Cases as large as a server's day is busy, to compare speed on; decisions are compared as well.

``chat`` is what ``vllm serve`` runs by default, on conversations; ``chat_plain`` is the same work
without prefix caching and one step at a time; ``heavy`` has requests without content that overload
the memory, on either engine.
"""

from __future__ import annotations

import math
import random

from case import Case, Request, ticks

LARGE = {
    "chat": ["vllm_v1"],
    "chat_plain": ["vllm_v1"],
    "heavy": ["vllm_v1", "vllm_v0"],
}
"""Families of large cases, and the engines that they are for."""

LAW = {
    "d_0": ticks(12_582),
    "d_prefill": ticks(64),
    "d_decode": ticks(64),
    "d_kv": 0.0,
    "d_swap": 0.0,
}

SERVE = {
    "block_size": 16,
    "num_gpu_blocks": 700,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "async_scheduling": True,
    "ignore_eos": False,
}

MOST_STEPS = 100_000


def make_large(family: str, number: int, engine: str, version: str) -> Case:
    """Return a large case."""
    chance = random.Random(f"{family} {number}")
    if family == "heavy":
        requests, settings = _heavy(chance), {**SERVE, "enable_prefix_caching": False}
        settings |= {"async_scheduling": False, "ignore_eos": True}
    else:
        requests, settings = _chat(chance), dict(SERVE)
    if family == "chat_plain":
        settings |= {"enable_prefix_caching": False, "async_scheduling": False}
    if engine == "vllm_v0":
        settings |= {"preemption_mode": "swap", "num_cpu_blocks": 8000}
    name = f"{family}/{engine}-{version}/{number}"
    return Case(name, engine, version, settings, requests, MOST_STEPS, False, dict(LAW))


def _length(chance: random.Random, mean: float) -> int:
    spread = 0.63
    return max(1, round(chance.lognormvariate(math.log(mean) - spread**2 / 2, spread)))


def _heavy(chance: random.Random) -> list[Request]:
    now, requests = 0.0, []
    for _ in range(200):
        now += chance.expovariate(20.0)
        prompt, output = _length(chance, 200), _length(chance, 200)
        requests.append(Request(ticks(now * 2**20), min(prompt, 2000), min(output, 2000)))
    return requests


def _chat(chance: random.Random) -> list[Request]:
    """120 conversations over three system prompts; every prompt repeats all that was said."""
    start, requests, content = 0.0, [], 10
    for _ in range(120):
        start += chance.expovariate(6.0)
        now, parts = start, [f"{chance.randint(1, 3)}:400"]
        for _ in range(chance.randint(1, 7)):
            question, answer = min(_length(chance, 60), 500), min(_length(chance, 150), 800)
            parts.append(f"{content}:{question}")
            requests.append(
                Request(
                    ticks(now * 2**20),
                    sum(int(part.split(":")[1]) for part in parts),
                    answer,
                    content=" ".join(parts),
                    answer=content + 1,
                )
            )
            parts.append(f"{content + 1}:{answer}")
            content += 2
            now += answer * 0.02 + chance.expovariate(0.2)
    return sorted(requests, key=lambda one: one.arrival)
