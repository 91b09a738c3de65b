"""What the closed forms of a server take from its mix and its law: the value of every symbol.

Each value comes with its derivatives by the parameters of the server that it depends on itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluid.prompt_server.equilibrium import further_steps
from fluid.prompt_server.life import BLOCKS, life
from serving import BatchTimeLaw, RequestMix
from serving.kinds.prompt_server import PromptServer

QUANTITIES = ("batch_time", "running", "wait", "ttft", "tpot", "e2el")
"""What of the equilibrium is differentiated."""

OF_LAW: Mapping[str, Mapping[str, float]] = {
    "d_0": {"d_0": 1.0, "e_0": 1.0},
    "d_decode": {"d_decode": 1.0, "e_n": 1.0},
    "d_kv": {"d_kv": 1.0, "e_k": 1.0},
    "d_prefill": {"e_p": 1.0},
    "d_prefill_attention": {"e_a": 1.0},
    "d_prefill_context": {"e_h": 1.0},
    "d_mixed_decode": {"e_n": 1.0},
}
"""How the symbols of the law depend on its coefficients, where it is a line."""


@dataclass(frozen=True, slots=True)
class ClosedValues:
    """Values of the symbols by name, and the derivative of each by the parameters.

    Parameters
    ----------
    value
        By symbol.
    slope
        By parameter, then by symbol; absent is 0.
    """

    value: Mapping[str, float]
    slope: Mapping[str, Mapping[str, float]]


def is_line(law: BatchTimeLaw) -> bool:
    """Return whether the time of a step is a line in all that it holds."""
    return law.is_affine and not law.bends_in_prompts


def closed_values(
    mix: RequestMix, server: PromptServer, rate: float, entering: float
) -> ClosedValues:
    """Return the value of every symbol of the closed forms but the unknown ones.

    Parameters
    ----------
    mix, server
        Lengths, and a server whose law is a line.
    rate : [requests/time]
        Arrival rate.
    entering : [requests/step]
        That start in a step, for what a prompt takes beyond its first step.
    """
    each, law, share = life(mix, server), server.batch_time, mix.probability
    p, d, prompt = mix.prefill, mix.decode, each.prompt
    seen = _prompts(mix, server)
    e = np.array([law.d_kv, law.d_prefill, law.d_prefill_attention, law.d_prefill_context])
    own = seen @ e
    value = {
        "lambda": rate, "d_0": law.d_0, "d_decode": law.d_decode, "d_kv": law.d_kv,
        "e_0": law.d_0, "e_n": law.d_decode + law.d_mixed_decode, "e_k": e[0], "e_p": e[1],
        "e_a": e[2], "e_h": e[3], "gamma": server.gap, "ahead": float(server.is_ahead),
        "unknown": float(server.is_ahead and server.ends_unknown),
        "o_1": prompt.tokens, "a_1": prompt.attention, "z_1": prompt.known,
        "c_1": prompt.context, "b_1": prompt.held, "W_h": float(each.lanes[BLOCKS, 1:].sum()),
        "E_p": mix.mean_prefill, "E_D": mix.mean_decode, "E_pD": float(share @ (p * d)),
        "E_DD": float(share @ d.astype(float) ** 2), "O_1": float(share @ own),
        "O_2": float(share @ own**2), "F": float(share @ further_steps(mix, server, entering)),
        "M": float(server.kv_tokens), "N_max": float(server.most_running),
        "T_max": float(server.step_tokens), "rho": float(server.reserve),
    }  # fmt: skip
    return ClosedValues(value, _slopes(mix, server, seen, own, e))


def _prompts(mix: RequestMix, server: PromptServer) -> NDArray[np.float64]:
    """Return what each prompt adds to its step: KV read, tokens, pairs and known, shape (J, 4)."""
    prompt, p = life(mix, server).prompt, mix.prefill
    own = prompt.tokens / prompt.context * p
    known = p - own
    return np.column_stack([p, own, own * (known + (own + 1) / 2), known])


def _slopes(
    mix: RequestMix,
    server: PromptServer,
    seen: NDArray[np.float64],
    own: NDArray[np.float64],
    e: NDArray[np.float64],
) -> dict[str, dict[str, float]]:
    share, p = mix.probability, mix.prefill

    def of_own(change: NDArray[np.float64]) -> dict[str, float]:
        return {"O_1": float(share @ change), "O_2": float(2 * share @ (own * change))}

    found = {
        "arrival_rate": {"lambda": 1.0},
        "kv_tokens": {"M": 1.0},
        "max_num_seqs": {"N_max": 1.0},
        "max_num_batched_tokens": {"T_max": 1.0},
        **{name: dict(symbols) for name, symbols in OF_LAW.items()},
    }
    columns = {"d_kv": 0, "d_prefill": 1, "d_prefill_attention": 2, "d_prefill_context": 3}
    for name, column in columns.items():
        found[name] |= of_own(seen[:, column])
    if len(server.hit_share) > 1:
        return found  # classes have shares of their own
    known = seen[:, 3]
    pairs = -p * (known + 0.5)  # of own (known + (own + 1) / 2), own and known moving by -p and p
    change = np.column_stack([0 * p, -p, pairs, p])
    found["prefix_hit_share"] = {
        "o_1": -mix.mean_prefill, "a_1": float(share @ pairs), "z_1": mix.mean_prefill,
        **of_own(change @ e),
    }  # fmt: skip
    return found
