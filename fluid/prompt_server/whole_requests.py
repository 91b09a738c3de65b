"""A server with a queue and a full KV: whole requests, by the rules of its scheduler.

Closed forms let a prompt wait for its room and requests end one by one. They are right for many
requests. A server that holds few, or whose requests are preempted in step with each other, loses
more or less than they say, and there is no closed form for that: its steps are marched. Nothing is
random but the order of the requests, which is the same every time.

A preempted request waits in front of all others and computes its tokens again, but for the blocks
of its prefix that nobody has taken since. Blocks are given back to the end of a queue, the last
block of a request first, and taken from its front.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fluid._whole_requests import in_a_fixed_order
from serving import RequestMix
from serving.compilation import compiled
from serving.kinds.prompt_server import PromptServer

MOST_STEPS = 800_000
"""Requests times decoded tokens that a march may take: a hundredth of a second."""

MOST_REQUESTS, FEWEST_REQUESTS = 4000, 256
"""Requests of a march."""

TURNS = 6
"""Requests of a march over those that fit, at least."""

WARM_UP = 0.1
"""Share of the requests that are admitted before anything is counted."""

SEED = 20_001

RING = 1 << 16
"""Groups of free blocks that are told apart at once."""


@dataclass(frozen=True, slots=True)
class WholeServer:
    """A saturated server of whole requests, averaged over steps.

    Parameters
    ----------
    batch_time : [time]
        Mean time of a step, the decision included.
    entering : [requests/step]
        Requests' worth of work that a step does.
    batch_tokens : [tokens]
        Mean tokens that a step computes.
    recomputed : [tokens/step]
        Of these, those that had been computed before.
    """

    batch_time: float
    entering: float
    batch_tokens: float
    recomputed: float


@lru_cache(maxsize=256)
def whole_server(
    mix: RequestMix, server: PromptServer, fit: float, *, spread: bool = True
) -> WholeServer:
    """March a server with an endless queue of requests of ``mix`` (known by identity).

    Parameters
    ----------
    mix, server
        Who arrives and who serves.
    fit : [requests]
        That fit.
    spread
        Whether the first requests are of all ages, as where nobody is in step; otherwise all are
        new.
    """
    most = max(FEWEST_REQUESTS, min(MOST_REQUESTS, int(MOST_STEPS / mix.mean_decode)))
    count = max(most, int(TURNS * fit))
    prefill, decode = in_a_fixed_order(mix, count)
    there = np.zeros(count, np.int64)
    if spread:
        first = _found_in_service(mix, int(2 * fit) + 1)
        prefill, decode, there = (
            np.append(*each) for each in zip(first, (prefill, decode, there), strict=True)
        )
    size = server.block_size
    columns, work, lost = _marched(
        prefill.astype(np.int64), decode.astype(np.int64), there, server.kv_tokens // size,
        server.reserve // size, size, server.most_running, server.step_tokens,
        (server.is_ahead, server.ends_unknown, server.keeps_prefixes), int(WARM_UP * count),
    )  # fmt: skip
    decodes, read, tokens, attention, known = columns
    tau = server.batch_time.step_duration(decodes, read, tokens, attention, known)
    if server.is_ahead:
        tau = np.maximum(tau, 0.5 * (tau + server.gap))
    else:
        tau = tau + server.gap
    steps = decodes.size
    return WholeServer(
        batch_time=float(tau.mean()),
        entering=work / mix.work / steps,
        batch_tokens=float((decodes + tokens).mean()),
        recomputed=lost / steps,
    )


def _found_in_service(mix: RequestMix, count: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return prompts, answers and tokens so far of requests in service, the oldest first."""
    rng = np.random.default_rng(SEED)
    share = mix.probability * mix.decode
    at = rng.choice(len(mix), count, p=share / share.sum())
    decode = np.asarray(mix.decode, np.int64)[at]
    there = np.maximum(np.ceil(rng.random(count) * decode).astype(np.int64) - 1, 0)
    at, decode, there = (each[np.argsort(-there, kind="stable")] for each in (at, decode, there))
    return np.asarray(mix.prefill)[at], decode, there


