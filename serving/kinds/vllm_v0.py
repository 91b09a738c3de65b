"""The kind ``vllm_v0``: a server that computes its own prompts, as vLLM scheduled before V1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from serving.arguments import checked
from serving.batch_time import BatchTimeLaw
from serving.errors import ConfigError, UnsupportedError
from serving.kinds.decode_node import MOST_TOKENS, TIME_UNITS
from serving.kinds.kind import Event, Kind, Limit
from serving.kinds.prompt_server import PromptServer, reading_by
from serving.kinds.vllm import LAW_KEYS, LOGS, SNAPSHOT, STEP_KNOBS, block_knob, limits, line
from serving.request_mix import RequestMix
from serving.setting import check_settings, setting

VERSIONS = ("0.6.3", "0.5.4")
"""Releases of vLLM whose V0 scheduler the engine decides like; 0.6.3 is 0.6.3.post1."""

PREEMPTION_MODES = ("recompute", "swap")
"""What happens to a running request that memory has no room for any more."""

MOST_BLOCKS = 2**48
"""Most KV blocks: their tokens are counted exactly."""


@dataclass(frozen=True, slots=True)
class VllmV0:
    """A vLLM server of the V0 engine (engine ``vllm_v0``), by vLLM's names of its settings.

    It has no prefix cache and waits for every batch. Without chunked prefill a batch is either
    prompts or decodes. A request that is too long is ignored, as vLLM does it, at once or when it
    has grown too long.
    """

    batch_time: BatchTimeLaw = field(default_factory=BatchTimeLaw)
    time_unit: str = setting("s", "unit of every time", choices=TIME_UNITS)
    vllm_version: str = setting("0.6.3", "vLLM whose scheduler decides", choices=VERSIONS)
    block_size: int = setting(16, "tokens of a KV block", minimum=1, maximum=2**20)
    num_gpu_blocks: int = setting(1000, "KV blocks", minimum=1, maximum=MOST_BLOCKS)
    num_cpu_blocks: int = setting(
        1000, "KV blocks on the CPU, for preemption_mode swap", minimum=0, maximum=MOST_BLOCKS
    )
    max_num_seqs: int = setting(256, "most requests that run", minimum=1, maximum=2**20)
    max_num_batched_tokens: int = setting(
        2048, "most tokens of a step", minimum=1, maximum=MOST_TOKENS
    )
    max_model_len: int | None = setting(
        None, "most tokens of a request, prompt and answer; null = no limit", minimum=2,
        maximum=MOST_TOKENS,
    )  # fmt: skip
    enable_chunked_prefill: bool = setting(False, "compute long prompts in chunks, beside decodes")
    preemption_mode: str = setting(
        "recompute", "what happens to a preempted request", choices=PREEMPTION_MODES
    )
    watermark: float = setting(
        0.01, "share of the blocks that an admission leaves free", minimum=0, maximum=1
    )
    remote_prefill: bool = setting(False, "prompts are computed elsewhere, first time")
    free_recompute: bool = setting(False, "with remote_prefill: also after a preemption")
    cpu_gap: float = setting(
        0.0, "time from the decision of a step to its start on the device", minimum=0
    )
    strict: bool = setting(
        False, "take requests that max_model_len is too short for, and do what vLLM does"
    )

    engine: ClassVar[str] = "vllm_v0"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                "max_num_batched_tokens", self.max_num_batched_tokens,
                f"a whole number >= max_num_seqs = {self.max_num_seqs}",
            )  # fmt: skip

    @checked(n="> 0")
    def scaled(self, n: int) -> VllmV0:
        """Return a server ``n`` times as large whose steps take as long."""
        return replace(
            self,
            batch_time=self.batch_time.scaled(n),
            num_gpu_blocks=self.num_gpu_blocks * n,
            num_cpu_blocks=self.num_cpu_blocks * n,
            max_num_seqs=self.max_num_seqs * n,
            max_num_batched_tokens=self.max_num_batched_tokens * n,
        )


def _largest(node: VllmV0) -> Limit:
    if node.strict or node.max_model_len is None:
        return Limit(math.inf, "no limit: vLLM ignores what is too long")
    return Limit(node.max_model_len, f"max_model_len = {node.max_model_len}")


def _read(node: VllmV0) -> PromptServer:
    """Return what the fluid model has to know of a server.

    Raises
    ------
    UnsupportedError
        Where prompts are computed elsewhere.
    """
    if node.remote_prefill:
        raise UnsupportedError(
            "no fluid model answers for the engine vllm_v0 with remote_prefill, only without; "
            "simulate it, or ask the engine decode_node, whose prompts come prefilled"
        )
    swaps = node.preemption_mode == "swap"
    room = (
        f"approximate: the fluid model swaps without a limit, this server up to "
        f"{node.num_cpu_blocks} blocks (num_cpu_blocks); vLLM dies where it needs more"
    )
    return PromptServer(
        engine=node.engine,
        batch_time=node.batch_time,
        time_unit=node.time_unit,
        kv_tokens=node.num_gpu_blocks * node.block_size,
        reserve=int(node.watermark * node.num_gpu_blocks) * node.block_size,
        block_size=node.block_size,
        most_running=node.max_num_seqs,
        step_tokens=node.max_num_batched_tokens,
        is_ahead=False,
        ends_unknown=False,
        gap=node.cpu_gap,
        prompts_apart=not node.enable_chunked_prefill,
        swaps=swaps,
        keeps_prefixes=False,
        notes=(room,) if swaps else (),
    )


def _block_bracket(mix: RequestMix, node: VllmV0) -> tuple[float, float]:
    longest = math.ceil((mix.prefill + mix.decode).max() / node.block_size)
    # one block beyond it, and those that the watermark keeps free
    least = math.ceil((longest + 1) / max(1 - node.watermark, 0.5))
    return least, 4.0 * max(node.num_gpu_blocks, least)


VLLM_V0 = Kind(
    name="vllm_v0",
    title="a vLLM server of the V0 engine: it computes its prompts, and swaps or recomputes",
    settings=VllmV0,
    engine="discrete.vllm_v0.engine:VllmV0Engine",
    law_keys=(*LAW_KEYS[:3], "d_swap", *LAW_KEYS[3:]),
    line=lambda node: line(node, node.preemption_mode),
    largest_request=_largest,
    limits=lambda node: limits(node, node.num_gpu_blocks * node.block_size),
    reading=reading_by(_read),
    forgets=lambda node: True,
    kv_keys=lambda tokens, given: {
        "num_gpu_blocks": max(1, tokens // int(given.get("block_size") or 16))
    },
    snapshot=SNAPSHOT,
    events=(
        Event("arrive", "waiting"),
        Event("admit", "running"),
        Event("preempt", "waiting", "P", "preempted", "preemption_count"),
        Event("swap_out", "swapped", "S", "swapped out", "preemption_count"),
        Event("swap_in", "running"),
        Event("ignore", None),
        Event("complete", None),
    ),
    knobs=(
        block_knob(_block_bracket, MOST_BLOCKS),
        *STEP_KNOBS,
    ),
    run_options=LOGS,
)  # fmt: skip
"""The declaration of the kind."""
