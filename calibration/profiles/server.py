"""Settings of ``vllm serve`` on which its memory depends, and versions as numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving import ConfigError

BLOCK = 16
"""Tokens of one block of the KV cache of vLLM, by default."""


FIRST_V1 = (0, 8)
"""First version of vLLM that runs the V1 engine by default."""


@dataclass(frozen=True, slots=True)
class Server:
    """Settings of ``vllm serve`` on which its KV capacity depends.

    Parameters
    ----------
    vllm_version
        Such as ``0.33`` or ``0.6.3``.
    gpu_memory_utilization
        Share of a card's memory that the server takes.
    max_num_batched_tokens, max_num_seqs
        Largest batch: tokens and requests.
    block_size
        Tokens of one block.
    """

    vllm_version: str
    gpu_memory_utilization: float
    max_num_batched_tokens: int
    max_num_seqs: int
    block_size: int = BLOCK

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory_utilization <= 1:
            given = self.gpu_memory_utilization
            raise ConfigError("gpu_memory_utilization", given, "a number > 0 and <= 1")


def version_numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers: ``0.6.3.post1`` is (0, 6, 3).

    Raises
    ------
    ConfigError
        If it does not begin with numbers and dots.
    """
    found = re.match(r"v?(\d+(?:\.\d+)*)", str(version).strip())
    if found is None:
        raise ConfigError("vllm_version", version, "a version of vLLM, such as 0.33 or 0.6.3")
    return tuple(int(part) for part in found[1].split("."))