@compiled
def _marched(prefill, decode, there, blocks, reserve, size, seats, most_tokens, flags, warm_up):
    """Return columns by step, the work done and the tokens computed again, after the warm-up.

    The columns are what the law needs. The march ends when the last request
    has been admitted.
    """
    ahead, unknown, caches = flags
    count = prefill.size
    generated, computed = np.zeros(count, np.int64), np.zeros(count, np.int64)
    held, reached = np.zeros(count, np.int64), np.zeros(count, np.int64)
    ended, group = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    running, stack = np.zeros(seats + 1, np.int64), np.zeros(2 * seats + 2, np.int64)
    left = np.zeros(RING, np.int64)
    first = last = 0  # groups of free blocks that may be found again
    blank = free = blocks
    n = waiting = following = steps = 0
    counted, room = 0, 4096
    out = np.zeros((5, room))
    work = lost = 0.0
    while following < count and there[following] > 0 and n < seats:
        # whom the march finds in service; who has no room any more is left out
        r = following
        following += 1
        need = (prefill[r] + there[r] + size - 1) // size
        if need <= free:
            free -= need
            blank -= need
            held[r], generated[r] = need, there[r]
            computed[r] = reached[r] = prefill[r] + there[r] - 1
            running[n] = r
            n += 1
    while following < count and there[following] > 0:
        following += 1
    warm_up += following
    while following < count and last - first < RING - 4:
        kept = 0
        for i in range(n):
            r = running[i]
            if ended[r] >= 0 and ended[r] < steps - (1 if ahead else 0):
                free += held[r]
                blank += held[r] - computed[r] // size
                left[last % RING] = computed[r] // size
                last += 1
            else:
                running[kept] = r
                kept += 1
        n = kept
        budget, preempted, at = most_tokens, False, 0
        decodes = read = tokens = attention = known = 0.0
        while at < n or (not preempted and budget > 0 and n < seats):
            enters = at == n
            if budget <= 0:
                break
            if enters:
                if waiting > 0:
                    r = stack[waiting - 1]
                elif following < count:
                    r = following
                else:
                    break
                length = prefill[r] + generated[r]
                found = 0
                if caches and group[r] >= first:
                    found = min(left[group[r] % RING], (length - 1) // size)
                margin = reserve if n > 0 else 0
                if (length + size - 1) // size + margin > free:
                    break
                if found > 0:
                    slot = group[r] % RING
                    blank += left[slot] - found  # a block that must be computed again
                    left[slot] = 0
                    free -= found
                group[r] = -1
                computed[r], held[r] = found * size, found
                if waiting > 0:
                    waiting -= 1
                else:
                    following += 1
                    if following == warm_up:
                        work = lost = 0.0
                        counted = 0
                running[n] = r
                n += 1
            else:
                r = running[at]
                if ended[r] >= 0 and not unknown:
                    at += 1
                    continue
            length = prefill[r] + generated[r]
            now = min(length - computed[r], budget)
            end = computed[r] + now
            need = (end + size - 1) // size - held[r]
            stays = True
            while need > free:
                n -= 1
                v = running[n]
                free += held[v]
                full = computed[v] // size
                blank += held[v] - full
                left[last % RING] = full
                if ended[v] < 0:
                    group[v] = last
                    stack[waiting] = v
                    waiting += 1
                    preempted = True
                last += 1
                computed[v] = held[v] = 0
                if v == r:
                    stays = False
                    break
            if not stays:
                break
            free -= need
            held[r] += need
            taken = min(need, blank)
            blank -= taken
            need -= taken
            while need > 0:
                slot = first % RING
                taken = min(need, left[slot])
                left[slot] -= taken
                need -= taken
                if left[slot] == 0:
                    first += 1
            if now == 1 and length - computed[r] == 1 and generated[r] > 0:
                decodes += 1
            else:
                tokens += now
                attention += now * (computed[r] + (now + 1) / 2)
                known += computed[r]
            read += end
            lost += max(0, min(end, reached[r]) - computed[r])
            reached[r] = max(reached[r], end)
            computed[r] = end
            budget -= now
            if end == length and ended[r] < 0:
                generated[r] += 1
                work += prefill[r] + generated[r]
                if generated[r] == decode[r]:
                    ended[r] = steps
            at += 1
        if counted == room:
            more = np.zeros((5, 2 * room))
            more[:, :room] = out
            out, room = more, 2 * room
        out[0, counted], out[1, counted], out[2, counted] = decodes, read, tokens
        out[3, counted], out[4, counted] = attention, known
        counted += 1
        steps += 1
    return out[:, :counted], work, lost
