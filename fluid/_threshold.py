"""The admission threshold that leaves running requests the room to grow, so that none is evicted.

While the tokens used are below ``kappa M`` requests are admitted; above, those inside only grow and
leave. Whatever mixture of ages is inside at the last admission, no part of it can need more than
its own largest growth ratio, which is largest over ages a and later ages k of
``need(k) / used(a)`` with ``used(a) = E[p + a; D > a]`` and ``need(k) = E[p + k + 1; D > k]``. A
threshold of one over that ratio keeps the fluid from evicting in any state it can get into; for one
length it is ``p / (p + D)``, all requests fresh at once.
"""

from __future__ import annotations

import numpy as np

from serving import DecodeNode, RequestMix, answers

DEVIATIONS = 3.0
"""Standard deviations of the peak that are left free for chance, where lengths are random."""


@answers("decode_node")
def threshold_without_eviction(
    mix: RequestMix, instance: DecodeNode, *, deviations: float = DEVIATIONS
) -> float:
    """Return the largest admission threshold kappa at which growth cannot overflow the memory.

    Parameters
    ----------
    mix, instance
        Lengths, and the node whose memory counts.
    deviations
        Room for chance in standard deviations of what the worst cohort needs at its peak; it
        makes no difference where every request is alike.

    Returns
    -------
    float
        In (0, 1]; of n requests, whole ones.

    Notes
    -----
    Sufficient, and necessary for a burst of fresh requests if lengths are alike; for wide length
    distributions a larger threshold may do.
    """
    k = np.arange(mix.longest_decode)
    alive, held = mix.survival()[:-1], mix.prefill_survival()[:-1]
    used, need = held + k * alive, held + (k + 1) * alive
    peak = np.maximum.accumulate(need[::-1])[::-1]  # of all ages from k on
    worst = int(np.argmax(np.append(peak[1:], need[-1]) / used))
    at = worst + int(np.argmax(need[worst:]))
    share = alive[worst]
    mean = need[at] / share
    beyond = mix.decode > at
    square = mix.probability[beyond] @ (mix.prefill[beyond] + at + 1) ** 2 / share
    spread = np.sqrt(max(square - mean**2, 0.0))
    # n mean + deviations sqrt(n) spread = M
    root = (np.hypot(deviations * spread, 2 * np.sqrt(mean * instance.M_total))
            - deviations * spread) / (2 * mean)  # fmt: skip
    count = max(1.0, np.floor(root**2 * (1 + 1e-12)))
    return float(min(1.0, count * used[worst] / share / instance.M_total))
