"""The instance and its policies, as the kernel sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import NDArray

from discrete.decode_node.layout import UNLIMITED, Queue, Victim
from discrete.decode_node.policies import UserPolicy, user_policy
from serving import DecodeNode

QUEUES = {"FCFS": Queue.FCFS, "priority": Queue.KEYED, "SJF": Queue.KEYED}
VICTIMS = {
    "LIFO": Victim.LIFO,
    "FIFO": Victim.FIFO,
    "LRU": Victim.LRU,
    "random": Victim.RANDOM,
}


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of an instance; users' are compiled and kept alive here."""

    queue: Queue
    victim: Victim
    user_queue: UserPolicy | None
    user_victim: UserPolicy | None

    @classmethod
    def of(cls, instance: DecodeNode) -> Policies:
        """Find, and where a user wrote them compile, the policies of ``instance``.

        Raises
        ------
        ConfigError
            If a user's policy cannot be used.
        """
        queue, victim = instance.queue_policy, instance.victim_policy
        return cls(
            QUEUES.get(queue, Queue.USER),
            VICTIMS.get(victim, Victim.USER),
            None if queue in QUEUES else user_policy("queue_policy", queue),
            None if victim in VICTIMS else user_policy("victim_policy", victim),
        )

    @property
    def any_user(self) -> bool:
        """Whether a user wrote one of them."""
        return self.user_queue is not None or self.user_victim is not None


def write_settings(
    state: NDArray,
    node: DecodeNode,
    policies: Policies,
    *,
    record_batches: bool,
    record_events: bool,
) -> None:
    """Write the settings into the kernel's state record, shape (1,)."""
    values = {
        "M_total": node.M_total,
        "B": min(node.token_budget, UNLIMITED),
        "admission_limit": math.ceil(node.admission_threshold * node.M_total),
        "sacrifice": node.mode == "sacrifice",
        "queue": policies.queue,
        "victim": policies.victim,
        "queue_address": policies.user_queue.address if policies.user_queue else 0,
        "victim_address": policies.user_victim.address if policies.user_victim else 0,
        "track_last_batch": policies.any_user or policies.victim == Victim.LRU,
        "record_batches": record_batches,
        "record_events": record_events,
    }
    for name, value in values.items():
        state[name] = value
