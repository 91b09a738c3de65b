"""What else a run shows: the front end's share of TTFT, the KV capacity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.law import LawFit
from calibration.server_runs.metric_rows import held_tokens
from calibration.server_runs.metrics import MetricsLog
from calibration.server_runs.requests import RequestLog

FEWEST = 8
"""Requests, or scrapes, below which nothing is said."""

QUIET_SHARE = 0.25
"""The requests that found the fewest others running are taken for not queueing."""

ONE_BATCH = 1024
"""Prompts of at most so many tokens are taken to be computed in one batch, under any budget."""

USED = 0.02
"""Share of the KV cache from which on a scrape tells the capacity."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval and where it comes from.

    Parameters
    ----------
    value, low, high
        In the unit of what is estimated.
    samples
        How many observations it is the median of; 0 where the server said it.
    source
        In words.
    """

    value: float
    low: float
    high: float
    samples: int
    source: str


def _median(values: NDArray[np.float64], source: str) -> Estimate:
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    half = float(1.96 * 1.2533 * spread / np.sqrt(values.size))  # the median of normal samples
    return Estimate(middle, middle - half, middle + half, int(values.size), source)


def frontend_offset(
    log: RequestLog, law: LawFit, *, token_budget: float | None, remote_prefill: bool
) -> Estimate | None:
    """Return what TTFT far below saturation has beyond the batches [s].

    Of the requests that found the fewest others running: TTFT less half a batch where others ran
    (an arrival falls anywhere in it) less the batch of their own prompt, for prompts that fit one.
    It is HTTP, tokeniser and scheduling; None where too few requests are that quiet or the law of
    prompts is not known.
    """
    d_0, d_prefill, d_decode, d_kv = np.nan_to_num(law.value)
    if not remote_prefill and not law.value[1] > 0:
        return None
    others = _running_at_arrival(log)
    quiet = np.flatnonzero(others <= np.quantile(others, QUIET_SHARE))
    # Whoever arrives while another prompt waits shares its batch: not quiet.
    starts = np.sort(log.first_token)
    ahead = np.searchsorted(np.sort(log.arrival), log.arrival, side="left") - np.searchsorted(
        starts, log.arrival, side="right"
    )
    quiet = quiet[(ahead[quiet] <= 0) & (log.prompt_tokens[quiet] <= (token_budget or ONE_BATCH))]
    if quiet.size < FEWEST:
        return None
    n, p = others[quiet], log.prompt_tokens[quiet]
    context = float(np.mean(log.prompt_tokens + log.output_tokens / 2))
    tau = d_0 + d_decode * n + d_kv * n * context
    if remote_prefill:
        own = tau + d_decode + d_kv * p
    else:
        own = tau + d_prefill * p
    ttft = log.first_token[quiet] - log.arrival[quiet]
    waited = np.where(n > 0, tau / 2, 0.0)
    return _median(ttft - own - waited, f"TTFT of the {quiet.size} requests that found the "
                   f"fewest others (at most {int(n.max())})")  # fmt: skip


def _running_at_arrival(log: RequestLog) -> NDArray[np.float64]:
    begun = np.searchsorted(np.sort(log.first_token), log.arrival, side="right")
    ended = np.searchsorted(np.sort(log.finish), log.arrival, side="right")
    return (begun - ended).astype(float)


def kv_capacity(log: MetricsLog) -> Estimate | None:
    """Return the KV capacity [tokens]; None where the metrics do not show it.

    As the server says it, else the tokens of unfinished requests over the share in use. Prefix
    hits make this one too large: shared KV is counted by everybody who holds it.
    """
    if log.kv_capacity is not None:
        c = log.kv_capacity
        return Estimate(c, c, c, 0, "vllm:cache_config_info")
    held = held_tokens(log)
    if held is None or log.kv_usage is None:
        return None
    waiting = np.zeros(len(log)) if log.waiting is None else log.waiting
    told = (log.kv_usage >= USED) & (held > 0) & (waiting == 0)
    if told.sum() < FEWEST:
        return None
    return _median(held[told] / log.kv_usage[told], "tokens of unfinished requests over KV usage")
