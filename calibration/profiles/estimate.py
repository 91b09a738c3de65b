"""What data sheets and shapes say where nothing was measured."""

from __future__ import annotations

from calibration.profiles.tables import Gpu, Law, ModelShape, Roofline
from serving import FluidServeError

GIB = 2**30
BLOCK = 16
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Where estimates of mixtures of experts have rows."""

UTILIZATION = 0.9
"""``gpu_memory_utilization`` of vLLM where it is not given."""


def estimated_law(shape: ModelShape, gpu: Gpu, tp: int, roofline: Roofline) -> Law:
    """Return the roofline law [ms] of a model on ``tp`` cards.

    A batch reads the weights once and each request's KV, and multiplies each token with the
    weights: bytes over bandwidth and operations over rate, each times how far the measured cards
    stay from their data sheets, and a fixed time per layer. Of a mixture of experts a batch reads
    those that its requests chose, as many as with choices at random.
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

    What ``utilization`` of a card's memory leaves after its weights and a reserve for activations.

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
