"""The files of the profiles follow a schema; each is read once."""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    [TFLOP/s] is the rate of dense 16-bit matrices.
    """

    memory: Positive
    bandwidth: Positive
    flops: Positive
    source: str
    aliases: tuple[str, ...] = ()


class ModelShape(_Strict):
    """A model has a shape; weights and KV cache are in 16 bits.

    ``parameters`` and ``active`` (those that one token passes) are in 1e9.
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
    aliases: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> float:
        """Return the size of all weights [bytes]."""
        return 2e9 * self.parameters

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
        """Return the KV of one token on each of ``tp`` cards [bytes]; a head is not divided."""
        return 2 * self.layers * max(self.kv_heads / tp, 1) * self.head_dim * 2


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
def measured() -> dict[tuple[str, str, int], Measurement]:
    """Return every measured law by model, card and number of cards."""
    found = {}
    for path in sorted(FOLDER.glob("*/*.yaml")):
        file: ProfileFile = read(path, ProfileFile)
        for tp, each in file.tensor_parallel.items():
            found[file.model, file.hardware, tp] = each
    return found
