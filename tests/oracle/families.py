"""Random cases, in families. A family and a number name a case; the same name, the same case.

``case`` has requests without content on either engine, one step at a time and first come first
served. Odd numbers put memory under pressure: many victims in one step. ``case_ext`` has
conversations over shared system prompts on the present engine, each with about half of prefix
caching, priorities, aborts and asynchronous scheduling. ``spec``, ``pp``, ``knobs`` and ``remote``
are ``case_ext`` with speculation, pipeline stages, rarer settings or a remote prefill on top.
``gap`` is the first or the second with a pause from each decision to the start of its batch.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from case import Case, Request, ticks
from large import LARGE, make_large

FAMILIES = ("case", "case_ext", "spec", "pp", "knobs", "remote", "gap")

COMPARED = {
    ("vllm_v1", "0.33"): FAMILIES,
    ("vllm_v1", "0.19"): ("case", "case_ext"),
    ("vllm_v0", "0.6.3"): ("case", "gap"),
    ("vllm_v0", "0.5.4"): ("case",),
}
"""Families of each engine and version."""

MOST_STEPS = 2000


def make(family: str, number: int, engine: str, version: str) -> Case:
    """Return a case of a family."""
    if family in LARGE and engine in LARGE[family]:
        return make_large(family, number, engine, version)
    if family not in COMPARED[engine, version]:
        raise ValueError(f"{engine} {version} is compared on {COMPARED[engine, version]}")
    chance = random.Random(f"{family} {number} {engine}")
    if family == "case" or engine == "vllm_v0":
        made = _plain(chance, number, engine)
    else:
        made = _conversations(chance, family)
    made.name, made.version = f"{family}/{engine}-{version}/{number}", version
    if family == "gap":
        made.settings["cpu_gap"] = ticks(chance.choice([1, 700, 9001, 70_000]))
    if version == "0.19":
        made.settings["watermark"] = 0.0  # it has none
    if engine == "vllm_v1":
        _allow(made)
    return made


def _allow(case: Case) -> None:
    """Move settings that vLLM refuses beside each other to the nearest that it takes."""
    settings = case.settings
    if not settings["enable_chunked_prefill"]:
        settings["long_prefill_token_threshold"] = 0
        if settings["max_model_len"]:
            budget = settings["max_num_batched_tokens"]
            settings["max_model_len"] = min(settings["max_model_len"], budget)
    threshold = settings["long_prefill_token_threshold"]
    settings["long_prefill_token_threshold"] = min(threshold, case.model_length)


# Requests without content


def _plain(chance: random.Random, number: int, engine: str) -> Case:
    under_pressure = number % 2 == 1
    requests = _alike(chance) if under_pressure else _mixed(chance)
    settings = _sizes(chance, requests)
    specific = _v0_settings if engine == "vllm_v0" else _v1_settings
    settings.update(specific(chance, requests, settings))
    if under_pressure:
        _squeeze(chance, settings, requests)
    return Case("", engine, "", settings, requests, MOST_STEPS, False, _law(chance, swaps=True))


def _mixed(chance: random.Random) -> list[Request]:
    """Requests of any kind of arrivals and lengths."""
    count = chance.randint(1, 60)
    prompts = _lengths(chance, count, chance.choice([4, 30, 100]))
    outputs = _lengths(chance, count, chance.choice([3, 20, 60]))
    return [Request(*row) for row in zip(_arrivals(chance, count), prompts, outputs, strict=True)]


def _alike(chance: random.Random) -> list[Request]:
    """Bursts of short prompts with long answers, often of one length: they grow together."""
    count, burst = chance.randint(10, 60), chance.randint(5, 60)
    longest, output = chance.randint(1, 12), chance.randint(5, 40)
    same = chance.random() < 0.6
    return [
        Request(
            ticks(place // burst * 200_000),
            longest if same else chance.randint(1, longest),
            chance.randint(max(1, output // 2), output + output // 2),
        )
        for place in range(count)
    ]


def _arrivals(chance: random.Random, count: int) -> list[float]:
    way = chance.choice(["poisson", "poisson", "bursts", "at once", "pauses"])
    mean = 2**20 / chance.choice([5, 40, 300])
    burst, now, times = chance.randint(2, 20), 0, []
    for place in range(count):
        times.append(ticks(now))
        if way == "poisson":
            now += round(chance.expovariate(1 / mean))
        elif way == "bursts" and (place + 1) % burst == 0:
            now += chance.choice([50_000, 300_000, 1_000_000])
        elif way == "pauses":
            now += chance.choice([0, 0, 1, 20_000, 5_000_000])
    return times


def _lengths(chance: random.Random, count: int, mean: int) -> list[int]:
    way = chance.choice(["long tail", "long tail", "uniform", "constant", "two kinds"])
    if way == "constant":
        return [mean] * count
    if way == "uniform":
        return [chance.randint(1, 2 * mean) for _ in range(count)]
    if way == "two kinds":
        return [chance.choice([1, 1, 1, 3 * mean]) for _ in range(count)]
    spread = 0.7
    centre = math.log(mean) - spread**2 / 2
    drawn = (round(chance.lognormvariate(centre, spread)) for _ in range(count))
    return [min(max(1, length), 300) for length in drawn]


def _sizes(chance: random.Random, requests: list[Request]) -> dict:
    """Blocks, sequences and budget; the pool holds a few requests, one, or not even the largest."""
    whole = [one.prompt + one.output for one in requests]
    sequences, block = chance.choice([2, 5, 16, 64]), chance.choice([1, 1, 2, 4, 16])
    tokens = max(
        max(whole) * chance.choice([0.5, 1.0, 1.0, 1.3]),
        sum(whole) / len(whole) * chance.choice([1.5, 3, 8]),
    )
    return {
        "block_size": block,
        "num_gpu_blocks": max(2, int(tokens) // block + 2),
        "max_num_seqs": sequences,
        "max_num_batched_tokens": max(sequences, chance.choice([16, 64, 128, 512, 2048])),
        "enable_chunked_prefill": chance.random() < 0.5,
        "remote_prefill": chance.random() < 0.3,
        "free_recompute": chance.random() < 0.3,
    }


def _v0_settings(chance: random.Random, requests: list[Request], sizes: dict) -> dict:
    return {
        "preemption_mode": chance.choice(["swap", "recompute"]),
        "watermark": chance.choice([None, None, 0.0, 0.05]),
        "num_cpu_blocks": chance.choice([1, 4, 100]) * sizes["num_gpu_blocks"],
    }


def _v1_settings(chance: random.Random, requests: list[Request], sizes: dict) -> dict:
    longest = max(one.prompt for one in requests)
    settings = {
        "long_prefill_token_threshold": chance.choice([0, 0, 8, 50]),
        "watermark": chance.choice([0.0, 0.0, 0.01, 0.1]),
        "scheduler_reserve_full_isl": chance.random() < 0.7,
        "ignore_eos": chance.random() < 0.8,
        "max_model_len": _model_length(chance, requests),
    }
    if not sizes["enable_chunked_prefill"]:
        settings["max_num_batched_tokens"] = max(longest + 1, chance.choice([301, 512, 2048]))
    return settings


def _model_length(chance: random.Random, requests: list[Request]) -> int | None:
    """Now and then the model's length cuts answers off; every prompt is shorter than it."""
    if chance.random() < 0.85:
        return None
    longest = max(one.prompt for one in requests)
    return longest + chance.randint(1, max(one.output for one in requests))


