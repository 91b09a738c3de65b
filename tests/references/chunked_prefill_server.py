"""A small continuous-batching server with chunked prefill and noisy batch times: known truth.

Written for the tests from what vLLM's V1 scheduler does: decoding requests first, one token each,
then prompt chunks up to the token budget, admission in order of arrival up to ``max_num_seqs`` and
the KV capacity. A request reserves prompt and output; with ``preempts`` it takes what it holds, and
the latest request makes room when memory is full, and computes all that it held again.
"""

from __future__ import annotations

import numpy as np
from served import Served


def serve(arrival, prompt, output, law, *, max_num_seqs=128, budget=2048, capacity=10**9,
          noise=0.0, seed=0, drift=0.0, preempts=False):  # fmt: skip
    """Serve; ``law`` is (d_0, d_prefill, d_decode, d_kv) [s]; batches slow by ``drift`` per s."""
    rng = np.random.default_rng(seed)
    count = len(arrival)
    arrival, prompt, output = (np.asarray(x) for x in (arrival, prompt, output))
    left, made = prompt.astype(int).copy(), np.zeros(count, int)
    tokens = [[] for _ in range(count)]
    running, queue, nxt, t = [], [], 0, 0.0
    rows, preempted = [], set()

    def size(i):
        return int(prompt[i] + made[i]) if preempts else int(prompt[i] + output[i])

    while nxt < count or queue or running:
        if not running and not queue:
            t = max(t, arrival[nxt])
        while nxt < count and arrival[nxt] <= t:
            queue.append(nxt)
            nxt += 1
        reserved = sum(size(i) + preempts for i in running)
        while preempts and reserved > capacity:
            victim = running.pop()
            reserved -= size(victim) + 1
            left[victim] = size(victim)
            preempted.add(victim)
            queue.insert(0, victim)
        while queue and len(running) < max_num_seqs:
            if reserved + size(queue[0]) + preempts > capacity:
                break
            reserved += size(queue[0]) + preempts
            running.append(queue.pop(0))
        decoding = [i for i in running if left[i] == 0]
        room = budget - len(decoding)
        kv = sum(int(prompt[i] + made[i]) for i in decoding)
        chunks = {}
        for i in running:
            if left[i] and room > 0:
                chunks[i] = min(room, left[i])
                room -= chunks[i]
        computed = sum(chunks.values())
        tau = law[0] + law[1] * computed + law[2] * len(decoding) + law[3] * kv
        tau *= (1 + noise * rng.standard_normal()) * (1 + drift * t)
        t += tau
        emitted = list(decoding)
        for i, chunk in chunks.items():
            left[i] -= chunk
            if not left[i]:
                emitted.append(i)
        for i in emitted:
            made[i] += 1
            tokens[i].append(t)
        running = [i for i in running if made[i] < output[i]]
        held = sum(int(prompt[i] - left[i] + made[i]) for i in running)
        rows.append((t, tau, computed, len(decoding), kv, len(running), len(emitted), held))
    names = ("end", "duration", "prefill", "decode", "kv", "running", "emitted", "held")
    served = Served(arrival, prompt, output, [np.array(x) for x in tokens],
                    dict(zip(names, np.array(rows).T, strict=True)))  # fmt: skip
    served.preempted = preempted
    return served
