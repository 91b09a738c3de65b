"""The kind ``vllm_v1``: a server that computes its own prompts, scheduled by vLLM's V1 engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from serving.setting import check_settings, listed, setting

VERSIONS = ("0.33", "0.32", "0.19")
"""Releases of vLLM whose V1 scheduler the engine decides like."""

MOST_BLOCKS = 2**31 - 3
"""Most KV blocks: their numbers are 32-bit integers."""

NEWER = (
    "watermark", "long_prefill_token_threshold_adaptive", "max_num_active_seqs",
    "prefill_schedule_interval",
)  # fmt: skip
"""Settings that the oldest of the versions does not have."""

UNREAD = {
    "num_speculative_tokens": 0, "pipeline_parallel_size": 1, "remote_prefill": False,
    "prefill_schedule_interval": 1,
}  # fmt: skip
"""Settings for which the fluid model answers at one value only."""

READ_AS = {"scheduling_policy": "fcfs", "long_prefill_token_threshold": 0}
"""Settings that the fluid model reads as one value, which is an approximation at another."""


@dataclass(frozen=True, slots=True)
class VllmV1:
    """A vLLM server of the V1 engine (engine ``vllm_v1``), by vLLM's names of its settings.

    The defaults are those of ``vllm serve`` on a small card. It computes prompts in chunks beside
    the decodes, finds known prefixes in its KV blocks, and decides a batch while the one before
    runs.
    """

    batch_time: BatchTimeLaw = field(default_factory=BatchTimeLaw)
    time_unit: str = setting("s", "unit of every time", choices=TIME_UNITS)
    vllm_version: str = setting("0.33", "vLLM whose scheduler decides", choices=VERSIONS)
    block_size: int = setting(16, "tokens of a KV block", minimum=1, maximum=2**20)
    num_gpu_blocks: int = setting(
        1000, "KV blocks; one of them is never used", minimum=2, maximum=MOST_BLOCKS
    )
    max_num_seqs: int = setting(256, "most requests that run", minimum=1, maximum=2**20)
    max_num_batched_tokens: int = setting(
        2048, "most tokens of a step", minimum=1, maximum=MOST_TOKENS
    )
    max_model_len: int | None = setting(
        None, "most tokens of a request, prompt and answer; null = no limit", minimum=2,
        maximum=MOST_TOKENS,
    )  # fmt: skip
    enable_chunked_prefill: bool = setting(True, "compute long prompts in chunks")
    enable_prefix_caching: bool = setting(True, "keep KV of prefixes for later requests")
    prefix_hit_share: float = setting(
        0.0, "share of each prompt found in the prefix cache, where nobody knows its content",
        minimum=0, maximum=1,
    )  # fmt: skip
    async_scheduling: bool = setting(True, "decide a batch while the one before runs")
    pipeline_parallel_size: int = setting(1, "stages of the pipeline", minimum=1, maximum=64)
    scheduling_policy: str = setting(
        "fcfs", "order of the waiting queue", choices=("fcfs", "priority")
    )
    ignore_eos: bool = setting(
        False, "answers end at max_tokens, which is known, and not by a stop token"
    )
    long_prefill_token_threshold: int = setting(
        0, "most prompt tokens of one request in a step; 0 = no limit", minimum=0
    )
    long_prefill_token_threshold_adaptive: bool = setting(
        False, "never below a fair share of the step"
    )
    scheduler_reserve_full_isl: bool = setting(
        True, "admit a request only if its whole prompt fits"
    )
    watermark: float = setting(
        0.0, "share of the blocks that an admission leaves free", minimum=0, maximum=1
    )
    max_num_active_seqs: int | None = setting(
        None, "running requests from which nobody is admitted; null = max_num_seqs", minimum=1
    )
    prefill_schedule_interval: int = setting(
        1, "steps from one with prefill to the next", minimum=1, maximum=2**20
    )
    num_speculative_tokens: int = setting(0, "draft tokens of a step", minimum=0, maximum=1024)
    speculative_method: str = setting(
        "ngram", "where drafts come from", choices=("ngram", "draft_model", "eagle")
    )
    speculative_accept: str | Sequence[int] | None = setting(
        None, "drafts that verifications accept in turn, such as 0,3,1; null = none", numbers=True
    )
    remote_prefill: bool = setting(False, "prompts are computed elsewhere, first time")
    free_recompute: bool = setting(False, "with remote_prefill: also after a preemption")
    kv_connector: str = setting(
        "none", "how the KV of a remote prompt comes in", choices=("none", "sync", "async")
    )
    cpu_gap: float = setting(
        0.0, "time from the decision of a step to its start on the device", minimum=0
    )
    strict: bool = setting(
        False, "take requests that can never finish, and do with them what vLLM does"
    )

    engine: ClassVar[str] = "vllm_v1"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.speculative_accept is not None:  # a list and the text that says the same are equal
            object.__setattr__(self, "speculative_accept", listed(self.speculative_accept))
        if self.vllm_version == "0.19":
            for key in NEWER:
                default = VllmV1.__dataclass_fields__[key].default
                if getattr(self, key) != default:
                    raise ConfigError(key, getattr(self, key), f"{default} with vllm_version 0.19")
        self._refuse_what_was_not_compared()
        if self.kv_connector != "none" and not self.remote_prefill:
            raise ConfigError("kv_connector", self.kv_connector, "none without remote_prefill")
        if self.prefix_hit_share and not (self.enable_prefix_caching and not self.remote_prefill):
            raise ConfigError(
                "prefix_hit_share", self.prefix_hit_share,
                "0 without enable_prefix_caching, and with remote_prefill",
            )  # fmt: skip
        if self.num_speculative_tokens and self.pipeline_parallel_size > 1:
            raise ConfigError(
                "num_speculative_tokens", self.num_speculative_tokens,
                "0 with pipeline_parallel_size above 1",
            )  # fmt: skip
        batches = self.pipeline_parallel_size + self.async_scheduling
        if self.kv_connector != "none" and (batches > 1 or self.num_speculative_tokens):
            raise ConfigError(
                "kv_connector", self.kv_connector,
                "none unless async_scheduling is false, pipeline_parallel_size 1 and "
                "num_speculative_tokens 0: the others were not compared with vLLM",
            )  # fmt: skip

    def _refuse_what_was_not_compared(self) -> None:
        """Refuse features of older versions that were never held against these versions."""
        why = f"with vllm_version {self.vllm_version}: more was not compared with vLLM"
        if self.vllm_version == "0.19" and self.pipeline_parallel_size > 1:
            raise ConfigError("pipeline_parallel_size", self.pipeline_parallel_size, f"1 {why}")
        is_plain = self.speculative_method == "ngram" and not self.enable_prefix_caching
        known = self.vllm_version == "0.33" or (self.vllm_version == "0.32" and is_plain)
        if self.num_speculative_tokens and not known:
            raise ConfigError("num_speculative_tokens", self.num_speculative_tokens, f"0 {why}")

    @checked(n="> 0")
    def scaled(self, n: int) -> VllmV1:
        """Return a server ``n`` times as large whose steps take as long."""
        return replace(
            self,
            batch_time=self.batch_time.scaled(n),
            num_gpu_blocks=(self.num_gpu_blocks - 1) * n + 1,
            max_num_seqs=self.max_num_seqs * n,
            max_num_batched_tokens=self.max_num_batched_tokens * n,
        )


def usable_tokens(node: VllmV1) -> int:
    """Return the KV that requests can hold [tokens]; one block is vLLM's own."""
    return (node.num_gpu_blocks - 1) * node.block_size