def _squeeze(chance: random.Random, settings: dict, requests: list[Request]) -> None:
    """More sequences than memory: victims by the dozen."""
    block = chance.choice([1, 1, 2, 4])
    largest = max(one.prompt + one.output for one in requests)
    blocks = int(largest * chance.choice([1.5, 3, 6])) // block + 2
    settings.update(
        block_size=block,
        num_gpu_blocks=blocks,
        max_num_seqs=64,
        max_num_batched_tokens=max(64, settings["max_num_batched_tokens"]),
    )
    if "preemption_mode" in settings:
        settings.update(
            preemption_mode=chance.choice(["swap", "swap", "recompute"]),
            watermark=chance.choice([None, 0.0, 0.05, 0.2]),
            num_cpu_blocks=int(chance.choice([0.5, 2, 50, 50]) * blocks),
        )


def _law(chance: random.Random, *, swaps: bool = False) -> dict[str, float]:
    """A batch-time law; the constant is never nothing, so that time goes on."""
    prefill = chance.choice([0, 64, 300])
    return {
        "d_0": ticks(chance.choice([1, 4097, 16385])),
        "d_prefill": ticks(prefill),
        "d_decode": ticks(chance.choice([prefill, prefill, 0, 90])),
        "d_kv": ticks(chance.choice([0, 1])),
        "d_swap": ticks(chance.choice([0, 50]) if swaps else 0),
    }


# Conversations


