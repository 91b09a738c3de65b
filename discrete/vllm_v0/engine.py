"""The engine ``vllm_v0``: owns the arrays of one run and drives the compiled kernel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from discrete.vllm.engine import VllmEngine
from discrete.vllm.layout import NOBODY, UNLIMITED
from discrete.vllm_v0.kernel import advance
from discrete.vllm_v0.layout import CLOCK, REQUEST, STATE, STUCK_WORDS, Group
from discrete.vllm_v0.reports import members, refresh, token_since
from serving import RequestTable


class VllmV0Engine(VllmEngine):
    """vLLM's V0 scheduler on a node that computes its prompts; see :class:`VllmEngine`."""

    state_record, clock_record, request_record = STATE, CLOCK, REQUEST
    stuck_words = STUCK_WORDS
    refresh, members = staticmethod(refresh), staticmethod(members)
    token_since = staticmethod(token_since)

    def _write_settings(self) -> None:
        super()._write_settings()
        node = self.instance
        longest = UNLIMITED if node.max_model_len is None else node.max_model_len
        if not node.enable_chunked_prefill:
            longest = min(longest, node.max_num_batched_tokens)
        values = {
            "num_gpu_blocks": node.num_gpu_blocks,
            "num_cpu_blocks": node.num_cpu_blocks,
            "max_num_seqs": node.max_num_seqs,
            "token_budget": node.max_num_batched_tokens,
            "longest_prefill": longest,
            "chunked": node.enable_chunked_prefill,
            "swaps": node.preemption_mode == "swap",
            "watermark_blocks": int(node.watermark * node.num_gpu_blocks),
            "remote": node.remote_prefill,
            "free_recompute": node.free_recompute,
            "is_old": node.vllm_version == "0.5.4",
        }
        for name, value in values.items():
            self.state[name] = value
        for link in ("resumed", "swapped_head", "swapped_tail"):
            self.state[link] = NOBODY
        self._counts = np.zeros(len(Group), np.int64)
        self._running = np.zeros(0, np.int64)

    def _fill(self, records: NDArray, requests: RequestTable, known: int) -> None:
        requests.refuse_aborts(self.instance.engine)
        new, longest = records[known:], self.instance.max_model_len
        new["limit"] = new["output"]
        if longest is not None:  # vLLM looks at the length after the token that exceeds it
            new["limit"] = np.minimum(new["output"], np.maximum(longest + 1 - new["prompt"], 1))
        capacity = min(self.instance.max_num_seqs, len(requests))
        running = np.zeros(capacity, np.int64)
        held = min(self._running.size, capacity)
        running[:held] = self._running[:held]
        self._running = running
        self._lists = np.zeros(len(Group) * capacity, np.int64)
        self._dropped = np.zeros(len(requests), np.int64)
        self.state["capacity"] = capacity

    def _tables(self) -> dict[str, NDArray]:
        return {
            "running": self._running, "lists": self._lists, "counts": self._counts,
            "dropped": self._dropped,
        }  # fmt: skip

    def _advance(self, until: float, steps: int, fuel: int) -> int:
        return advance(self.state, until, steps, fuel)

    def _own_arrays(self) -> dict[str, NDArray]:
        return {"running": self._running}

    def _restore_own(self, arrays: Mapping[str, NDArray]) -> None:
        self._running = arrays["running"]
