"""What limits the answers of the model of one node: one list, for equilibrium and over time."""

from __future__ import annotations

from fluid import healthy_batch_time, requests_that_fit, saturation
from ode._caveats import validity_labels
from serving import DecodeNode, RequestMix

MOST_REQUESTS = 10_000
"""Requests in a full node beyond which the levels of work are too wide."""

TRUSTED = 4.0
"""Dispersion of arrivals, or one over it, up to which predictions were compared with the engine."""

STEEP, FEW = 1.25, 16.0
"""Time of a batch of two requests over that of one beyond which a table is steep, and how many run
[requests] where this matters."""


def work_labels(
    mix: RequestMix,
    instance: DecodeNode,
    rate: float,
    dispersion: float,
    *,
    given_times: bool = False,
) -> tuple[str, ...]:
    """Return the caveats of an answer that comes from the work in system.

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    rate : [requests/time]
        Mean arrival rate.
    dispersion
        Variance of the number of arrivals in a long time over its mean.
    given_times
        Whether arrivals come at given times, which the model reads as a rate and a dispersion.
    """
    labels = list(validity_labels(mix, instance))
    labels += arrival_labels(dispersion, given_times=given_times)
    labels += size_labels(requests_that_fit(mix, instance))
    if instance.mode == "sacrifice":
        labels.append(
            "approximate: the work that sacrifices repeat slows a full node of fewer than 100 "
            "requests and is left out of larger ones, which evict few while healthy (see the "
            "certificate); where a full node completes less than arrives nothing is in equilibrium"
        )
    if _is_steep(mix, instance) and _running(mix, instance, rate) < FEW:
        labels.append(
            "approximate: few requests run, the time of a batch rises steeply with each of them, "
            "and the model reads it at their mean number: means are up to 7 % off, percentiles 25 %"
        )
    return tuple(labels)


def size_labels(requests: float) -> list[str]:
    """Return the caveat of a node that so many ``requests`` fill."""
    if requests <= MOST_REQUESTS:
        return []
    return [
        f"approximate: some {requests:.0f} requests fill the node, more than the levels of "
        "work resolve; the fluid limit (lagrangian) is the better method"
    ]


def arrival_labels(dispersion: float, *, given_times: bool) -> list[str]:
    """Return the caveats of what is known of the arrivals, see :func:`work_labels`."""
    labels = []
    if given_times:
        labels.append(
            "approximate: arrivals at given times are taken as random ones at their rate, with a "
            f"variance of {dispersion:.3g} times that of Poisson arrivals"
        )
    elif dispersion != 1:
        labels.append(
            f"approximate: arrivals are not Poisson; their number has {dispersion:.3g} times "
            "Poisson's variance, which is all that the prediction knows of it: means are within "
            "10 to 15 % of the engine, tails of the TTFT at light load further off"
        )
    if not 1 / TRUSTED <= dispersion <= TRUSTED:
        labels.append(
            f"approximate: a dispersion of {dispersion:.3g} is beyond what was compared with the "
            f"engine (1/{TRUSTED:g} to {TRUSTED:g}); latencies may be half as long again or shorter"
        )
    return labels


def _running(mix: RequestMix, instance: DecodeNode, rate: float) -> float:
    """Return the mean number of requests that run on a large node."""
    return rate * mix.mean_decode * healthy_batch_time(mix, instance, rate)


def _is_steep(mix: RequestMix, instance: DecodeNode) -> bool:
    """Return whether the table of the law makes two requests take much longer than one."""
    law = instance.batch_time
    if law.is_affine:
        return False
    full = saturation(mix, instance)
    tokens = full.batch_tokens / max(full.batch_size, 1e-300)
    return bool(law.duration(2 * tokens, 2.0) > STEEP * law.duration(tokens, 1.0))