def _largest(node: VllmV1) -> Limit:
    if node.strict:
        return Limit(math.inf, "strict")
    usable = usable_tokens(node)
    held = Limit(usable, f"{usable} = (num_gpu_blocks - 1) * block_size")
    if node.max_model_len is not None and node.max_model_len < usable:
        return Limit(node.max_model_len, f"max_model_len = {node.max_model_len}")
    budget = node.max_num_batched_tokens
    if not node.enable_chunked_prefill and budget < usable:
        return Limit(budget, f"max_num_batched_tokens = {budget} without chunked prefill")
    return held


ENTERS_WHOLE = (
    "approximate: scheduler_reserve_full_isl false lets a prompt in before all of its blocks are "
    "free; in the fluid model it enters when they are"
)
"""What the fluid model says of a server that admits prompts in parts."""


def _read(node: VllmV1) -> PromptServer:
    """Return what the fluid model has to know of a server.

    Raises
    ------
    UnsupportedError
        For a feature that changes what every step does and that the model does not describe.
    """
    for key, plain in UNREAD.items():
        if getattr(node, key) != plain:
            raise UnsupportedError(
                f"no fluid model answers for the engine vllm_v1 with {key} "
                f"{getattr(node, key)!r}, only with {plain!r}; simulate it"
            )
    read_as = [
        (key, str(getattr(node, key)), str(plain))
        for key, plain in READ_AS.items()
        if getattr(node, key) != plain
    ]
    if node.max_num_batched_tokens < node.max_num_seqs:
        raise UnsupportedError(
            f"no fluid model answers for the engine vllm_v1 with max_num_batched_tokens = "
            f"{node.max_num_batched_tokens} below max_num_seqs = {node.max_num_seqs}, where "
            "running requests take turns; simulate it"
        )
    active = node.max_num_active_seqs or node.max_num_seqs
    notes = () if node.scheduler_reserve_full_isl else (ENTERS_WHOLE,)
    return PromptServer(
        engine=node.engine,
        batch_time=node.batch_time,
        time_unit=node.time_unit,
        kv_tokens=usable_tokens(node),
        reserve=int(node.watermark * node.num_gpu_blocks) * node.block_size,
        block_size=node.block_size,
        most_running=min(active, node.max_num_seqs),
        step_tokens=node.max_num_batched_tokens,
        is_ahead=node.async_scheduling,
        ends_unknown=not node.ignore_eos,
        gap=node.cpu_gap,
        prompts_apart=False,
        swaps=False,
        keeps_prefixes=node.enable_prefix_caching,
        hit_share=(node.prefix_hit_share,),
        read_as=tuple(read_as),
        notes=notes,
    )


