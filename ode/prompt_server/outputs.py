"""What a march of a server left behind, as latencies and totals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ode._solution import GOLDEN
from ode.lagrangian import layout as rows_of
from ode.prompt_server.layout import (
    A_ADMITTED,
    A_FIRST_TOKEN,
    A_FROM,
    A_SLOT,
    A_UNTIL,
    P_AGE_FROM,
    P_AGE_TO,
    P_BEFORE,
    P_BIRTH,
    P_MASS,
    P_SLOT,
)
from ode.prompt_server.workspace import March
from serving import LatencySamples, RateProfile, RequestMix
from serving.kinds.prompt_server import PromptServer

MOST_SAMPLES = 200_000
"""Latency samples at most [samples]: fewer decode lengths, then fewer admissions, stand for all."""

FEWEST_LENGTHS = 48
"""Decode lengths that stand for all at least [lengths]."""


def totals_of(done: March, instance: PromptServer) -> dict[str, float]:
    """Return the totals that the march knows."""
    state, end = done.state, done.end
    share = 1 / end if end > 0 else 0.0
    memory = float(state["memory_time"]) * share / instance.kv_tokens
    found = {
        "duration": end,
        "completed": float(state["completed"]),
        "output_tokens": float(state["tokens"]),
        "memory_utilization": memory,
        "gpu_utilization": float(state["busy"]) * share,
        "evictions": float(state["evicted"]),
        "recompute_waste": 0.0 if instance.swaps else float(state["wasted"]),
    }
    if instance.keeps_prefixes:
        looked_up = float(state["admitted"]) * float(state["prompt_context"])
        hits = float(state["admitted"]) * float(state["prompt_known"])
        found |= {"prefix_cache_queries": looked_up, "prefix_cache_hits": hits}
        found["prefix_cache_hit_rate"] = hits / looked_up if looked_up > 0 else 0.0
    return found


def latencies_of(done: March, mix: RequestMix, profile: RateProfile) -> LatencySamples:
    """Return the latencies of completions and of tokens, weighted by mass.

    Every admission is a range of the cumulative arrivals, so that its arrival times are read off
    the curve; its requests end at the decode steps that their lengths say.
    """
    length, share = _lengths(mix, max(len(done.admissions), 1))
    pieces = done.pieces()
    piece, admission, weight = _pairs(done.admissions, pieces)
    d = length[None, :]
    of = pieces[piece][:, :, None]
    born = of[:, P_BIRTH]
    is_in = (d > of[:, P_AGE_FROM]) & (d <= of[:, P_AGE_TO])
    last = (born + d - 2).astype(np.int64)
    is_in &= (last < done.ends.size) | (d == 1)
    row, column = np.nonzero(is_in)
    came = done.admissions[admission[row]]
    first = came[:, A_FIRST_TOKEN]
    step = np.clip(last[row, column], 0, max(done.ends.size - 1, 0))
    ends = done.ends if done.ends.size else np.zeros(1)
    after = length[column] - 1
    finish = np.where(after > 0, np.maximum(ends[step], first), first)
    mass = weight[row] * share[column]
    # lengths that stand for others may miss a piece that is short: who has ended is known
    mass *= float(done.state["completed"]) / max(float(mass.sum()), 1e-300)
    within = GOLDEN * np.arange(row.size) % 1.0
    place = came[:, A_FROM] + within * (came[:, A_UNTIL] - came[:, A_FROM])
    arrival = _time_of(profile, place)
    gap, gap_weight = _gaps(done, pieces, mix)
    return LatencySamples(
        queue_delay=np.maximum(came[:, A_ADMITTED] - arrival, 0.0),
        ttft=first - arrival,
        tpot=np.where(after > 0, (finish - first) / np.maximum(after, 1), np.nan),
        e2el=finish - arrival,
        weight=mass,
        itl=gap,
        itl_weight=gap_weight,
    )


def _lengths(mix: RequestMix, admissions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return decode lengths [tokens] that stand for all, and the share of requests of each."""
    share = np.bincount(mix.decode, weights=mix.probability).astype(float)
    length = np.flatnonzero(share)
    share = share[length]
    most = max(FEWEST_LENGTHS, MOST_SAMPLES // admissions)
    if length.size <= most:
        return length.astype(float), share
    part = np.minimum((np.cumsum(share) - 0.5 * share) * most, most - 1e-9).astype(np.int64)
    total = np.bincount(part, weights=share, minlength=most)
    mean = np.bincount(part, weights=share * length, minlength=most)[total > 0] / total[total > 0]
    # the whole numbers to both sides of the mean, which keep it
    low = np.floor(mean)
    up = mean - low
    both = np.concatenate([low, low + 1]), np.concatenate([1 - up, up])
    weight = np.tile(total[total > 0], 2) * both[1]
    return both[0][weight > 0], weight[weight > 0]


def _pairs(
    admissions: NDArray[np.float64], pieces: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return which piece and which admission belong together, and with how many requests.

    The pieces of a slot are shares of all who decoded first in it, whoever they came with. Where
    nobody did but for rounding, they are nobody's.
    """
    slot = admissions[:, A_SLOT].astype(np.int64)
    mass = admissions[:, A_UNTIL] - admissions[:, A_FROM]
    if mass.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    of_slot = np.bincount(slot, weights=mass)
    first, count = np.searchsorted(slot, np.arange(of_slot.size + 1)), np.bincount(slot)
    which = pieces[:, P_SLOT].astype(np.int64)
    part = np.zeros(which.size)
    np.divide(pieces[:, P_MASS], of_slot[which], out=part, where=of_slot[which] > 0)
    many = count[which]
    piece = np.repeat(np.arange(which.size), many)
    begin = np.repeat(np.cumsum(many) - many, many)
    admission = first[which[piece]] + np.arange(piece.size) - begin
    thin = max(1, (piece.size * FEWEST_LENGTHS) // MOST_SAMPLES)
    kept = slice(thin // 2, None, thin) if piece.size > thin else slice(None)
    weight = part[piece] * mass[admission]
    total = weight.sum()
    piece, admission, weight = piece[kept], admission[kept], weight[kept]
    return piece, admission, weight * (total / max(weight.sum(), 1e-300))


def _time_of(profile: RateProfile, place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return when so many requests have arrived [time].

    The curve of a trace is flat between two arrivals and jumps at each. Of the knots of one height
    :func:`numpy.interp` begins at the last and ends at the first, so that whoever is on a jump has
    the time of the jump.
    """
    return np.interp(place, profile.cumulative, profile.time)


def _gaps(
    done: March, pieces: NDArray[np.float64], mix: RequestMix
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the times between tokens, and how many tokens came after each.

    Most tokens follow those of the decode step before. Second tokens follow the end of a prompt,
    and the first after a preemption the last before it.
    """
    ends, count = done.ends, done.ends.size
    if count == 0:
        return np.empty(0), np.empty(0)
    survival = np.append(mix.survival(), 0.0)
    came = done.admissions
    slot = came[:, A_SLOT].astype(np.int64)
    second = (came[:, A_UNTIL] - came[:, A_FROM]) * survival[1]
    known = slot < count
    of_slot = np.bincount(slot[known], weights=second[known], minlength=count)
    later = np.maximum(done.alive - of_slot, 0.0)
    start = done.rows[:1, rows_of.R_START]
    again = pieces[pieces[:, P_BEFORE] >= 0]
    age = again[:, P_AGE_FROM]
    alive = survival[np.minimum(age, mix.longest_decode).astype(np.int64)]
    to, since = (
        ends[np.clip((again[:, at] + age + by).astype(np.int64), 0, count - 1)]
        for at, by in ((P_BIRTH, -1), (P_BEFORE, -2))
    )
    gap = np.concatenate([
        ends - np.append(start, ends[:-1]),
        np.maximum(ends[slot[known]] - came[known, A_FIRST_TOKEN], 0.0),
        np.maximum(to - since, 0.0),
    ])  # fmt: skip
    return gap, np.concatenate([later, second[known], again[:, P_MASS] * alive])
