"""Configuration of the real V1 scheduler for a case.

``SchedulerConfig`` is vLLM's own. The objects around it are plain namespaces that hold what the
scheduler reads: an attribute that is not listed here raises, so nothing is answered by accident.
"""

from __future__ import annotations

from types import SimpleNamespace as Plain
from typing import Any

from case import Case
from vllm.config.scheduler import SchedulerConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec


def vllm_config(case: Case) -> Plain:
    """Return what the scheduler takes as its ``VllmConfig``."""
    drafts = case.get("num_speculative_tokens")
    method = case.get("speculative_method") if drafts else None
    return Plain(
        scheduler_config=_scheduler_config(case),
        cache_config=_cache_config(case),
        model_config=_model_config(case),
        parallel_config=Plain(
            data_parallel_index=0,
            data_parallel_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            pipeline_parallel_size=case.get("pipeline_parallel_size"),
        ),
        observability_config=Plain(
            per_request_spec_decode_metrics="none",
            kv_cache_metrics=False,
            enable_mfu_metrics=False,
            enable_logging_iteration_details=False,
        ),
        speculative_config=_speculative_config(method, drafts) if method else None,
        num_speculative_tokens=drafts,
        num_lookahead_tokens=drafts if method in ("draft_model", "eagle") else 0,
        num_prefill_lookahead_tokens=int(method == "eagle"),
        num_hash_lookahead_tokens=hash_lookahead(case),
        max_concurrent_batches=case.steps_in_flight,
        max_in_flight_tokens=case.steps_in_flight * case.get("max_num_batched_tokens"),
        use_v2_model_runner=bool(case.get("async_scheduling")),
        lora_config=None,
        kv_events_config=None,
        kv_transfer_config=None,
        ec_transfer_config=None,
        is_mm_encoder_only=False,
        aux_output_config=Plain(enabled=False),
        ec_manager_config=Plain(get_encoder_cache_manager_obj=lambda: None),
    )


def hash_lookahead(case: Case) -> int:
    """Tokens after a block that belong to its key: eagle's drafts depend on the next one."""
    eagle = case.get("num_speculative_tokens") and case.get("speculative_method") == "eagle"
    return int(bool(eagle) and case.get("enable_prefix_caching"))


def kv_cache_config(case: Case) -> KVCacheConfig:
    """Return one group of full attention over all blocks."""
    attention = FullAttentionSpec(
        block_size=case.get("block_size"), num_kv_heads=1, head_size=1, dtype="float32"
    )
    return KVCacheConfig(
        num_blocks=case.get("num_gpu_blocks"),
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], attention)],
    )


def structured_output() -> Plain:
    """Return what stands for the manager of grammars: nobody asked for one."""
    return Plain(
        accept_tokens=lambda request, tokens: True,
        should_advance=lambda request: False,
        validate_tokens=lambda request, tokens: tokens,
    )


def _scheduler_config(case: Case) -> SchedulerConfig:
    same_name = """
        max_num_batched_tokens max_num_seqs enable_chunked_prefill long_prefill_token_threshold
        long_prefill_token_threshold_adaptive max_num_active_seqs prefill_schedule_interval
        scheduler_reserve_full_isl async_scheduling
        """.split()
    wanted: dict[str, Any] = {name: case.get(name) for name in same_name}
    wanted.update(
        max_model_len=case.model_length,
        is_encoder_decoder=False,
        policy=case.get("scheduling_policy"),
        watermark=case.get("watermark") or 0.0,
    )
    known = SchedulerConfig.__dataclass_fields__
    for name in wanted.keys() - known.keys():
        if wanted[name] not in (None, 0, 1):  # off, in an older vLLM that lacks it
            raise ValueError(f"this vLLM has no {name}: the case asks for {wanted[name]!r}")
    return SchedulerConfig(**{name: value for name, value in wanted.items() if name in known})


def _cache_config(case: Case) -> Plain:
    return Plain(
        num_gpu_blocks=case.get("num_gpu_blocks"),
        block_size=case.get("block_size"),
        enable_prefix_caching=case.get("enable_prefix_caching"),
        enable_mamba_shared_prefix_checkpoint=False,
        mamba_cache_mode="none",
    )


def _model_config(case: Case) -> Plain:
    return Plain(
        max_model_len=case.model_length,
        runner_type="generate",
        uses_mrope=False,
        is_encoder_decoder=False,
        is_diffusion=False,
        return_sampling_mask=False,
        enable_return_routed_experts=False,
        supports_multimodal_inputs=False,
    )


def _speculative_config(method: str, drafts: int) -> Plain:
    eagle = method == "eagle"
    return Plain(
        num_speculative_tokens=drafts,
        num_speculative_tokens_per_batch_size=None,
        max_num_new_slots_for_drafting=int(method == "draft_model"),
        use_eagle=lambda: eagle,
        use_eagle_block_drop=lambda: eagle,
        needs_eagle_block_drop=lambda: eagle,
        disable_eagle_block_drop=False,
    )
