"""What the prefix cache of a server will find, by the size of its memory, without simulating it.

How deep a prefix lies in memory follows from the requests and from how long each of them stays. How
long they stay follows from the batch-time law, the rate, and the work that the cache saves. The two
are put together until they agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, FluidServeError, RequestTable, UnsupportedError, VllmV1
from serving.compilation import compiled
from studies.prefix_cache.pace import Pace, pace
from workload import HitCurve, Prefixes, Stays, hit_curve, prefixes_of

PRECISION = 1e-4
"""Hit share up to which rates and stays have to agree."""

ROUGH = 5e-3
"""The same after half of the rounds: of few requests a single one moves the hit share so much."""

ROUNDS = 60
"""Rounds after which they are given up."""


@dataclass(frozen=True, slots=True)
class CachePoint:
    """A server with a memory of one size.

    Parameters
    ----------
    blocks : [blocks]
        KV blocks that requests can hold.
    tokens : [tokens]
        The same in tokens.
    hit_share
        Share of the prompt tokens that the cache finds.
    held_share
        Share of the memory that running requests hold, mean over time.
    load
        Arrival rate over what the server can do when its cache finds so much.
    step_time : [time]
        Mean time of a step.
    binds
        What a full server has not enough of.
    """

    blocks: int
    tokens: int
    hit_share: float
    held_share: float
    load: float
    step_time: float
    binds: str

    @property
    def is_overloaded(self) -> bool:
        """Whether more arrives than the server can do: the queue grows."""
        return self.load >= 1


class PrefixCache:
    """The prefixes of requests, and what caches find of them.

    Parameters
    ----------
    requests
        With contents.
    block_size : [tokens]
    stop_token
        Whether answers end by a stop token, which they have in common.

    Raises
    ------
    UnsupportedError
        If nobody knows what the requests consist of.
    """

    def __init__(
        self, requests: RequestTable, block_size: int = 16, *, stop_token: bool = True
    ) -> None:
        check_contents(requests)
        requests.refuse_sessions("the order in which prompts are looked up")
        self.requests = requests
        self.mix = requests.mix()
        self.prefixes: Prefixes = prefixes_of(requests, block_size, stop_token=stop_token)
        self.curve: HitCurve = hit_curve(requests, self.prefixes)

    def on(self, node: VllmV1, blocks: int | None = None) -> CachePoint:
        """Return what the cache of a server finds.

        Parameters
        ----------
        node
            The server; its blocks are those of ``prefixes``.
        blocks : [blocks]
            KV blocks that requests can hold, in place of its own.

        Raises
        ------
        UnsupportedError
            For a setting under which the cache works in another way.
        ConfigError
            If a request does not fit.
        FluidServeError
            If hit share and stays do not come to agree.
        """
        refuse(node)
        if node.block_size != self.prefixes.block_size:
            raise ConfigError("block_size", node.block_size, f"{self.prefixes.block_size}")
        usable = node.num_gpu_blocks - 1 if blocks is None else int(blocks)
        need = int((self.requests.prefill_length + self.requests.decode_length).max())
        if usable < math.ceil(need / node.block_size):
            raise ConfigError(
                "blocks", usable, f">= {math.ceil(need / node.block_size)}, the largest request"
            )
        node = replace(node, num_gpu_blocks=usable + 1)
        rate = self._rate()
        share, distinct = float(self.curve.hit_share(usable)), 1.0
        for k in range(ROUNDS):
            now = pace(node, self.mix, rate, share, distinct)
            stays = stays_of(self.requests, node, now, share, distinct)
            curve = hit_curve(self.requests, self.prefixes, stays)
            before, share = share, float(curve.hit_share(usable))
            distinct = distinct_share(self.requests, self.prefixes, stays, curve)
            if abs(share - before) < (PRECISION if k < ROUNDS // 2 else ROUGH):
                return CachePoint(
                    usable, usable * node.block_size, share, min(curve.held / usable, 1.0),
                    now.load, now.step, now.binds,
                )  # fmt: skip
        raise FluidServeError(
            f"{usable} blocks: hit share and stays do not come to agree: {before:.4f}, {share:.4f}"
        )

    def _rate(self) -> float:
        arrival = self.requests.arrival_time
        lasts = float(arrival[-1] - arrival[0])
        if lasts <= 0:
            raise FluidServeError("all requests arrive at one time, which is no rate")
        return (len(self.requests) - 1) / lasts


def distinct_share(
    requests: RequestTable, prefixes: Prefixes, stays: Stays, curve: HitCurve
) -> float:
    """Return distinct blocks of running requests over those that each would hold alone."""
    alone = (requests.prefill_length + requests.decode_length / 2) / prefixes.block_size
    lasts = stays.finished - stays.admitted
    period = float(stays.finished.max() - stays.admitted.min())
    each = float(alone @ lasts) / period if period > 0 else 0.0
    return min(curve.held / each, 1.0) if each > 0 else 1.0


def stays_of(
    requests: RequestTable, node: VllmV1, now: Pace, hit_share: float, distinct: float
) -> Stays:
    """Return when requests are in memory on a server that works at a pace.

    Prompts are computed one after another. Nobody is admitted before there is memory and a seat
    for him, counted as flows: a request takes its time in memory out of the memory's time.
    """
    prompt = requests.prefill_length * (1 - hit_share) * now.prompt
    stay = prompt + requests.decode_length * now.step
    tokens = distinct * (requests.prefill_length + requests.decode_length / 2)
    memory = stay * tokens / (node.block_size * (node.num_gpu_blocks - 1))
    seats = stay / (node.max_num_active_seqs or node.max_num_seqs)
    admitted = _in_turn(requests.arrival_time, np.stack([prompt, memory, seats]))
    return Stays(admitted, admitted + stay)


@compiled
def _in_turn(arrival, service):
    """Return when each is served who needs several servers, each of which serves one at a time."""
    admitted = np.empty(arrival.size)
    free = np.full(service.shape[0], -np.inf)
    for r in range(arrival.size):
        start = arrival[r]
        for k in range(free.size):
            start = max(start, free[k])
        for k in range(free.size):
            free[k] = start + service[k, r]
        admitted[r] = start
    return admitted


def check_contents(requests: RequestTable) -> None:
    """Refuse requests of which nobody knows what they consist of, or how long they stay."""
    if requests.has_aborts:
        raise UnsupportedError(
            "the hit share is not predicted where clients give up (abort_time): how long their "
            "requests stay is not known"
        )
    if requests.contents is None:
        raise UnsupportedError(
            "nothing says what these requests have in common, so that no cache finds anything: "
            "that takes the columns content of a request file, the hash_ids of a trace, or "
            "--turns or --system-prompts of the generator"
        )


def refuse(node: VllmV1) -> None:
    """Refuse settings under which the cache works in another way."""
    for key, value, why in (
        ("enable_prefix_caching", node.enable_prefix_caching is False, "there is no cache"),
        ("remote_prefill", node.remote_prefill, "prompts are computed elsewhere"),
        ("num_speculative_tokens", node.num_speculative_tokens > 0, "drafts take blocks too"),
        ("scheduling_policy", node.scheduling_policy != "fcfs", "requests overtake each other"),
        (
            "long_prefill_token_threshold",
            node.long_prefill_token_threshold > 0,
            "prompts stay longer",
        ),
    ):
        if value:
            raise UnsupportedError(
                f"the hit share is not predicted with {key} {getattr(node, key)}: {why}"
            )


def sizes_between(low: float, high: float, number: int) -> NDArray[np.int64]:
    """Return whole sizes evenly spaced by their logarithm, ends included."""
    return np.unique(np.round(np.geomspace(max(low, 1), max(high, low, 1), number)).astype(int))
