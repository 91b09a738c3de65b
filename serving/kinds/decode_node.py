"""The kind ``decode_node``: prompts come prefilled, requests only decode."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from serving.arguments import checked
from serving.batch_time import BatchTimeLaw
from serving.kinds.kind import Column, Event, Kind, KnobSpec, Limit, Reading
from serving.request_mix import RequestMix
from serving.setting import check_settings, setting

TIME_UNITS = ("none", "s", "ms")
"""Units of time; ``none`` leaves the unit open."""

MODES = ("swapping", "sacrifice")
"""What happens to a request that memory has no room for any more."""

QUEUE_POLICIES = ("FCFS", "priority", "SJF")
"""Orders in which WAITING is admitted."""

VICTIM_POLICIES = ("LIFO", "FIFO", "LRU", "random")
"""Ways to choose who is evicted."""

MOST_TOKENS = 2**53
"""Up to this number a float64 holds every whole number, so that sums of tokens stay exact."""


@dataclass(frozen=True, slots=True)
class DecodeNode:
    """A decode node of a disaggregated deployment (engine ``decode_node``).

    A request brings its prompt's KV; it holds p + k tokens after k decoded ones and costs
    p + k + 1 batch tokens per iteration.
    """

    batch_time: BatchTimeLaw = field(default_factory=BatchTimeLaw)
    time_unit: str = setting("none", "unit of every time", choices=TIME_UNITS)
    mode: str = setting("swapping", "what happens to an evicted request", choices=MODES)
    M_total: int = setting(10000, "KV memory [tokens]", minimum=1, maximum=MOST_TOKENS)
    B: int | None = setting(
        2000, "batch token budget [tokens]; null = unlimited", minimum=1, maximum=MOST_TOKENS
    )
    admission_threshold: float = setting(
        1.0, "admit only while used < threshold * M_total", exclusive_minimum=0, maximum=1
    )
    queue_policy: str = setting(
        "FCFS", "order of admission", choices=QUEUE_POLICIES, user_function=True
    )
    victim_policy: str = setting(
        "LIFO", "who is evicted", choices=VICTIM_POLICIES, user_function=True
    )
    batch_priority: str = setting(
        "standard", "order of the batch: RUNNING's entry order", choices=("standard",)
    )
    length_source: str = setting("oracle", "length that SJF reads", choices=("oracle", "predicted"))

    engine: ClassVar[str] = "decode_node"

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def token_budget(self) -> int:
        """``B`` [tokens]; a number that never binds where ``B`` is None."""
        return 2**62 if self.B is None else self.B

    @checked(n="> 0")
    def scaled(self, n: int) -> DecodeNode:
        """Return a node ``n`` times as large whose batches take as long.

        Memory and budget grow by ``n``, times per token shrink by ``n``: with arrivals ``n`` times
        as frequent, the fluid limit stays and the noise falls like ``1/sqrt(n)``.
        """
        budget = None if self.B is None else self.B * n
        law = self.batch_time.scaled(n)
        return replace(self, batch_time=law, M_total=self.M_total * n, B=budget)


def _line(node: DecodeNode) -> str:
    budget = "unlimited" if node.B is None else f"{node.B:,}"
    return f"{node.mode}, M_total {node.M_total:,}, B {budget}"


def _limits(node: DecodeNode) -> dict[str, Limit]:
    budget = math.inf if node.B is None else float(node.B)
    return {
        "memory": Limit(float(node.M_total), "M_total"),
        "batch_tokens": Limit(budget, "budget B"),
    }


def _longest(mix: RequestMix) -> int:
    """Return the tokens of the largest request at its end."""
    return math.ceil((mix.prefill + mix.decode).max())


def _memory_bracket(mix: RequestMix, node: DecodeNode) -> tuple[float, float]:
    least = _longest(mix)
    return least, 4.0 * max(node.M_total, least)


def _budget_bracket(mix: RequestMix, node: DecodeNode) -> tuple[float, float]:
    least = _longest(mix)
    return least, float(max(node.M_total, least + 1))


def _token_limits(mix: RequestMix, _: DecodeNode) -> tuple[float, float]:
    return _longest(mix), float(MOST_TOKENS)


def _forgets(node: DecodeNode) -> bool:
    # a user's policy is told the time
    return node.queue_policy in QUEUE_POLICIES and node.victim_policy in VICTIM_POLICIES


DECODE_NODE = Kind(
    name="decode_node",
    title="a decode node of a disaggregated deployment: prompts come prefilled",
    settings=DecodeNode,
    engine="discrete.decode_node.engine:DecodeNodeEngine",
    law_keys=("d_0", "d_decode", "d_kv", "d_swap", "d_decode_table"),
    line=_line,
    largest_request=lambda node: Limit(node.M_total, f"M_total = {node.M_total}"),
    limits=_limits,
    reading=lambda node: Reading("decode_node", node),
    forgets=_forgets,
    is_random=lambda node: node.victim_policy == "random",
    kv_keys=lambda tokens, given: {"M_total": tokens, "B": None},
    snapshot=(
        Column("time", "time", "end of the batch"),
        Column("batch_id", "", "number of the batch, from 0"),
        Column("batch_size", "requests", "requests that executed", "batch_size"),
        Column("batch_tokens", "tokens", "sum of p + k + 1 over them", "batch_tokens"),
        Column("batch_duration", "time", "duration of the batch", "batch_duration"),
        Column("waiting_count", "requests", "requests in WAITING", "waiting"),
        Column("running_count", "requests", "requests in RUNNING", "running"),
        Column("swapped_count", "requests", "requests in SWAPPED", "swapped"),
        Column("completed_count", "requests", "completions so far", "completed"),
        Column("gpu_memory_used", "tokens", "KV held by RUNNING", "memory"),
        Column("memory_utilization", "", "KV held by RUNNING over M_total"),
    ),
    events=(
        Event("arrive", "waiting"),
        Event("admit", "running"),
        Event("swap_out", "swapped", "S", "swapped out", "swap_count"),
        Event("swap_in", "running"),
        Event("sacrifice", "waiting", "R", "restarted", "sacrifice_count"),
        Event("complete", None),
    ),
    knobs=(
        KnobSpec(
            "M_total", "smallest KV memory [tokens]", "smaller", "log",
            _memory_bracket, _token_limits, integer=True,
        ),
        KnobSpec(
            "B", "smallest batch token budget [tokens]", "smaller", "log",
            _budget_bracket, _token_limits, integer=True,
        ),
        KnobSpec(
            "admission_threshold", "largest share of KV memory up to which requests are admitted",
            "larger", "linear", lambda mix, node: (0.05, 1.0), lambda mix, node: (0.0, 1.0),
        ),
    ),
)  # fmt: skip
"""The declaration of the kind."""
