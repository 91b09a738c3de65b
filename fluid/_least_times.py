"""The least time of nodes that requests are worth: a bound that no router and no order beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving import DecodeNode, RequestMix, answers
from serving.least_time import StepLimits, Work, least_times


@answers("decode_node")
def least_node_times(mix: RequestMix, instance: DecodeNode) -> NDArray[np.float64]:
    """Return the least time of a node that each kind of request is worth [time], shape (J,).

    Its mean over the mix is the least time of nodes for each request, whatever their number and
    whatever the order: the time of a batch is at least what it holds is worth, see
    :mod:`serving.least_time`. Prompts come prefilled and cost nothing.

    Parameters
    ----------
    mix
        Lengths, J kinds of them.
    instance
        Any instance that a fluid model reads.

    Raises
    ------
    UnsupportedError
        If no fluid model reads the instance.
    """
    decode = mix.decode.astype(float)
    none = np.zeros(len(mix))
    held = mix.prefill * decode + decode * (decode - 1) / 2
    longest = float((mix.prefill + decode).max())
    most = max(float(min(instance.M_total, instance.token_budget)), longest)
    work = Work(decode, held, none, none, mix.probability)
    # a batch holds p + k + 1 tokens of each of its requests: KV, and one that it computes
    return least_times(instance.batch_time, work, StepLimits(most, most, 0.0, beside=1.0))
