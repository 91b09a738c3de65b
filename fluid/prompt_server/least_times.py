"""The least time of a server that requests are worth, prompts included."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix, answers
from serving.kinds.prompt_server import MODEL, PromptServer
from serving.least_time import StepLimits, Work, least_times


@answers(MODEL)
def least_node_times(mix: RequestMix, instance: PromptServer) -> NDArray[np.float64]:
    """Return the least time of a server that each kind of request is worth [time], shape (J,).

    The last step of a prompt gives the first token, so that D - 1 steps decode. After step j of
    them a request holds p + j tokens. What a server is said to find in its prefix cache is not
    computed.
    """
    decode = mix.decode.astype(float)
    steps = decode - 1
    held = mix.prefill * decode + decode * steps / 2
    share = np.broadcast_to(np.asarray(instance.hit_share, float), len(mix))
    known = share * mix.prefill
    work = Work(steps, held, mix.prefill - known, known, mix.probability)
    limits = StepLimits(instance.most_running, instance.kv_tokens, instance.step_tokens)
    return least_times(instance.batch_time, work, limits)
