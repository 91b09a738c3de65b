"""What a vLLM server finds left for KV on its cards when it starts.

vLLM sizes its KV cache by one forward pass with the largest batch that it may ever run. Of the
share of a card that it may take, weights and the memory that this pass needed at its peak are gone;
KV gets the rest, in whole blocks. The parts are counted here as vLLM's code allocates them; what
cannot be counted (libraries, buffers of communication, CUDA graphs) is fitted to servers, see
``benchmarks/kv_capacity.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibration.profiles.server import Server, version_numbers
from calibration.profiles.tables import Gpu, ModelShape, Release, ServerMemory
from serving import FluidServeError

GIB = 2**30
"""Bytes of one GiB."""

HIDDEN_COPIES = 4
"""Vectors of hidden size that the widest moment of a layer holds of each token: residual, input,
output of attention, and the normalised input of the feed-forward block."""

GATED_COPIES = 3
"""Vectors of the feed-forward block's width that it holds of each token: gate, up, and product."""


@dataclass(frozen=True, slots=True)
class KvMemory:
    """How the memory of each card is divided [GiB].

    Parameters
    ----------
    usable
        Memory that the server takes.
    weights
        Weights on this card.
    fixed
        Libraries and buffers of the process and, with several cards, of communication.
    activations
        Peak of the largest batch, in the layers or in the sampler.
    sampler
        Counts of tokens that the sampler keeps for each possible request.
    graphs
        Estimate of the CUDA graphs that vLLM itself subtracts.
    block
        One block of KV.
    block_size
        Tokens of one block.
    error
        By how much the parts erred at worst on servers that they were not fitted to.
    """

    usable: float
    weights: float
    fixed: float
    activations: float
    sampler: float
    graphs: float
    block: float
    block_size: int
    error: float

    @property
    def kv(self) -> float:
        """Memory that is left for KV [GiB]."""
        taken = self.weights + self.fixed + self.activations + self.sampler + self.graphs
        return self.usable - taken

    @property
    def blocks(self) -> int:
        """Blocks of KV, the empty one that vLLM sets aside among them."""
        return max(int(self.kv // self.block), 0)

    @property
    def tokens(self) -> int:
        """KV capacity [tokens], in whole blocks."""
        return self.blocks * self.block_size

    @property
    def relative_error(self) -> float:
        """Share by which the capacity may be off: the error of the parts over what is left."""
        return self.error / (self.blocks * self.block)


def kv_memory(
    shape: ModelShape, gpu: Gpu, tp: int, server: Server, factors: ServerMemory
) -> KvMemory:
    """Return how a server divides the memory of each of ``tp`` cards.

    Parameters
    ----------
    shape, gpu, tp
        The model, and the cards over which it is divided.
    server
        What the server was started with.
    factors
        Fitted sizes, as :func:`calibration.profiles.server_memory` returns them.

    Raises
    ------
    FluidServeError
        If not even one block of KV is left.
    """
    rules = factors.rules(version_numbers(server.vllm_version))
    found = KvMemory(
        usable=server.gpu_memory_utilization * gpu.memory,
        weights=shape.weight_bytes / tp / GIB,
        fixed=rules.process + (factors.group if tp > 1 else 0.0),
        activations=activation_peak(shape, tp, server, rules),
        sampler=rules.counts * server.max_num_seqs * shape.vocabulary / GIB,
        graphs=rules.graph * captured_graphs(gpu, server),
        block=server.block_size * shape.kv_bytes(tp) / GIB,
        block_size=server.block_size,
        error=factors.error["gib"],
    )
    if found.blocks < 1:
        raise FluidServeError(_nothing_left(shape, gpu, tp, found))
    return found


def _nothing_left(shape: ModelShape, gpu: Gpu, tp: int, found: KvMemory) -> str:
    """Say why a server gets no KV, and what would leave some."""
    batch = found.activations + found.sampler
    needed = (found.usable - found.kv + found.block) / gpu.memory + 0.005
    more = ["more cards with --tp"]
    if needed < 1:
        more.append(f"--gpu-memory-utilization {needed:.2f}")
    if found.kv + batch > found.block:
        more.append("a smaller --max-num-batched-tokens and --max-num-seqs")
    return (
        f"weights of {shape.weight_bytes / GIB:.1f} GiB over {tp} x {gpu.memory:g} GiB, beside "
        f"{batch:.1f} GiB for the largest batch, leave no memory for KV; give {' or '.join(more)}"
    )


def activation_peak(shape: ModelShape, tp: int, server: Server, rules: Release) -> float:
    """Return the peak of the largest batch [GiB]: of its layers, or of its sampler.

    A layer holds copies of every token's hidden vector and of its part of the feed-forward block;
    the sampler holds the logits of every request over the whole vocabulary, and copies of them.
    """
    width = shape.intermediate * (shape.experts_per_token or 1) / tp
    each = shape.bytes_per_number * (HIDDEN_COPIES * shape.hidden + GATED_COPIES * width)
    requests = min(server.max_num_seqs, server.max_num_batched_tokens)
    layers = server.max_num_batched_tokens * each
    return max(layers, rules.logits * requests * shape.vocabulary) / GIB


def captured_graphs(gpu: Gpu, server: Server) -> int:
    """Return how many CUDA graphs a server captures: those of any batch, and those of decoding.

    vLLM captures batches of 1, 2 and 4 tokens, then every 8, and from 256 on every 16, up to twice
    ``max_num_seqs``; those of decoding alone end at ``max_num_seqs``.
    """
    largest = min(2 * server.max_num_seqs, gpu.largest_graph, server.max_num_batched_tokens)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    any_batch = [size for size in sizes if size <= largest]
    return len(any_batch) + sum(size <= server.max_num_seqs for size in any_batch)
