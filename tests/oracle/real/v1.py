"""Drives the scheduler of vLLM's present engine (0.19 and 0.33), plain or asynchronous."""

from __future__ import annotations

import logging
import zlib
from array import array
from dataclasses import dataclass
from typing import Any

import vllm.v1.core.sched.output as scheduler_output
from case import Case
from clock import Record, Step
from connector import RemotePrefill
from stand_ins import forbid
from v1_config import hash_lookahead, kv_cache_config, structured_output, vllm_config
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler as PlainScheduler
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request as VllmRequest
from vllm.v1.request import RequestStatus

logging.getLogger("vllm").setLevel(logging.ERROR)
# It prepares pictures for the workers; there are none, and its module is absent.
scheduler_output.strip_covered_mm_data = lambda features, *_, **__: features

STOP_TOKEN = -7
NEVER = 1 << 20
"""``max_tokens`` of a request whose end nobody knows."""


@dataclass
class _Part:
    """One request's share of a step."""

    record: Record
    request: VllmRequest
    tokens: int
    samples: bool
    had_sampled: bool


@dataclass
class _Payload:
    decided: Any
    parts: list[_Part]


class V1:
    """One real scheduler; the class satisfies ``clock.Scheduler``."""

    def __init__(self, case: Case) -> None:
        forbid(False)
        self.case = case
        which = AsyncScheduler if case.get("async_scheduling") else PlainScheduler
        self.vllm = which(
            vllm_config(case),
            kv_cache_config(case),
            structured_output(),
            block_size=case.get("block_size"),
        )
        self.vllm.kv_event_publisher = None
        self.pool = self.vllm.kv_cache_manager.block_pool
        self.hasher = self._hasher()
        self.connector = self._connector()
        self.known: dict[str, tuple[Record, VllmRequest]] = {}
        self.has_sampled: set[str] = set()
        self.verified: dict[int, int] = {}
        self.victims: list[str] = []
        self.evicted = 0
        self._listen()
        forbid()

    def _hasher(self) -> Any:
        if not self.case.get("enable_prefix_caching"):
            return None
        init_none_hash(sha256)
        ahead = hash_lookahead(self.case)
        return get_request_block_hasher(
            self.case.get("block_size"), sha256, *([ahead] if ahead else [])
        )

    def _connector(self) -> RemotePrefill | None:
        mode = self.case.get("kv_connector")
        if not self.case.get("remote_prefill") or mode == "none":
            return None
        if self.case.steps_in_flight > 1 or self.case.get("num_speculative_tokens"):
            raise ValueError("a connector is compared one step at a time and without drafts")
        self.vllm.connector = RemotePrefill(mode, self.case.get("free_recompute"))
        return self.vllm.connector

    def _listen(self) -> None:
        """Note who is preempted and which cached blocks are given up."""
        preempt, evict = self.vllm._preempt_request, self.pool._maybe_evict_cached_block

        def preempting(request: VllmRequest, *rest: Any, **named: Any) -> Any:
            self.victims.append(request.request_id)
            return preempt(request, *rest, **named)

        def evicting(block: Any) -> None:
            self.evicted += evict(block)

        self.vllm._preempt_request = preempting
        self.pool._maybe_evict_cached_block = evicting

    def add(self, record: Record) -> None:
        asked = record.request
        request = VllmRequest(
            f"{record.number:08d}",  # ties of priority are broken by the id, as text
            asked.prompt_tokens(record.number),
            SamplingParams(
                max_tokens=asked.output if self.case.get("ignore_eos") else NEVER,
                ignore_eos=True,
                stop_token_ids=[STOP_TOKEN],
            ),
            None,
            arrival_time=asked.arrival,
            priority=asked.priority,
            block_hasher=self.hasher,
        )
        self.known[request.request_id] = (record, request)
        self.vllm.add_request(request)

    def abort(self, record: Record) -> bool:
        name = f"{record.number:08d}"
        if name not in self.known:
            return False
        return bool(self.vllm.finish_requests(name, RequestStatus.FINISHED_ABORTED))

    def has_work(self) -> bool:
        if self.case.steps_in_flight > 1:  # who has finished must still be told to the workers
            return self.vllm.has_requests()
        return self.vllm.get_num_unfinished_requests() > 0

    def schedule(self) -> None:
        self.victims.clear()
        self.evicted = 0
        self.were_running = {request.request_id for request in self.vllm.running}
        self.decided = self.vllm.schedule()

    def describe(self, now: float) -> Step:
        for name in self.victims:
            self.known[name][0].n_preempt += 1
            self.has_sampled.discard(name)
        parts = [self._part(name, n) for name, n in self.decided.num_scheduled_tokens.items()]
        hits = self._hits(parts)
        for part in parts:
            if part.record.first_sched is None:
                part.record.first_sched = now
        prefills = [part for part in parts if not part.had_sampled]
        prefill_tokens = sum(part.tokens for part in prefills)
        tokens = sum(part.tokens for part in parts)
        for part in prefills:
            part.record.recomputed += part.tokens if part.record.n_preempt else 0
        row = {
            "n_sched": len(parts),
            "n_prefill_seqs": len(prefills),
            "prefill_tokens": prefill_tokens,
            "decode_tokens": tokens - prefill_tokens,
            "tokens": tokens,
            "context": sum(part.request.num_computed_tokens for part in parts),
            "sched_ids": [f"{part.record.number}:{part.tokens}" for part in parts],
            "preempted": [int(name) for name in self.victims],
            "ignored": [],
            "hits": hits,
            "drafts": [],
            **self._queues(),
            **self._pool(),
        }
        loading = self.connector is not None and bool(self.connector.on_the_way)
        return Step(row, _Payload(self.decided, parts), self._free_tokens(prefills), loading)

    def _part(self, name: str, tokens: int) -> _Part:
        record, request = self.known[name]
        had_sampled = name in self.has_sampled
        samples = not request.is_prefill_chunk
        if samples:
            self.has_sampled.add(name)
        return _Part(record, request, tokens, samples, had_sampled)

    def _hits(self, parts: list[_Part]) -> list[str]:
        """Tokens that who was admitted in this step did not have to compute."""
        hits = []
        for part in parts:
            found = part.request.num_computed_tokens - part.tokens
            if part.request.request_id not in self.were_running and found > 0:
                part.record.hit_tokens += found
                hits.append(f"{part.record.number}:{found}")
        return hits

    def _free_tokens(self, prefills: list[_Part]) -> int:
        """Without a connector, a remote prefill is one that takes no time."""
        if not self.case.get("remote_prefill") or self.connector is not None:
            return 0
        again = self.case.get("free_recompute")
        return sum(part.tokens for part in prefills if again or not part.record.n_preempt)

    def _queues(self) -> dict[str, Any]:
        held = list(getattr(self.vllm, "kv_holding_waiting", ()))  # not before vLLM 0.30
        queues = {
            "waiting": [*held, *self.vllm.waiting],
            "running": list(self.vllm.running),
            "swapped": [],
        }
        state: dict[str, Any] = {name: len(queue) for name, queue in queues.items()}
        for name, queue in queues.items():
            state[f"q_{name}"] = [int(request.request_id) for request in queue]
        return state | {"swapped_out": [], "swapped_in": [], "n_blk_out": 0, "n_blk_in": 0}

    def _pool(self) -> dict[str, Any]:
        usable = self.case.get("num_gpu_blocks") - 1  # block 0 is never given out
        state = {
            "blocks_used": usable - self.pool.get_num_free_blocks(),
            "cpu_blocks_used": 0,
            "n_evicted": self.evicted,
        }
        if self.case.extended:
            state["n_hashes"] = len(self.pool.cached_block_hash_to_block)
            state["pool_crc"] = self._free_queue_crc()
        return state

    def _free_queue_crc(self) -> int:
        """CRC-32 of the free blocks' ids, as int32, in the order in which they will be taken."""
        queue = self.pool.free_block_queue
        ids, block = array("i"), queue.fake_free_list_head.next_free_block
        while block is not queue.fake_free_list_tail:
            ids.append(block.block_id)
            block = block.next_free_block
        return zlib.crc32(ids.tobytes())

    def apply(self, step: Step, now: float) -> list[int]:
        """Give the scheduler the output of a model that knows every answer beforehand."""
        decided, parts = step.payload.decided, step.payload.parts
        names = [part.request.request_id for part in parts]
        spoken = [self._spoken(part, decided, step.row) for part in parts]
        output = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, spoken)
        if self.connector is not None and (arrived := self.connector.arrived()):
            output.kv_connector_output = KVConnectorOutput(finished_recving=arrived)
        self.vllm.update_from_output(decided, output)
        finished, drafting = [], []
        for part in parts:
            if part.record.status != "pending":
                continue
            if part.samples:
                drafting.append(part.request.request_id)
                if part.record.first_token is None:
                    part.record.first_token = now
            if part.request.is_finished():
                part.record.done, part.record.status = now, "finished"
                finished.append(part.record.number)
        self._propose_drafts(drafting)
        return finished

    def _spoken(self, part: _Part, decided: Any, row: dict[str, Any]) -> list[int]:
        """Tokens that one request's share of a step yields, accepted drafts included."""
        if not part.samples or part.request.is_finished():
            return []
        accepted = 0
        if drafts := len(decided.scheduled_spec_decode_tokens.get(part.request.request_id, ())):
            accepted = self._accepted(part, drafts)
            row["drafts"].append(f"{part.record.number}:{drafts}:{accepted}")
        first, asked = part.request.num_output_tokens, part.record.request
        return [
            STOP_TOKEN
            if place == asked.output - 1 and not self.case.get("ignore_eos")
            else asked.answer_token(place)
            for place in range(first, first + 1 + accepted)
        ]

    def _accepted(self, part: _Part, drafts: int) -> int:
        """How many drafts pass; a padded admission has none that could."""
        if not part.had_sampled:
            return 0
        number, shares = part.record.number, self.case.get("speculative_accept")
        verification = self.verified.get(number, 0)
        self.verified[number] = verification + 1
        accepted = min(drafts, shares[(number + verification) % len(shares)])
        part.record.accepted += accepted
        return accepted

    def _propose_drafts(self, names: list[str]) -> None:
        """Drafts come back after a step, but in asynchronous scheduling they stay on the card."""
        count = self.case.get("num_speculative_tokens")
        if count and names and not self.case.get("async_scheduling"):
            self.vllm.update_draft_token_ids(DraftTokenIds(names, [[-1] * count for _ in names]))
