"""What the kinds of vLLM's engines declare alike: words, limits, knobs, columns, coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from serving.kinds.kind import Column, KnobSpec, Limit
from serving.request_mix import RequestMix

LAW_KEYS = (
    "d_0", "d_decode", "d_kv", "d_prefill", "d_prefill_attention", "d_prefill_context",
    "d_mixed_decode", "d_decode_table", "d_prefill_table", "d_mixed_kv_table",
)  # fmt: skip
"""Coefficients that a step of prompts and decodes spends."""

LOGS = ("decision_log", "request_log", "log_extended")
"""What every vLLM engine takes besides what engines take."""


def line(node: Any, *more: str) -> str:
    """Return a server in one line, for titles; ``more`` stands beside its blocks."""
    blocks = f"vLLM {node.vllm_version}, {node.num_gpu_blocks:,} blocks of {node.block_size}"
    seats = f"max_num_seqs {node.max_num_seqs:,}"
    tokens = f"max_num_batched_tokens {node.max_num_batched_tokens:,}"
    return ", ".join((blocks, *more, seats, tokens))


def limits(node: Any, kv_tokens: int) -> dict[str, Limit]:
    """Return the limits of the outputs of a server whose requests can hold ``kv_tokens``."""
    return {
        "memory": Limit(float(kv_tokens), "KV blocks"),
        "batch_tokens": Limit(float(node.max_num_batched_tokens), "max_num_batched_tokens"),
        "batch_size": Limit(float(node.max_num_seqs), "max_num_seqs"),
    }


def block_knob(bracket: Callable[[RequestMix, Any], tuple[float, float]], most: int) -> KnobSpec:
    """Return the knob that is the number of KV blocks, from what a request needs to ``most``."""
    return KnobSpec(
        "num_gpu_blocks", "smallest number of KV blocks", "smaller", "log", bracket,
        lambda mix, node: (bracket(mix, node)[0], float(most)), integer=True,
    )  # fmt: skip


def _seats_limits(mix: RequestMix, node: Any) -> tuple[float, float]:
    return 1.0, float(min(node.max_num_batched_tokens, 2**20))


def _tokens_limits(mix: RequestMix, node: Any) -> tuple[float, float]:
    """Return the fewest and the most tokens of a step: those who run decode, prompts fit whole."""
    whole = 0.0 if node.enable_chunked_prefill else float(mix.prefill.max())
    return float(max(node.max_num_seqs, whole, 1)), float(2**31)


def _around(value: float, limits: tuple[float, float]) -> tuple[float, float]:
    low = max(limits[0], min(value / 16, limits[1] / 2))
    return float(math.ceil(low)), float(math.floor(min(max(4 * value, 2 * low), limits[1])))


STEP_KNOBS = (
    KnobSpec(
        "max_num_seqs", "largest number of requests that run", "larger", "log",
        lambda mix, node: _around(node.max_num_seqs, _seats_limits(mix, node)), _seats_limits,
        integer=True,
    ),
    KnobSpec(
        "max_num_batched_tokens", "largest number of tokens of a step", "larger", "log",
        lambda mix, node: _around(node.max_num_batched_tokens, _tokens_limits(mix, node)),
        _tokens_limits, integer=True,
    ),
)  # fmt: skip
"""Knobs of the step that the vLLM engines share."""

SNAPSHOT = (
    Column("time", "time", "end of the step"),
    Column("batch_id", "", "number of the schedule() call, from 0"),
    Column("batch_size", "requests", "requests in the batch", "batch_size"),
    Column("batch_tokens", "tokens", "tokens computed", "batch_tokens"),
    Column("prefill_tokens", "tokens", "prompt tokens among them"),
    Column("decode_tokens", "tokens", "tokens of requests that decode"),
    Column("context_tokens", "tokens", "KV of the batch after the step"),
    Column("batch_duration", "time", "duration of the step", "batch_duration"),
    Column("waiting_count", "requests", "requests that wait", "waiting"),
    Column("running_count", "requests", "requests that run", "running"),
    Column("swapped_count", "requests", "requests swapped out", "swapped"),
    Column("completed_count", "requests", "requests that have left", "completed"),
    Column("gpu_memory_used", "tokens", "KV blocks in use, in tokens", "memory"),
    Column("memory_utilization", "", "KV blocks in use over those that can be used"),
)
"""Columns of the batch file of the vLLM engines."""
