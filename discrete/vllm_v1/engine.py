"""The engine ``vllm_v1``: owns the arrays of one run and drives the compiled kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as replace_fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discrete.vllm.engine import VllmEngine
from discrete.vllm.layout import NOBODY, UNLIMITED
from discrete.vllm.log import VllmLog
from discrete.vllm_v1.clients import Clients
from discrete.vllm_v1.hit_share import tokens_found
from discrete.vllm_v1.kernel import advance
from discrete.vllm_v1.layout import (
    BLOCK,
    CLOCK,
    MEMBER,
    PLAN,
    REQUEST,
    STATE,
    STUCK,
    Connector,
)
from discrete.vllm_v1.levels import numbered, standing
from discrete.vllm_v1.outcome import ABORT_ROW
from discrete.vllm_v1.reports import members, refresh, token_since
from serving import ConfigError, RequestTable, UnsupportedError, WorkloadError
from serving.chains import chains
from serving.setting import whole_numbers

ENDLESS = 1 << 20
"""max_tokens of a request whose answer ends by a stop token."""

NO_LIMIT = 1 << 20
"""max_model_len where nothing limits a request."""

CONNECTORS = {"none": Connector.NONE, "sync": Connector.SYNC, "async": Connector.ASYNC}


class VllmV1Engine(VllmEngine):
    """vLLM's V1 scheduler on a node that computes its prompts; see :class:`VllmEngine`.

    Parameters
    ----------
    max_concurrency
        Most requests that have been sent and have not ended: later ones are sent when one has.
    **others
        Of every vLLM engine.
    """

    state_record, clock_record, request_record = STATE, CLOCK, REQUEST
    stuck_words = {STUCK: "stuck"}  # noqa: RUF012
    refresh, members = staticmethod(refresh), staticmethod(members)
    token_since = staticmethod(token_since)

    def __init__(
        self,
        requests: RequestTable,
        instance: Any,
        *,
        max_concurrency: int | None = None,
        **others: Any,
    ) -> None:
        self._max_concurrency = max_concurrency
        super().__init__(requests, instance, **others)

    def _write_settings(self) -> None:
        super()._write_settings()
        node = self.instance
        own_drafts = node.speculative_method != "ngram"
        in_flight = node.pipeline_parallel_size + node.async_scheduling
        is_new = node.vllm_version != "0.19"
        longest = node.max_model_len or (
            NO_LIMIT if node.enable_chunked_prefill else node.max_num_batched_tokens
        )
        values = {
            "num_blocks": node.num_gpu_blocks,
            "max_num_seqs": node.max_num_seqs,
            "max_active_seqs": node.max_num_active_seqs or node.max_num_seqs,
            "token_budget": node.max_num_batched_tokens,
            "max_model_len": longest,
            "chunked": node.enable_chunked_prefill,
            "long_prefill": node.long_prefill_token_threshold,
            "adaptive": node.long_prefill_token_threshold_adaptive,
            "watermark_blocks": int(node.watermark * node.num_gpu_blocks),
            "reserve_full": node.scheduler_reserve_full_isl,
            "caching": node.enable_prefix_caching,
            "by_priority": node.scheduling_policy == "priority",
            "asynchronous": node.async_scheduling,
            "pipeline": node.pipeline_parallel_size,
            "in_flight": in_flight,
            "stop_token": not node.ignore_eos,
            "drafts": node.num_speculative_tokens,
            "draft_slots": node.num_speculative_tokens > 0
            and node.speculative_method == "draft_model",
            "lookahead": node.num_speculative_tokens if own_drafts else 0,
            "interval": node.prefill_schedule_interval,
            "free_to_tail": not is_new,
            "lone_threshold": not is_new,
            "priority_goes_on": node.vllm_version == "0.33",
            "steps_back": is_new,
            "remote": node.remote_prefill,
            "free_recompute": node.free_recompute,
            "connector": CONNECTORS[node.kv_connector] if node.remote_prefill else 0,
            "track_blocks": node.enable_prefix_caching or self._extended,
            "hash_ahead": self._hash_ahead,
            "shared": node.prefix_hit_share > 0,
        }
        for name, value in values.items():
            self.state[name] = value
        for link in ("head", "tail", "hold_head", "hold_tail", "late_head"):
            self.state[link] = NOBODY
        self.state["free"] = node.num_gpu_blocks - 1
        self.state["last_prefill"] = -node.prefill_schedule_interval
        self._running = np.zeros(node.max_num_seqs + 1, np.int64)
        self._batch = np.zeros(in_flight * node.max_num_seqs, MEMBER)
        self._plan = np.zeros(in_flight, PLAN)
        self._accepts = np.array(whole_numbers(node.speculative_accept or "0"), np.int64)
        self.state["num_accepts"] = self._accepts.size
        self._blocks = _free_blocks(node.num_gpu_blocks)
        self._crc_table = _crc_table()

    @property
    def _hash_ahead(self) -> int:
        """Tokens after a block that its name in the cache holds too."""
        node = self.instance
        is_eagle = node.num_speculative_tokens > 0 and node.speculative_method == "eagle"
        return int(is_eagle and node.enable_prefix_caching)

    def _fill(self, records: NDArray, requests: RequestTable, known: int) -> None:
        node, new = self.instance, slice(known, None)
        if node.kv_connector == "async" and node.free_recompute:
            _refuse_endless_fetches(requests)
        records["limit"][new] = records["output"][new] if node.ignore_eos else ENDLESS
        records["priority"] = requests.priority
        records["rank"] = np.arange(records.size)
        if self.state["by_priority"][0]:
            records["level"], self.state["leaves"] = numbered(requests.priority)
        self._clients = Clients.of(requests, self._max_concurrency)
        if not known:
            self.state["closed"], self.state["ready"] = (
                self._clients.is_closed, self._clients.num_ready,
            )  # fmt: skip
            self.state["max_concurrency"] = self._clients.limit
        for link in ("previous", "next"):
            records[link][new] = NOBODY
        in_flight = self._plan.size
        spare = 2 * (1 + node.num_speculative_tokens) * (in_flight + 1) + node.block_size
        tokens = requests.prefill_length + requests.decode_length + spare
        tracked = bool(self.state["track_blocks"][0])
        entries = tokens // node.block_size + 1 if tracked else np.zeros(records.size, np.int64)
        ends = np.cumsum(entries)
        records["table_at"] = ends - entries
        tables = np.zeros(int(ends[-1]) + 1, np.int32)
        if known:
            size = int(ends[known - 1])
            tables[:size] = self._block_tables[:size]
        self._block_tables = tables
        self._name_blocks(records, requests)
        self._state_hits(records, requests)
        self._set_aborts(requests, known)
        self._find_levels(records)

    def _find_levels(self, records: NDArray) -> None:
        """Find where each priority stands in the queue, which the tables of the levels only say."""
        head, leaves = int(self.state["head"][0]), int(self.state["leaves"][0])
        self._level_last, self._level_tree = standing(records, head, leaves)

    def _name_blocks(self, records: NDArray, requests: RequestTable) -> None:
        """Give every full block of every request the number of its prefix."""
        if not self.instance.enable_prefix_caching:
            self._chains = np.zeros(1, np.int32)
            self._first_block = self._last_block = np.full(1, NOBODY, np.int32)
            return
        named = chains(
            requests.prefill_length, requests.decode_length, requests.contents,
            self.instance.block_size, stop_token=not self.instance.ignore_eos,
            ahead=self._hash_ahead,
        )  # fmt: skip
        records["chain_at"] = named.start[:-1]
        self._chains = np.append(named.ids, np.int32(0))
        ends = []
        for name in ("_first_block", "_last_block"):
            heads = np.full(named.count + 1, NOBODY, np.int32)
            before = getattr(self, name, None)
            if before is not None:
                # prefixes of those who are here keep their numbers: they are named in order
                size = min(before.size, heads.size) - 1
                heads[:size] = before[:size]
            ends.append(heads)
        self._first_block, self._last_block = ends

    def _state_hits(self, records: NDArray, requests: RequestTable) -> None:
        """Say what requests find in the cache, where a share of it is all that is known."""
        share = self.instance.prefix_hit_share
        if share == 0:
            return
        if requests.contents is not None:
            raise ConfigError(
                "prefix_hit_share", share,
                "0 where the requests say what they consist of, from which hits follow",
            )  # fmt: skip
        records["found"] = tokens_found(
            requests.prefill_length, float(share), self.instance.block_size
        )

    def _set_aborts(self, requests: RequestTable, known: int) -> None:
        abort = requests.abort_time
        rows = np.flatnonzero(np.isfinite(abort))
        rows = rows[np.lexsort((rows, abort[rows]))]
        self._aborts = np.zeros(rows.size + 1, ABORT_ROW)
        self._aborts["request"][:-1] = rows
        self._aborts["time"][:-1] = abort[rows]
        self.state["num_aborts"] = rows.size
        if known:
            passed = np.searchsorted(self._aborts["time"][:-1], self.time, side="right")
            self.state["abort_next"] = passed

    def _tables(self) -> dict[str, NDArray]:
        return {
            "blocks": self._blocks, "tables": self._block_tables, "chains": self._chains,
            "first_block": self._first_block, "last_block": self._last_block,
            "running": self._running, "batch": self._batch, "plan": self._plan,
            "accepts": self._accepts, "aborts": self._aborts, "crc_table": self._crc_table,
            "level_last": self._level_last, "level_tree": self._level_tree,
            **self._clients.tables(),
        }  # fmt: skip

    def _advance(self, until: float, steps: int, fuel: int) -> int:
        return advance(self.state, until, steps, fuel)

    def _own_arrays(self) -> dict[str, NDArray]:
        return {
            "blocks": self._blocks, "block_tables": self._block_tables,
            "first_block": self._first_block, "last_block": self._last_block,
            "running": self._running, "batch": self._batch, "plan": self._plan,
            **self._clients.arrays(),
        }  # fmt: skip

    def _restore_own(self, arrays: Mapping[str, NDArray]) -> None:
        self._blocks, self._block_tables = arrays["blocks"], arrays["block_tables"]
        self._first_block, self._last_block = arrays["first_block"], arrays["last_block"]
        self._running, self._batch = arrays["running"], arrays["batch"]
        self._plan = arrays["plan"]
        self._find_levels(self.req)
        limit = int(self.state["max_concurrency"][0])
        self._max_concurrency = None if limit == UNLIMITED else limit
        self._clients = Clients.of(self.requests, self._max_concurrency)
        self._clients.restore(arrays)

    def hold_back(self) -> None:
        """Let nobody arrive but whom :meth:`send` sends; see :meth:`discrete.Engine.hold_back`."""
        if self._clients.is_closed:
            raise UnsupportedError(
                "requests are held back where all come at given times; allowed: no session_id and "
                "no --max-concurrency"
            )
        super().hold_back()
        self._clients.arrivals = self._arrivals

    def _put(self, number: int, row: int, time: float) -> None:
        super()._put(number, row, time)
        self.req["rank"][number] = number

    def _refuse_named_blocks(self) -> None:
        """Refuse to hand over requests whose blocks are numbered as those who were offered."""
        if self._sent is not None and self.state["track_blocks"][0]:
            raise UnsupportedError(
                "an engine with a prefix cache that is sent requests one at a time cannot be saved "
                "or given others"
            )

    def arrays(self) -> dict[str, NDArray]:
        """Return everything that changes, by name; with the requests it is the whole state."""
        self._refuse_named_blocks()
        return super().arrays()

    def inject(
        self, requests: RequestTable, *, at: float | None = None, replace: bool = True
    ) -> None:
        """Send other requests from a given time on; see :meth:`discrete.Engine.inject`.

        Raises
        ------
        UnsupportedError
            If a client waits for answers: who has sent what is then known only by the run.
        """
        if self._clients.is_closed or requests.has_sessions:
            raise UnsupportedError(
                "requests are injected where all come at given times; allowed: no session_id and "
                "no --max-concurrency"
            )
        self._refuse_named_blocks()
        super().inject(requests, at=at, replace=replace)

    def _requests_as_sent(self) -> RequestTable:
        return replace_fields(self.requests, arrival_time=self._clients.arrivals)

    def _log(self) -> VllmLog:
        log = super()._log()
        if not self._clients.is_closed:
            return log
        return log.in_order(*self._clients.sent(log.num_arrived, self.time))


def _refuse_endless_fetches(requests: RequestTable) -> None:
    short = requests.prefill_length == 1
    if short.any():
        raise WorkloadError(
            "with kv_connector async and free_recompute vLLM fetches a prompt of 1 token again and "
            "again; allowed: longer prompts",
            row=int(np.argmax(short)) + 1, column="prefill_length", value=1,
        )  # fmt: skip


def _free_blocks(number: int) -> NDArray:
    """Return the blocks of an empty pool: 1, 2, ... are free in this order, 0 is never used."""
    blocks = np.zeros(number + 2, BLOCK)
    before, after = number, number + 1
    order = np.concatenate([[before], np.arange(1, number), [after]])
    blocks["next"][order[:-1]] = order[1:]
    blocks["previous"][order[1:]] = order[:-1]
    for link in ("chain", "next_alike", "previous_alike"):
        blocks[link] = NOBODY
    return blocks


@cache
def _crc_table() -> NDArray[np.int64]:
    """Return the CRC-32 of every byte, for the checksum of the free queue."""
    values = np.arange(256, dtype=np.int64)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ 0xEDB88320, values >> 1)
    return values
