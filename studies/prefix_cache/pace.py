"""How fast a server works when its cache finds a share of the prompts: the seam to the fluid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving import RequestTable, VllmV1
from serving.kinds.vllm_v1 import usable_tokens

HALVINGS = 60
"""Halvings of an interval of step times: to the last bit."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The mean step of a server under steady arrivals.

    Parameters
    ----------
    load
        Arrival rate over the rate at which the server just keeps up.
    step : [time]
        Mean time of a step; where the load is 1 or above, of a step of the full server.
    prompt : [time/token]
        Of a prompt token in steps that are full of them.
    binds
        What a full server has not enough of: KV blocks, seats or tokens of a step.
    """

    load: float
    step: float
    prompt: float
    binds: str


def pace(
    node: VllmV1, requests: RequestTable, rate: float, hit_share: float, distinct: float = 1.0
) -> Pace:
    """Return how fast a server works.

    Parameters
    ----------
    node
        Law and limits.
    requests
        Whose mean lengths count.
    rate : [requests/time]
        At which they arrive.
    hit_share
        Share of each prompt that the cache finds.
    distinct
        Distinct blocks that running requests hold over those that they would hold alone.

    Notes
    -----
    A mean over steps, which is exact for a law that is a line; steps with and without prompts are
    not told apart.
    """
    p, D = requests.prefill_length.astype(float), requests.decode_length.astype(float)
    own, found = p * (1 - hit_share), p * hit_share
    budget = float(node.max_num_batched_tokens)
    decodes = float(D.mean()) - 1 + node.async_scheduling * (not node.ignore_eos)
    context = float((p * D + D * (D - 1) / 2).mean())
    chunks = np.ceil(own / budget)
    known = float((chunks * found + own * (chunks - 1) / 2).mean())
    attention = float((own * (found + (own + 1) / 2)).mean())

    def duration(x: float) -> float:
        """Return the time of a step in which so many requests begin."""
        law = node.batch_time
        time = float(law.step_duration(
            x * decodes, x * context, x * own.mean(), x * attention, x * known
        ))  # fmt: skip
        return max(time, node.cpu_gap) if node.async_scheduling else time + node.cpu_gap

    stay = decodes + float(chunks.mean())
    held = max(distinct * float(((p + D / 2) * (D + chunks)).mean()), 1e-300)
    limits = {
        "KV blocks": usable_tokens(node) / held,
        "max_num_seqs": (node.max_num_active_seqs or node.max_num_seqs) / stay,
        "max_num_batched_tokens": budget / (decodes + float(own.mean())),
    }
    binds = min(limits, key=limits.__getitem__)
    most = limits[binds]
    full = duration(most)
    load = rate * full / most
    low, high = 0.0, full
    for _ in range(HALVINGS if load < 1 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if duration(rate * middle) > middle else (low, middle)
    step = high if load < 1 else full
    running = min(rate * step, most)
    law = node.batch_time
    room = max(budget - running * decodes, 1.0)
    prompt = float(law.step_duration(running * decodes, running * context + room, room))
    return Pace(load, step, prompt / room, binds)
