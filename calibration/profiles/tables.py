"""The files of the profiles follow a schema; each is read once."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calibration.profiles.server import Server, version_numbers
from serving import BatchTimeLaw, FileAccessError

_HERE = Path(str(resources.files("calibration.profiles")))
FOLDER = next(
    folder
    for folder in (_HERE / "files", _HERE.parents[1] / "config" / "profiles")
    if folder.is_dir() or folder.name == "profiles"
)
"""Folder of the profiles: ``files`` beside this module, which is a link to ``config/profiles`` in a
checkout. Where a file system knows no links, the target itself is read."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Finite number > 0."""

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite number >= 0."""

Count = Annotated[int, Field(ge=1)]
"""Whole number >= 1."""

Table = tuple[tuple[NotNegative, NotNegative], ...]
"""Rows (content of a batch, time [ms]) of a broken line."""


class _Strict(BaseModel):
    """A strict schema refuses keys that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gpu(_Strict):
    """A graphics card has a memory, a bandwidth and a rate.

    ``memory`` [GiB] is the memory that a program sees, ``bandwidth`` is in GB/s, and ``flops``
    [TFLOP/s] is the rate of dense 16-bit matrices. ``largest_graph`` is the largest batch [tokens]
    of which vLLM captures a CUDA graph on the card.
    """

    memory: Positive
    bandwidth: Positive
    flops: Positive
    largest_graph: Count = 512
    source: str
    aliases: tuple[str, ...] = ()


class ModelShape(_Strict):
    """A model has a shape; weights, activations and KV cache are in 16 bits by default.

    ``parameters`` and ``active`` (those that one token passes) are in 1e9. ``intermediate`` is the
    width of the feed-forward block, of one expert where there are experts. A model with latent
    attention (MLA) keeps ``kv_lora_rank`` + ``qk_rope_head_dim`` numbers per token and layer
    instead of keys and values of its heads.
    """

    parameters: Positive
    active: Positive | None = None
    experts: Count | None = None
    experts_per_token: Count | None = None
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count
    vocabulary: Count
    kv_lora_rank: Count | None = None
    qk_rope_head_dim: Count = 64
    bytes_per_number: Count = 2
    aliases: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> float:
        """Return the size of all weights [bytes]."""
        return 1e9 * self.bytes_per_number * self.parameters

    @property
    def flops_per_token(self) -> float:
        """Return the operations of the matrices that one token passes [FLOP]."""
        return 2e9 * (self.active or self.parameters)

    def share_read(self, requests: float) -> float:
        """Return the share of the weights that a batch reads; experts are chosen at random."""
        if self.experts is None or self.experts_per_token is None or self.active is None:
            return 1.0
        each = (self.parameters - self.active) / (self.experts - self.experts_per_token)
        chosen = 1 - (1 - self.experts_per_token / self.experts) ** requests
        return (self.active - self.experts_per_token * each + chosen * self.experts * each) / (
            self.parameters
        )

    def divides_over(self, tp: int) -> bool:
        """Return whether servers divide the model over ``tp`` cards.

        Each card takes equally many heads, and whole KV heads or one that it shares.
        """
        shares = self.kv_heads % tp == 0 or tp % self.kv_heads == 0
        return self.heads % tp == 0 and shares

    def kv_bytes(self, tp: int) -> float:
        """Return the KV of one token on each of ``tp`` cards [bytes].

        A head is not divided, and every card has the whole of a latent vector.
        """
        if self.kv_lora_rank is not None:
            return self.bytes_per_number * self.layers * (self.kv_lora_rank + self.qk_rope_head_dim)
        heads = max(self.kv_heads / tp, 1)
        return 2 * self.layers * heads * self.head_dim * self.bytes_per_number