def _conversations(chance: random.Random, family: str) -> Case:
    on = {name: chance.random() < 0.5 for name in ("cache", "priority", "abort", "async")}
    drafts = chance.choice([1, 3, 5]) if family == "spec" else 0
    block, unit = chance.choice([1, 2, 4, 4, 16]), chance.choice([1, 3, 8, 20])
    connector = _connector(chance) if family == "remote" else None
    if connector and connector["kv_connector"] != "none":
        on["async"] = False
    requests = _turns(chance, unit, block)
    if connector and connector["kv_connector"] == "async" and connector["free_recompute"]:
        # vLLM forgets that one token has come, and would have it fetched again for ever
        requests = [one for one in requests if one.prompt > 1] or [Request(0.0, 2, 1)]
    _tempers(chance, requests, on["priority"], on["abort"])
    settings = _ext_sizes(chance, requests, block, drafts) | {
        "enable_prefix_caching": on["cache"],
        "scheduling_policy": "priority" if on["priority"] else "fcfs",
        "async_scheduling": on["async"],
        "ignore_eos": chance.random() < 0.5,
        "watermark": chance.choice([0.0, 0.0, 0.01, 0.1]),
        "scheduler_reserve_full_isl": chance.random() < 0.7,
        "max_model_len": _model_length(chance, requests),
    }
    if family == "pp":
        settings["pipeline_parallel_size"] = chance.choice([2, 3, 4])
    if family == "gap":
        settings["pipeline_parallel_size"] = chance.choice([1, 1, 2])
    if family == "knobs":
        settings |= _knobs(chance, settings)
    if drafts:
        settings |= _speculation(chance, drafts)
    settings |= connector or {}
    return Case("", "vllm_v1", "", settings, requests, MOST_STEPS, True, _law(chance))


def _turns(chance: random.Random, unit: int, block: int) -> list[Request]:
    """Sessions that start with one of a few system prompts and repeat themselves, turn by turn."""

    def length(most: int) -> int:
        drawn = chance.randint(1, most)
        return drawn if chance.random() < 0.7 else -(-drawn // block) * block

    requests, now, content = [], 0, 1000
    systems = [f"{name + 1}:{length(8 * unit)}" for name in range(chance.randint(1, 4))]
    for _ in range(chance.choice([3, 8, 20])):
        now += chance.choice([0, 0, 4096, 65_536, 300_000])
        start, parts = now, [chance.choice(systems)]
        for _ in range(chance.randint(1, 5)):
            content += 2
            if chance.random() < 0.95:  # else the same prompt again, to its last token
                parts.append(f"{content}:{length(4 * unit)}")
            output = chance.randint(1, 5 * unit)
            prompt = sum(int(part.split(":")[1]) for part in parts)
            prompt += chance.randint(1, 9) if chance.random() < 0.1 else 0
            known = content + 1 if chance.random() < 0.9 else None
            asked = Request(ticks(start), prompt, output, content=" ".join(parts), answer=known)
            requests.append(asked)
            if chance.random() < 0.08:  # the same again, word for word
                requests.append(replace(asked, output=chance.randint(1, 5 * unit)))
            parts.append(f"{content + 1}:{output}")
            start += chance.choice([0, 20_000, 200_000, 2_000_000])
    return sorted(requests, key=lambda one: one.arrival)


def _tempers(chance: random.Random, requests: list[Request], priority: bool, abort: bool) -> None:
    for one in requests:
        if priority:
            one.priority = chance.choice([0, 0, 1, 5, -2])
        if abort and chance.random() < 0.3:
            one.abort = one.arrival + ticks(chance.choice([0, 1, 20_000, 400_000]))


def _ext_sizes(chance: random.Random, requests: list[Request], block: int, drafts: int) -> dict:
    """Sizes of which the pool is tight in most cases; a step has room for the drafts."""
    worst = max(one.prompt + one.output for one in requests) + 2 * drafts + 2
    tokens = int(worst * chance.choice([0.7, 1.0, 1.0, 1.2, 1.5, 3, 8]))
    sequences, chunked = chance.choice([2, 5, 16, 64]), chance.random() < 0.8
    budget = max(sequences, 2 * drafts + 2, chance.choice([16, 64, 128, 2048]))
    return {
        "block_size": block,
        "num_gpu_blocks": tokens // block + 3,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": budget if chunked else max(budget, worst),
        "enable_chunked_prefill": chunked,
        "long_prefill_token_threshold": chance.choice([0, 0, 8, 50]),
    }


def _knobs(chance: random.Random, settings: dict) -> dict:
    return {
        "max_num_active_seqs": chance.choice([None, max(1, settings["max_num_seqs"] // 2)]),
        "long_prefill_token_threshold_adaptive": chance.random() < 0.5
        and settings["enable_chunked_prefill"],
        "prefill_schedule_interval": chance.choice([1, 2, 5]),
        "pipeline_parallel_size": chance.choice([1, 1, 2, 4]),
    }


def _speculation(chance: random.Random, drafts: int) -> dict:
    return {
        "num_speculative_tokens": drafts,
        "speculative_method": chance.choice(["ngram", "draft_model", "eagle"]),
        "speculative_accept": [chance.randint(0, drafts) for _ in range(chance.randint(1, 7))],
    }


def _connector(chance: random.Random) -> dict:
    return {
        "remote_prefill": True,
        "free_recompute": chance.random() < 0.4,
        "kv_connector": chance.choice(["none", "sync", "async", "async"]),
    }
