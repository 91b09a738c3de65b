"""What an LLM serving instance is: per engine, its batch-time law, memory and scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from serving.batch_time import BatchTimeLaw
from serving.setting import check_settings, setting

TIME_UNITS = ("none", "s", "ms")
MODES = ("swapping", "sacrifice")
QUEUE_POLICIES = ("FCFS", "priority", "SJF")
MOST_TOKENS = 2**53
"""Up to here a float64 holds every whole number, so sums of tokens stay exact."""

VICTIM_POLICIES = ("LIFO", "FIFO", "LRU", "random")


@dataclass(frozen=True, slots=True)
class DecodeNode:
    """A decode node of a disaggregated deployment (engine ``decode_node``).

    A request brings its prompt's KV; it holds p + k tokens after k decoded ones and costs
    p + k + 1 batch tokens per iteration. Later engines are siblings of this class.
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

    engine = "decode_node"

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def token_budget(self) -> int:
        """``B`` [tokens]; a number that never binds where ``B`` is None."""
        return 2**62 if self.B is None else self.B

    def scaled(self, n: int) -> DecodeNode:
        """Return a node ``n`` times as large whose batches take as long.

        Memory and budget grow by ``n``, times per token shrink by ``n``: with arrivals ``n`` times
        as frequent, the fluid limit stays and the noise falls like ``1/sqrt(n)``.
        """
        budget = None if self.B is None else self.B * n
        law = self.batch_time.scaled(n)
        return replace(self, batch_time=law, M_total=self.M_total * n, B=budget)
