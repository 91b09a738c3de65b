"""Tell the results that load generators write by their keys."""

from __future__ import annotations

from collections.abc import Container

RESULTS = {
    "inference-perf": ("info", "start_time"),
    "aiperf": ("metadata", "metrics"),
    "LLMServingSim": ("input_toks", "last_token_ts"),
    "guidellm": ("benchmarks",),
    "vllm bench serve": ("request_throughput", "total_input_tokens"),
}
"""Keys that a result, or its first record, has, by what wrote it."""


def load_generator(keys: Container[str]) -> str | None:
    """Return what wrote a result with these keys; None where they are of no result."""
    return next(
        (name for name, needed in RESULTS.items() if all(key in keys for key in needed)), None
    )
