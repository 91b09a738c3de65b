"""What ``vllm serve`` is started with where nobody says: the defaults of a version on a card.

vLLM chooses its largest batch by the memory of the card and changed other defaults from version to
version. The values are those of its source at the versions of :data:`VERSIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibration.profiles.server import BLOCK, FIRST_V1, Server, version_numbers
from calibration.profiles.tables import gpus
from serving import ConfigError, FluidServeError

GIVEN = "given"
OF_THE_CARD = "vLLM's default for this card"
OF_VLLM = "vLLM's default"

VERSIONS = ("0.5.4", "0.6.3", "0.19", "0.32", "0.33")
"""Versions whose defaults were read off their source."""

LONG_CONTEXT = 32768
"""Longest context [tokens] for which V0 does not turn chunked prefill on by itself."""


@dataclass(frozen=True, slots=True)
class Served:
    """A setting of a server, and where its value is from.

    Parameters
    ----------
    value
        As ``vllm serve`` takes it.
    origin
        ``given``, ``vLLM's default for this card``, ``vLLM's default`` or ``estimated``.
    """

    value: Any
    origin: str


def serving_defaults(
    hardware: str, vllm_version: str = "0.33", given: Mapping[str, Any] | None = None
) -> dict[str, Served]:
    """Return the settings of ``vllm serve`` on a card, by vLLM's names.

    Parameters
    ----------
    hardware
        Card, by its name in :func:`calibration.profiles.gpus`.
    vllm_version
        One of :data:`VERSIONS`, or a patch release of one.
    given
        Settings that somebody said; None stands for not said. They are returned as they are, and
        the defaults follow them as in vLLM.

    Raises
    ------
    ConfigError
        For a version whose defaults are not known.
    FluidServeError
        Where a default is the longest context of the model (``max_model_len``) and nobody said it.
    """
    version = known_version(vllm_version)
    said = {key: value for key, value in (given or {}).items() if value is not None}
    defaults = _v0(said) if version < FIRST_V1 else _v1(hardware, version, said)
    found = {key: Served(value, GIVEN) for key, value in said.items()}
    return {**defaults, **found}


def known_version(vllm_version: str) -> tuple[int, ...]:
    """Return the version of :data:`VERSIONS` that a version is, as numbers.

    Raises
    ------
    ConfigError
        If it is none of them.
    """
    given = version_numbers(vllm_version)
    for version in VERSIONS:
        known = version_numbers(version)
        if given[: len(known)] == known:
            return known
    raise ConfigError("vllm_version", vllm_version, " | ".join(VERSIONS))


def server_of(settings: Mapping[str, Served], vllm_version: str) -> Server:
    """Return the settings on which the KV capacity depends."""
    keys = ("gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs", "block_size")
    return Server(vllm_version, **{key: settings[key].value for key in keys})


def _v1(hardware: str, version: tuple[int, ...], said: Mapping[str, Any]) -> dict[str, Served]:
    """Return the defaults of 0.19 and later."""
    tokens, requests = _largest_batch(hardware, version)
    longest = said.get("max_model_len")
    if "max_num_batched_tokens" in said:
        tokens = said["max_num_batched_tokens"]
    else:
        if not said.get("enable_chunked_prefill", True):
            tokens = max(_needed(longest, "max_num_batched_tokens without chunks"), tokens)
        if longest is not None:
            tokens = min(tokens, said.get("max_num_seqs", requests) * longest)
    requests = min(requests, tokens)
    return {
        "gpu_memory_utilization": Served(0.92 if version >= (0, 32) else 0.9, OF_VLLM),
        "max_num_batched_tokens": Served(tokens, OF_THE_CARD),
        "max_num_seqs": Served(requests, OF_THE_CARD),
        "block_size": Served(BLOCK, OF_VLLM),
        "enable_prefix_caching": Served(True, OF_VLLM),
        "async_scheduling": Served(True, OF_VLLM),
        "enable_chunked_prefill": Served(True, OF_VLLM),
    }


def _largest_batch(hardware: str, version: tuple[int, ...]) -> tuple[int, int]:
    """Return ``max_num_batched_tokens`` and ``max_num_seqs`` of a server on a card.

    An A100 has the memory of a large card and the defaults of a small one, because larger batches
    made it slower.
    """
    memory = gpus()[hardware].memory
    if memory >= 160 and version >= (0, 32):
        return 16384, 1024
    if memory >= 70 and not hardware.startswith("A100"):
        return 8192, 1024
    return 2048, 256


def _v0(said: Mapping[str, Any]) -> dict[str, Served]:
    """Return the defaults of 0.5.4 and 0.6.3, which are the same on every card."""
    longest = said.get("max_model_len")
    chunked = said.get("enable_chunked_prefill")
    if chunked is None:
        chunked = _needed(longest, "enable_chunked_prefill in V0") > LONG_CONTEXT
    if chunked:
        tokens = 512
    elif "max_num_batched_tokens" in said:
        tokens = said["max_num_batched_tokens"]
    else:
        tokens = max(_needed(longest, "max_num_batched_tokens in V0"), 2048)
    return {
        "gpu_memory_utilization": Served(0.9, OF_VLLM),
        "max_num_batched_tokens": Served(tokens, OF_VLLM),
        "max_num_seqs": Served(256, OF_VLLM),
        "block_size": Served(BLOCK, OF_VLLM),
        "enable_prefix_caching": Served(False, OF_VLLM),
        "enable_chunked_prefill": Served(chunked, OF_VLLM),
        "swap_space": Served(4, OF_VLLM),
    }


def _needed(longest: int | None, what: str) -> int:
    """Return the longest context, on which a default depends."""
    if longest is None:
        raise FluidServeError(
            f"max_model_len is not given, and the default of {what} depends on it; give one of them"
        )
    return longest
