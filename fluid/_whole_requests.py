"""A saturated node that holds few requests: whole ones, packed as the engine packs them.

The tokens that a full batch leaves unused are, on average, half of the entrant that did not fit
(:func:`fluid.straddle`): that is the limit of many requests in no particular step. Two or three
requests that are alike fill a budget of 2.9 requests like one of 2, and a memory of few requests
evicts all the time. There is no closed form for that, so the saturated node is marched: an endless
queue of requests drawn from the mix, admitted, executed and evicted one by one by the rules of the
engine (FCFS, LIFO). Nothing is random but the order of the requests, which is the same every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from serving import DecodeNode, RequestMix, answers
from serving.batch_kernel import batch_duration
from serving.compilation import compiled

MOST_STEPS = 4_000_000
"""Requests times decoded tokens that a march may take: about a tenth of a second."""

MOST_REQUESTS, FEWEST_REQUESTS = 8192, 512
"""Requests of a march. The tokens of its batches are known to about .1 % with the most."""

WARM_UP = 0.1
"""Share of the requests that are admitted before anything is counted."""

SEED = 20_000


@dataclass(frozen=True, slots=True)
class WholeRequests:
    """A saturated node of whole requests, averaged over iterations.

    Parameters
    ----------
    batch_tokens : [tokens]
        Mean tokens of a batch, less those that an eviction has made worthless.
    batch_time : [time]
        Mean duration of a batch.
    beyond_law : [time]
        What of it the law does not give a batch of the mean tokens and requests: the law's bends
        and the swaps.
    evictions_per_completion
        Swap-outs or sacrifices of requests that have decoded something.
    batches
        How many were counted.
    """

    batch_tokens: float
    batch_time: float
    beyond_law: float
    evictions_per_completion: float
    batches: int

    def throughput(self, mix: RequestMix) -> float:
        """Return completions per time of requests of ``mix``; infinite if a batch takes no time."""
        if self.batch_time <= 0:
            return float("inf")
        return self.batch_tokens / (mix.work * self.batch_time)


@answers("decode_node")
@lru_cache(maxsize=256)
def whole_requests(mix: RequestMix, instance: DecodeNode) -> WholeRequests:
    """March ``instance`` with an endless queue of requests of ``mix`` (known by identity).

    Parameters
    ----------
    mix, instance
        The queue and victim policies are read as FCFS and LIFO. A request too large for the memory
        counts as running alone.
    """
    count = int(np.clip(MOST_STEPS / mix.mean_decode, FEWEST_REQUESTS, MOST_REQUESTS))
    prefill, decode = in_a_fixed_order(mix, count)
    law = instance.batch_time.vector()
    most = min(instance.M_total, instance.token_budget) / (prefill.min() + 2) + 4
    batches, time, tokens, executed, size, completed, evicted = _marched(
        law.ctypes.data,
        prefill,
        decode,
        float(instance.M_total),
        float(instance.token_budget),
        instance.admission_threshold * instance.M_total,
        instance.mode == "sacrifice",
        int(WARM_UP * count),
        min(int(most), count + 1),
    )
    mean = time / batches
    of_law = float(instance.batch_time.duration(executed / batches, size / batches))
    evictions = evicted / max(completed, 1)
    return WholeRequests(tokens / batches, mean, mean - of_law, evictions, batches)


def in_a_fixed_order(mix: RequestMix, count: int) -> tuple[NDArray, NDArray]:
    """Return prefill and decode lengths in the mix's own proportions, shuffled, shape (count,)."""
    at = np.searchsorted(np.cumsum(mix.probability), (np.arange(count) + 0.5) / count)
    at = np.random.default_rng(SEED).permutation(np.minimum(at, len(mix) - 1))
    return mix.prefill[at], mix.decode[at].astype(float)


@compiled
def _marched(law, prefill, decode, memory, budget, admit_below, sacrifices, warm_up, most):
    """Return what was counted after the warm-up, sums over batches.

    Batches, their time, useful tokens, executed tokens and requests, completions, evictions.

    RUNNING is as long as a batch can take and one request more: who stands further back changes
    nothing for those who execute. The march ends when every request has been admitted.
    """
    request, age = np.zeros(most, np.int64), np.zeros(most)  # RUNNING, in order of entry
    out, out_age = np.zeros(most, np.int64), np.zeros(most)  # a ring of SWAPPED, or a stack to redo
    running = outside = first_out = following = 0
    used = moved = time = tokens = executed = size = 0.0
    batches = completed = evicted = 0
    while True:
        relieved = False
        while used + running > memory and running > 1:
            running -= 1
            victim, k = request[running], age[running]
            used -= prefill[victim] + k
            relieved = True
            if sacrifices:
                tokens -= k * prefill[victim] + 0.5 * k * (k + 1.0)
                out[outside], out_age[outside] = victim, 0.0
            else:
                at = (first_out + outside) % most
                out[at], out_age[at] = victim, k
                moved += prefill[victim] + k
            outside += 1
            if k > 0:
                evicted += 1
        waiting_cost = used + running
        while not relieved and waiting_cost < budget and running < most:
            if outside > 0:
                at = outside - 1 if sacrifices else first_out
                entrant, k = out[at], out_age[at]
            elif following < prefill.size:
                entrant, k = following, 0.0
            else:
                break
            held = prefill[entrant] + k
            if running > 0 and (used + running + held + 1.0 > memory or used >= admit_below):
                break
            if outside > 0:
                outside -= 1
                if not sacrifices:
                    first_out = (first_out + 1) % most
                    moved += held
            else:
                following += 1
                if following == warm_up:
                    time = tokens = executed = size = 0.0
                    batches = completed = evicted = 0
            request[running], age[running] = entrant, k
            running += 1
            used += held
            waiting_cost += held + 1.0
        if following == prefill.size and outside == 0:
            break  # between two admissions: whole requests have been counted
        batch = 0
        batch_tokens = 0.0
        while batch < running:
            cost = prefill[request[batch]] + age[batch] + 1.0
            if batch > 0 and batch_tokens + cost > budget:
                break
            batch_tokens += cost
            batch += 1
        time += batch_duration(law, batch_tokens, float(batch), moved)
        moved = 0.0
        tokens += batch_tokens
        executed += batch_tokens
        size += batch
        batches += 1
        used += batch
        kept = 0
        for place in range(running):
            one, k = request[place], age[place] + (1.0 if place < batch else 0.0)
            if k >= decode[one]:
                used -= prefill[one] + k
                completed += 1
            else:
                request[kept], age[kept] = one, k
                kept += 1
        running = kept
    return batches, time, tokens, executed, size, completed, evicted
