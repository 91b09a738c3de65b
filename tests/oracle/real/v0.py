"""Drives the scheduler of vLLM's first engine (0.5.4 and 0.6.3)."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from case import Case
from clock import Record, Step
from stand_ins import forbid
from vllm.config import CacheConfig, SchedulerConfig
from vllm.core.scheduler import Scheduler as VllmScheduler
from vllm.sampling_params import SamplingParams
from vllm.sequence import Logprob, Sequence, SequenceGroup, SequenceStatus

logging.getLogger("vllm").setLevel(logging.ERROR)

_NO_LOGPROB = {0: Logprob(0.0)}

TWO_BLOCK_MANAGERS = "use_v2_block_manager" in inspect.signature(SchedulerConfig).parameters
"""Releases before 0.6.3 have two, and use the first unless told otherwise; so do we."""


class V0:
    """One real scheduler; the class satisfies ``clock.Scheduler``."""

    def __init__(self, case: Case) -> None:
        self.case = case
        forbid(False)
        self.vllm = VllmScheduler(_scheduler_config(case), _cache_config(case), None)
        if case.get("watermark") is not None:
            blocks = self.vllm.block_manager
            blocks.watermark = case.get("watermark")
            blocks.watermark_blocks = int(blocks.watermark * case.get("num_gpu_blocks"))
        self.known: dict[str, tuple[Record, Sequence]] = {}
        self.moves: dict[str, list[int]] = {}
        self._listen("preempted", "_preempt_by_recompute")
        self._listen("swapped_out", "_swap_out")
        self._listen("swapped_in", "_swap_in")
        forbid()

    def _listen(self, column: str, method: str) -> None:
        """Note, in the order of the calls, for whom a method of the scheduler is called."""
        original = getattr(self.vllm, method)
        noted = self.moves[column] = []

        def listening(group: Any, *rest: Any) -> Any:
            result = original(group, *rest)
            noted.append(int(group.request_id))
            return result

        setattr(self.vllm, method, listening)

    def add(self, record: Record) -> None:
        asked = record.request
        inputs = {"prompt_token_ids": [0] * asked.prompt}
        sequence = Sequence(record.number, inputs, self.case.get("block_size"))
        group = SequenceGroup(
            str(record.number),
            [sequence],
            arrival_time=asked.arrival,
            sampling_params=SamplingParams(max_tokens=asked.output, ignore_eos=True),
        )
        self.known[group.request_id] = (record, sequence)
        self.vllm.add_seq_group(group)

    def abort(self, record: Record) -> bool:
        raise NotImplementedError("aborts are compared on the newer engine only")

    def has_work(self) -> bool:
        return self.vllm.has_unfinished_seqs()

    def schedule(self) -> None:
        for noted in self.moves.values():
            noted.clear()
        self.metadata, self.decided = self.vllm.schedule()[:2]

    def describe(self, now: float) -> Step:
        payload, sched_ids, context = [], [], 0
        tokens = {"prefill": 0, "decode": 0, "free": 0}
        prefills = 0
        for about, scheduled in zip(self.metadata, self.decided.scheduled_seq_groups, strict=True):
            group, count = scheduled.seq_group, scheduled.token_chunk_size
            record, sequence = self.known[group.request_id]
            payload.append((record, sequence, group, count, about.do_sample))
            sched_ids.append(f"{record.number}:{count}")
            context += sequence.data.get_num_computed_tokens() + count
            if record.first_sched is None:
                record.first_sched = now
            if not sequence.is_prefill():
                tokens["decode"] += count
                continue
            prefills += 1
            tokens["prefill"] += count
            record.recomputed += count if record.n_preempt else 0
            fetched = not record.n_preempt or self.case.get("free_recompute")
            tokens["free"] += count if self.case.get("remote_prefill") and fetched else 0
        self._count_moves()
        row = {
            "n_sched": len(sched_ids),
            "n_prefill_seqs": prefills,
            "prefill_tokens": tokens["prefill"],
            "decode_tokens": tokens["decode"],
            "tokens": tokens["prefill"] + tokens["decode"],
            "context": context,
            "sched_ids": sched_ids,
            "n_blk_out": len(self.decided.blocks_to_swap_out),
            "n_blk_in": len(self.decided.blocks_to_swap_in),
            "ignored": self._ignored(now),
            **{column: list(noted) for column, noted in self.moves.items()},
            **self._queues(),
        }
        return Step(row, payload, tokens["free"])

    def _count_moves(self) -> None:
        """A victim counts as preempted from the next step on: this step's chunks are not again."""
        for number in self.moves["preempted"] + self.moves["swapped_out"]:
            self.known[str(number)][0].n_preempt += 1
        for number in self.moves["swapped_in"]:
            self.known[str(number)][0].n_swap_in += 1

    def _ignored(self, now: float) -> list[int]:
        numbers = []
        for group in self.decided.ignored_seq_groups:
            record, _ = self.known[group.request_id]
            record.done, record.status = now, "ignored"
            numbers.append(record.number)
        return numbers

    def _queues(self) -> dict[str, Any]:
        vllm, blocks = self.vllm, self.vllm.block_manager
        state: dict[str, Any] = {
            "blocks_used": blocks.num_total_gpu_blocks - blocks.get_num_free_gpu_blocks(),
            "cpu_blocks_used": blocks.num_total_cpu_blocks - blocks.get_num_free_cpu_blocks(),
        }
        for name in ("waiting", "running", "swapped"):
            queue = getattr(vllm, name)
            state[name] = len(queue)
            state[f"q_{name}"] = [group.request_id for group in queue]
        return state

    def apply(self, step: Step, now: float) -> list[int]:
        """What the engine around the scheduler does with a model's output."""
        finished = []
        for record, sequence, group, count, sampled in step.payload:
            group.update_num_computed_tokens(count)
            if not sampled:
                continue
            sequence.append_token_id(0, _NO_LOGPROB)
            if record.first_token is None:
                record.first_token = now
            if sequence.get_output_len() >= record.request.output:
                sequence.status = SequenceStatus.FINISHED_LENGTH_CAPPED
                record.done, record.status = now, "finished"
                finished.append(record.number)
                if TWO_BLOCK_MANAGERS:  # there the engine frees a sequence, later the scheduler
                    self.vllm.free_seq(sequence)
        self.vllm.free_finished_seq_groups()
        if hasattr(self.vllm, "get_and_reset_finished_requests_ids"):
            self.vllm.get_and_reset_finished_requests_ids()
        return finished


def _scheduler_config(case: Case) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_batched_tokens=case.get("max_num_batched_tokens"),
        max_num_seqs=case.get("max_num_seqs"),
        max_model_len=case.model_length,
        enable_chunked_prefill=case.get("enable_chunked_prefill"),
        preemption_mode=case.get("preemption_mode"),
        **({"use_v2_block_manager": False} if TWO_BLOCK_MANAGERS else {}),
    )


def _cache_config(case: Case) -> CacheConfig:
    config = CacheConfig(
        block_size=case.get("block_size"),
        gpu_memory_utilization=1.0,
        swap_space=0,
        cache_dtype="auto",
    )
    config.num_gpu_blocks = case.get("num_gpu_blocks")
    config.num_cpu_blocks = case.get("num_cpu_blocks")
    return config
