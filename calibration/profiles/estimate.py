"""Data sheets and model shapes give estimates for machines that nobody measured."""

from __future__ import annotations

from calibration.profiles.kv_memory import GIB
from calibration.profiles.server import BLOCK
from calibration.profiles.tables import Gpu, Law, ModelShape, Roofline
from serving import FluidServeError

REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Numbers of requests at which the estimated table of a mixture of experts has rows."""

UTILIZATION = 0.9
"""Default of vLLM's ``gpu_memory_utilization``: the share of a card's memory that vLLM takes."""


def estimated_law(shape: ModelShape, gpu: Gpu, tp: int, roofline: Roofline) -> Law:
    """Return the roofline law [ms] of a model on ``tp`` cards.

    A batch reads the weights once and the KV of each request, and multiplies each token with the
    weights. These take bytes over bandwidth and operations over rate, each times the factor by
    which the measured cards stay behind their data sheets, and a fixed time per layer. A batch of
    a mixture of experts reads the experts that its requests choose at random.
    """
    read = 1e3 / (tp * gpu.bandwidth * 1e9)
    token = 1e3 * shape.flops_per_token / (tp * gpu.flops * 1e12)
    weights, table = roofline.weights * shape.weight_bytes * read, None
    if shape.experts is not None:
        table = tuple((n, weights * shape.share_read(n)) for n in REQUESTS)
        weights = 0.0
    return Law(
        d_0=weights + roofline.layer * shape.layers,
        d_decode_table=table,
        d_prefill=roofline.prefill * token,
        d_decode=roofline.decode * token,
        d_kv=roofline.kv * shape.kv_bytes(tp) * 1e3 / (gpu.bandwidth * 1e9),
    )


def estimated_kv_capacity(
    shape: ModelShape, gpu: Gpu, tp: int, roofline: Roofline, utilization: float = UTILIZATION
) -> int:
    """Return the KV capacity [tokens] of a model on ``tp`` cards, whole blocks of 16.

    The share ``utilization`` of a card's memory holds weights, a reserve for activations, and KV.
    This is for an engine without a largest batch, on which activations depend; for ``vllm serve``
    see :func:`calibration.profiles.kv_memory`.

    Raises
    ------
    FluidServeError
        If the weights do not fit.
    """
    free = (utilization * gpu.memory - roofline.reserve) * GIB - shape.weight_bytes / tp
    blocks = int(free // (BLOCK * shape.kv_bytes(tp)))
    if blocks < 1:
        raise FluidServeError(
            f"weights of {shape.weight_bytes / GIB:.1f} GiB over {tp} x {gpu.memory:g} GiB "
            f"leave no memory for KV; give more cards with --tp"
        )
    return BLOCK * blocks
