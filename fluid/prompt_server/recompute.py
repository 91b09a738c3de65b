"""What preemptions cost a saturated server of finite size, in tokens that are computed again.

A server whose memory is full lives from hand to mouth. In a step every running request grows by a
token, N in all, and the requests that end give back what they hold. In a large system both are
equal, but a real server sees few ends in a step, often none: then the growth must be taken from
somebody. The last request that was admitted is preempted, and computes its tokens again later. When
requests end at last, others are admitted until the next prompt does not fit, so nothing is left
over for the next step but the room that this prompt was too long for.

With x ends per step on average, Poisson, the tokens that a step lacks are ``a' = a + N - S``: a is
what the steps before lacked, S what ends give back, and a starts from 0 again whenever there is
enough. The room beside the waiting prompt p* is free (longer prompts wait more often): a part U p*
of it, U uniform. Without a prefix cache somebody loses his whole prompt for each prompt's worth of
lacking tokens, which makes up for that room on average: a' - a tokens are computed again. With it a
preempted request finds again what nobody took: only ``(a' - U p*)^+ - (a - U p*)^+`` are.

This assumes that requests end independently. Where all are nearly as long as each other they end
together, and the server loses more, at any size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server.life import life
from serving import RequestMix
from serving.kinds.prompt_server import PromptServer

FINEST, MOST_STEPS = 12, 2048
"""Steps of the grid per growth of a step, and steps of the grid at most."""

REACH = 12.0
"""Mean numbers of steps without an end that the grid covers."""

HARDLY = 1e-8
"""Share of the steps that is left out."""


def recomputed_tokens(mix: RequestMix, server: PromptServer, entering: float) -> float:
    """Return how many tokens a step of a server with full memory computes again, on average.

    Parameters
    ----------
    mix, server
        Who arrives and who serves.
    entering : [requests/step]
        Requests that start, and end, in a step.

    Returns
    -------
    float
        [tokens/step]; 0 for a server that swaps.
    """
    growth = entering * life(mix, server).decodes
    if server.swaps or growth <= 0:
        return 0.0
    covered = 1.0 + REACH / min(entering, 1.0)  # growths of a step
    fine = max(1, min(FINEST, int(MOST_STEPS / covered)))
    step = growth / fine
    points = int(fine * covered)
    back = _given_back(mix, server, entering, step, points)
    often = _lacking(back, fine, points)
    lost = _lost(mix, server, np.arange(points + fine).astype(np.float64) * step)
    total, first = 0.0, lost[:points]
    for given in range(min(fine, back.size)):
        more = fine - given
        total += back[given] * float(often @ (lost[more : points + more] - first))
    return float(total)


def _given_back(
    mix: RequestMix, server: PromptServer, entering: float, step: float, points: int
) -> NDArray[np.float64]:
    """Return the law of what ends in a step give back, by grid steps: compound Poisson (Panjer)."""
    size = server.block_size
    held = np.ceil((mix.prefill + mix.decode) / size) * size / step
    lower = held.astype(np.int64)
    part = held - lower
    each = np.zeros(points + 2)
    near = lower <= points
    np.add.at(each, lower[near], (mix.probability * (1 - part))[near])
    np.add.at(each, lower[near] + 1, (mix.probability * part)[near])
    sizes = np.flatnonzero(each[: points + 1])
    sizes = sizes[sizes > 0]
    weight = entering * sizes * each[sizes]
    law = np.zeros(points + 1)
    law[0] = np.exp(-entering * (1.0 - each[0]))
    for k in range(1, points + 1):
        upto = np.searchsorted(sizes, k, side="right")
        law[k] = weight[:upto] @ law[k - sizes[:upto]] / k
    return law


def _lacking(back: NDArray[np.float64], fine: int, points: int) -> NDArray[np.float64]:
    """Return the law of what the steps before lacked, by grid steps, seen by a step."""
    length = 1 << int(np.ceil(np.log2(2 * points + fine + 2)))
    kernel = np.zeros(length)
    shift = (fine - np.arange(back.size)) % length
    kernel[shift] = back
    turned = np.fft.rfft(kernel)
    now = np.zeros(points)
    now[0] = 1.0
    seen = now.copy()
    while now.sum() > HARDLY * seen.sum():
        now = np.maximum(np.fft.irfft(np.fft.rfft(now, length) * turned, length)[:points], 0.0)
        now[0] = 0.0  # enough was given back
        seen += now
    return seen / seen.sum()


def _lost(
    mix: RequestMix, server: PromptServer, lacking: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the tokens that are computed again when so many are lacking [tokens]."""
    lacking = np.maximum(lacking - server.reserve, 0.0)
    if not server.keeps_prefixes:
        return lacking
    order = np.argsort(mix.prefill, kind="stable")
    prompt = mix.prefill[order]
    share = mix.probability[order] * prompt
    share = share / share.sum()
    # E(a - U p)^+ is a^2 / 2p for a < p, and a - p/2 beyond
    below = np.concatenate([[0.0], np.cumsum(share)])
    below_tokens = np.concatenate([[0.0], np.cumsum(share * prompt)])
    above = np.concatenate([np.cumsum((share / prompt)[::-1])[::-1], [0.0]])
    k = np.searchsorted(prompt, lacking, side="right")
    return lacking * below[k] - below_tokens[k] / 2 + lacking**2 / 2 * above[k]