def _block_bracket(mix: RequestMix, node: VllmV1) -> tuple[float, float]:
    least = math.ceil((mix.prefill + mix.decode).max() / node.block_size) + 1
    return least, 4.0 * max(node.num_gpu_blocks, least)


VLLM_V1 = Kind(
    name="vllm_v1",
    title="a vLLM server of the V1 engine: it computes its prompts, and caches their prefixes",
    settings=VllmV1,
    engine="discrete.vllm_v1.engine:VllmV1Engine",
    law_keys=LAW_KEYS,
    line=line,
    largest_request=_largest,
    limits=lambda node: limits(node, usable_tokens(node)),
    reading=reading_by(_read),
    forgets=lambda node: True,
    kv_keys=lambda tokens, given: {
        "num_gpu_blocks": tokens // int(given.get("block_size") or 16) + 1
    },
    snapshot=SNAPSHOT,
    events=(
        Event("arrive", "waiting"),
        Event("admit", "running"),
        Event("preempt", "waiting", "P", "preempted", "preemption_count"),
        Event("abort", None),
        Event("complete", None),
    ),
    knobs=(
        block_knob(_block_bracket, MOST_BLOCKS),
        *STEP_KNOBS,
    ),
    reads_contents=True,
    knows_aborts=True,
    knows_sessions=True,
    run_options=(*LOGS, "max_concurrency"),
)  # fmt: skip
"""The declaration of the kind."""
