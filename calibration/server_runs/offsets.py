"""A run shows two more figures: the front end's share of TTFT, and the KV capacity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.robust_fit import median_and_error
from calibration.server_runs.law import LawFit
from calibration.server_runs.metric_rows import held_tokens
from calibration.server_runs.metrics import MetricsLog
from calibration.server_runs.requests import RequestLog

FEWEST = 8
"""Smallest number of requests, or scrapes, that an estimate needs."""

QUIET_SHARE = 0.25
"""Share of the requests, those that found the fewest others running, that count as not queueing."""

ONE_BATCH = 1024
"""Longest prompt [tokens] that one batch is taken to compute where the token budget is unknown."""

USED = 0.02
"""Smallest share of the KV cache in use at which a scrape tells the capacity."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate has a 95 % interval and a source.

    Parameters
    ----------
    value, low, high
        Estimate and interval, in the unit of the estimated quantity.
    samples
        Number of observations that the value is the median of; 0 where the server said the value.
    source
        Where the value comes from, in words.
    """

    value: float
    low: float
    high: float
    samples: int
    source: str


def _median(values: NDArray[np.float64], source: str, beside: float = 0.0) -> Estimate:
    """Return the median of observations as an estimate.

    Parameters
    ----------
    values
        The observations.
    source
        Where they come from, in words.
    beside
        Half width of the interval of what all observations share.
    """
    middle, error = median_and_error(values)
    half = float(np.hypot(1.96 * error, beside))
    return Estimate(
        value=middle,
        low=middle - half,
        high=middle + half,
        samples=int(values.size),
        source=source,
    )


def frontend_offset(
    log: RequestLog, law: LawFit, *, token_budget: float | None, remote_prefill: bool
) -> Estimate | None:
    """Return the part of TTFT that no batch explains [s]: HTTP, tokeniser and scheduling.

    The estimate uses the requests that found the fewest others running and whose prompt fits one
    batch. From their TTFT it takes the batch of their own prompt and, where others ran, half a
    batch, since an arrival falls anywhere in a batch. The result is None where too few requests
    are that quiet or the fit does not tell d_prefill.
    """
    known = law.known()
    if not remote_prefill and not known.d_prefill > 0:
        return None
    others, quiet = _quiet(log)
    quiet = quiet[log.prompt_tokens[quiet] <= (token_budget or ONE_BATCH)]
    if quiet.size < FEWEST:
        return None
    running, prompt = others[quiet], log.prompt_tokens[quiet]
    context = float(np.mean(log.prompt_tokens + log.output_tokens / 2))
    batch = known.d_0 + known.d_decode * running + known.d_kv * running * context
    if remote_prefill:
        own = batch + known.d_decode + known.d_kv * prompt
    else:
        own = batch + known.d_prefill * prompt
    ttft = log.first_token[quiet] - log.arrival[quiet]
    waited = np.where(running > 0, batch / 2, 0.0)
    content = np.array([1.0, 0.0 if remote_prefill else float(np.median(prompt)),
                        float(np.median(running)), 0.0])  # fmt: skip
    return _median(
        ttft - own - waited,
        f"TTFT of the {quiet.size} requests that found the fewest others "
        f"(at most {int(running.max())})",
        beside=_half_width(law, content),
    )


def replayed_offset(
    log: RequestLog, law: LawFit, first_token: NDArray[np.float64]
) -> Estimate | None:
    """Return the part of TTFT that a replay of the run does not explain [s].

    Parameters
    ----------
    log
        The run.
    law
        Law of the replay.
    first_token : shape (R,) [s]
        When the engine gave each request its first token.
    """
    others, quiet = _quiet(log)
    if quiet.size < FEWEST:
        return None
    content = np.array([1.0, float(np.median(log.prompt_tokens[quiet])),
                        float(np.median(others[quiet])), 0.0])  # fmt: skip
    return _median(
        (log.first_token - first_token)[quiet],
        f"TTFT of the {quiet.size} requests that found the fewest others "
        f"(at most {int(others[quiet].max())}), less that of the replay",
        beside=_half_width(law, content),
    )


def _half_width(law: LawFit, content: NDArray[np.float64]) -> float:
    """Return a half width of the time that the law gives a batch, as of independent coefficients.

    A coefficient at zero, whose interval is not known, counts with none.
    """
    half = np.where(np.isfinite(law.half_width), law.half_width, 0.0)
    return float(np.sqrt(((half * content) ** 2).sum()))


def _quiet(log: RequestLog) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what each request found decoding, and the requests that found the fewest.

    A request that arrives while another prompt waits shares a batch with it, and is not quiet.
    """
    others = _running_at_arrival(log)
    quiet = np.flatnonzero(others <= np.quantile(others, QUIET_SHARE))
    starts = np.sort(log.first_token)
    ahead = np.searchsorted(np.sort(log.arrival), log.arrival, side="left") - np.searchsorted(
        starts, log.arrival, side="right"
    )
    return others, quiet[ahead[quiet] <= 0]


def _running_at_arrival(log: RequestLog) -> NDArray[np.float64]:
    """Return the number of requests that each request found decoding, shape (R,)."""
    begun = np.searchsorted(np.sort(log.first_token), log.arrival, side="right")
    ended = np.searchsorted(np.sort(log.finish), log.arrival, side="right")
    return (begun - ended).astype(float)


def kv_capacity(log: MetricsLog) -> Estimate | None:
    """Return the KV capacity [tokens]; None where the metrics do not show it.

    The server's own figure comes first, else the tokens of unfinished requests over the share in
    use. Prefix hits make the second too large, since every request counts the KV that it shares.
    """
    if log.kv_capacity is not None:
        said = log.kv_capacity
        return Estimate(said, said, said, samples=0, source="vllm:cache_config_info")
    held = held_tokens(log)
    if held is None or log.kv_usage is None:
        return None
    waiting = np.zeros(len(log)) if log.waiting is None else log.waiting
    told = (log.kv_usage >= USED) & (held > 0) & (waiting == 0)
    if told.sum() < FEWEST:
        return None
    return _median(held[told] / log.kv_usage[told], "tokens of unfinished requests over KV usage")
