"""The closure of a decode node: its requests hold tokens of a batch, and have these to do."""

from __future__ import annotations

import math

from fluid._capacity import Saturation, requests_that_fit, saturation
from fluid._operating_point import check_takes_time
from fluid._whole_requests import whole_requests
from fluid.node_work.batches import DecodeBatches
from fluid.node_work.closure import CLOSEST, Line, WorkClosure, closure_of
from fluid.node_work.request_work import request_work
from serving import DecodeNode, RequestMix, answers

FEW_TO_SACRIFICE = 100.0
"""Requests that fit, from which a single healthy node hardly evicts anybody."""

HARDLY_ANY = 1e-3
"""Evictions per completion below which none is told."""

FIXED_POINT = 20
"""Iterations towards the tokens that the fluid limit executes."""


def _linear_law(mix: RequestMix, instance: DecodeNode, rate: float) -> Line:
    """Return the batch time at nothing [time], the time per request and the time per token.

    The batch has ``E[D] / W`` requests per token. Exact for an affine law; otherwise the secant
    from half the tokens that the fluid limit executes at ``rate`` to half as many more, within
    what a batch can be, of which KV keeps its part.
    """
    law, per_token = instance.batch_time, mix.mean_decode / mix.work
    if law.is_affine:
        line = law.tangent(0.0, 0.0)
        slope = line.per_token + line.per_request * per_token
        token = min(slope, line.per_token)
        return Line(line.at_nothing, (slope - token) / per_token, token)
    most = saturation(mix, instance).batch_tokens

    def time(tokens: float) -> float:
        return float(law.duration(tokens, tokens * per_token))

    usual = most
    for _ in range(FIXED_POINT):
        usual = min(most, rate * mix.work * time(usual))
    high = min(most, max(1.5 * usual, 2 / per_token))
    low = min(0.5 * usual, 0.5 * high)
    slope = max(0.0, (time(high) - time(low)) / (high - low))
    fewer = float(law.duration(high, low * per_token))
    token = min(slope, (fewer - time(low)) / (high - low))
    return Line(max(0.0, time(high) - slope * high), (slope - token) / per_token, token)


@answers("decode_node")
def work_closure(
    mix: RequestMix,
    instance: DecodeNode,
    rate: float,
    dispersion: float = 1.0,
    oldest: float | None = None,
) -> WorkClosure:
    """Return the closure at an arrival ``rate`` [requests/time].

    Parameters
    ----------
    mix, instance
        Who arrives and who serves.
    rate
        At or above capacity, those who execute are as at the capacity.
    dispersion
        Variance of the number of arrivals in a long time over its mean.
    oldest : [iterations]
        Batches since the node began with nobody in it: no request is further than
        that. None where all ages are there.

    Raises
    ------
    SolveError
        If an empty batch takes no time.
    """
    check_takes_time(instance.batch_time, "node_work")
    full = saturation(mix, instance)
    extra = tokens_besides(instance, full)
    slower = _useful(mix, instance, full, rate)
    batches = DecodeBatches(full, instance.batch_time, extra, slower)
    inside = min(rate, CLOSEST * full.throughput)
    line = _linear_law(mix, instance, inside)
    return closure_of(
        request_work(mix, extra, math.inf if oldest is None else oldest),
        batches,
        line,
        rate,
        dispersion,
    )


def _useful(mix: RequestMix, instance: DecodeNode, full: Saturation, rate: float) -> float:
    """Return the useful share of the work of a full batch: sacrifices throw the rest away.

    A node that would then complete less than arrives has no equilibrium; it is taken to complete a
    little more.
    """
    if instance.mode != "sacrifice" or requests_that_fit(mix, instance) >= FEW_TO_SACRIFICE:
        return 1.0
    found = whole_requests(mix, instance)
    if found.evictions_per_completion < HARDLY_ANY:
        return 1.0
    left = found.throughput(mix) / full.throughput
    return min(1.0, max(left, rate / full.throughput / CLOSEST))


def tokens_besides(instance: DecodeNode, full: Saturation) -> float:
    """Return g, the tokens that would lengthen a saturated batch as a request besides its own do.

    A batch of n requests that fill C tokens takes d_0 + d_1 C + e n: a request takes e of it, and
    each of the C tokens 1/C of the rest. With g added to its tokens, a saturated batch works
    C + g n at a rate that does not depend on whom it holds.
    """
    law, tokens, size = instance.batch_time, full.batch_tokens, full.batch_size
    more, fewer = (float(law.duration(tokens, share * size)) for share in (1.05, 0.95))
    each = (more - fewer) / (0.1 * size)
    # where nothing but requests takes time, tokens count for next to nothing
    extra = each * tokens / max(full.batch_time - each * size, 1e-6 * full.batch_time)
    return max(extra, -0.99) if abs(extra) > 1e-9 else 0.0