class Law(_Strict):
    """A file holds the coefficients of :class:`serving.BatchTimeLaw` in ms.

    Tables have rows (requests, ms), (tokens computed, ms) or (KV tokens read, ms).
    """

    d_0: NotNegative
    d_prefill: NotNegative
    d_decode: NotNegative
    d_kv: NotNegative
    d_prefill_attention: NotNegative = 0.0
    d_prefill_context: NotNegative = 0.0
    d_mixed_decode: NotNegative = 0.0
    d_decode_table: Table | None = None
    d_prefill_table: Table | None = None
    d_mixed_kv_table: Table | None = None

    def batch_time(self, unit: float = 1e-3) -> BatchTimeLaw:
        """Return the law in units of ``1 ms / unit``: seconds by default."""

        def time(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple((at, time(tau)) for at, tau in value)
            return None if value is None else float(f"{value * unit:.10g}")  # as in the file

        return BatchTimeLaw(**{key: time(value) for key, value in dict(self).items()})


class Regime(_Strict):
    """A law makes these errors on batches of one kind [share of the time]."""

    rows: Count
    mape: NotNegative
    held_out: dict[str, NotNegative] = {}

    @property
    def error(self) -> float:
        """Return the mean held-out error; without held-out rows, the error on the fitted rows."""
        held_out = self.held_out.values()
        return sum(held_out) / len(held_out) if held_out else self.mape


class Wall(_Strict):
    """A law makes these errors on batches that were timed on a running server."""

    rows: Count
    bias: float
    mape: NotNegative
    source: str


class MeasuredServer(_Strict):
    """A server of vLLM was started with these settings and logged its blocks of 16 tokens."""

    vllm_version: str
    gpu_memory_utilization: Positive
    max_num_batched_tokens: Count
    max_num_seqs: Count
    num_gpu_blocks: Count

    @property
    def server(self) -> Server:
        """Return its settings."""
        return Server(**self.model_dump(exclude={"num_gpu_blocks"}))


class Measurement(_Strict):
    """A measurement gives the law of a model on a number of cards, and names its source."""

    law: Law
    measured: str
    range: str
    source: str
    licence: str
    date: str
    kv_capacity: Count | None = None
    kv_capacity_source: str | None = None
    servers: tuple[MeasuredServer, ...] = ()
    fit: dict[str, Regime]
    wall: Wall | None = None

    @property
    def most_requests(self) -> int | None:
        """Return the requests of the largest measured batch, as ``range`` says them."""
        found = re.search(r"up to (\d+) requests", self.range)
        return int(found[1]) if found else None


class ProfileFile(_Strict):
    """A profile file ``<gpu>/<model>.yaml`` holds measurements by number of cards."""

    model: str
    hardware: str
    units: str
    tensor_parallel: dict[Count, Measurement]


class Roofline(_Strict):
    """The file ``estimate.yaml`` holds the factors and the errors of estimates.

    ``weights``, ``kv``, ``decode`` and ``prefill`` multiply the time that the data sheet gives;
    ``layer`` [ms] is the additional time of each layer; ``reserve`` [GiB] is for activations.
    """

    weights: Positive
    layer: NotNegative
    kv: Positive
    decode: NotNegative
    prefill: Positive
    reserve: Positive
    error: dict[str, Any]
    source: str
    date: str


class Release(_Strict):
    """What servers from a release of vLLM on need besides weights, layers and KV.

    ``process`` [GiB] is for libraries and buffers, ``logits`` [bytes] is the peak of the sampler
    per request and entry of the vocabulary, ``counts`` [bytes] is what it keeps of the same, and
    ``graph`` [GiB] is subtracted for each CUDA graph.
    """

    since: str
    process: NotNegative
    logits: Positive
    counts: NotNegative = 0.0
    graph: NotNegative = 0.0


class ServerMemory(_Strict):
    """The file ``server_memory.yaml`` holds the sizes that KV capacities are estimated with.

    ``group`` [GiB] is for communication between cards. ``error`` has, of capacities of servers that
    the sizes were not fitted to, the worst error in GiB and as a share, and their number;
    ``most_requests`` is the largest ``max_num_seqs`` among them.
    """

    releases: tuple[Release, ...]
    group: NotNegative
    most_requests: Count
    error: dict[str, Any]
    source: str
    date: str

    def rules(self, version: tuple[int, ...]) -> Release:
        """Return the sizes of a version of vLLM."""
        known = [(tuple(map(int, each.since.split("."))), each) for each in self.releases]
        return [each for since, each in known if since <= version][-1]

    def are_alike(self, one: Server, other: Server) -> bool:
        """Return whether two servers get the same memory for KV on the same cards."""
        same = replace(one, vllm_version=other.vllm_version) == other
        first, second = (self.rules(version_numbers(each.vllm_version)) for each in (one, other))
        return same and first is second


def read(path: Path, schema: Any) -> Any:
    """Read a file and hold it to a schema.

    Raises
    ------
    FileAccessError
        Naming file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return schema(**content)
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise FileAccessError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except TypeError:
        raise FileAccessError(f"{path} holds no keys") from None
    except ValidationError as wrong:
        first = wrong.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FileAccessError(f"{path}, key {key!r}: {first['msg']}") from None


def _table(name: str, schema: Any) -> dict[str, Any]:
    """Read a file of entries by name, each of one schema."""

    def rows(**content: Any) -> dict[str, Any]:
        return {key: schema(**value) for key, value in content.items()}

    return read(FOLDER / name, rows)


@functools.cache
def gpus() -> dict[str, Gpu]:
    """Return every card by name."""
    return _table("gpus.yaml", Gpu)


@functools.cache
def models() -> dict[str, ModelShape]:
    """Return every model by name."""
    return _table("models.yaml", ModelShape)


@functools.cache
def roofline() -> Roofline:
    """Return the factors that estimates use."""
    return read(FOLDER / "estimate.yaml", Roofline)


@functools.cache
def server_memory() -> ServerMemory:
    """Return the sizes that KV capacities are estimated with."""
    return read(FOLDER / "server_memory.yaml", ServerMemory)


@functools.cache
def measured() -> dict[tuple[str, str, int], Measurement]:
    """Return every measured law by model, card and number of cards."""
    found = {}
    for path in sorted(FOLDER.glob("*/*.yaml")):
        file: ProfileFile = read(path, ProfileFile)
        for tp, each in file.tensor_parallel.items():
            found[file.model, file.hardware, tp] = each
    return found
