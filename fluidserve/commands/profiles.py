"""``fluidserve profiles`` shows the hardware profiles of known models on known cards."""

from __future__ import annotations

import click

from fluidserve import completion
from fluidserve.front import Group, option


@click.group("profiles", cls=Group)
def command() -> None:
    """List profiles, or show one."""


@command.command("list")
def listed() -> None:
    """Print every measured profile, and the models and cards that estimates exist for."""
    from calibration.profiles import gpus, listing, models, roofline
    from fluidserve.folders import emit
    from fluidserve.tables import profiles_table

    emit(
        {
            "measured": listing(),
            "estimates": {
                "models": list(models()),
                "hardware": list(gpus()),
                "expected_error": roofline().error,
            },
        },
        profiles_table,
    )


@command.command("show")
@option(
    "--model",
    required=True,
    help="any spelling; a tuned variant means its base",
    shell_complete=completion.of_words(completion.models),
)
@option(
    "--hardware",
    required=True,
    help="graphics card",
    shell_complete=completion.of_words(completion.hardware),
)
@option("--tp", type=int, default=1, show_default=True, help="cards over which it is divided")
@option("--gpu-memory-utilization", type=float, default=None,
        help="share of a card's memory that the server takes  [default: that of vLLM]")  # fmt: skip
@option("--vllm-version", default="0.33", show_default=True,
        help="vLLM whose defaults and KV blocks are shown")  # fmt: skip
@option("--max-model-len", type=click.IntRange(2), default=None,
        help="longest context, which defaults of V0 follow")  # fmt: skip
def show(
    model: str,
    hardware: str,
    tp: int,
    gpu_memory_utilization: float | None,
    vllm_version: str,
    max_model_len: int | None,
) -> None:
    """Print the profile of a model on a card: law [ms], KV capacity [tokens], source, error.

    ``vllm_serve`` is what vLLM starts with there where nobody says a setting, and its KV blocks.
    """
    from dataclasses import asdict

    from calibration.profiles import find, served
    from fluidserve.folders import emit
    from fluidserve.tables import profile_table

    found = find(model, hardware, tp, gpu_memory_utilization=gpu_memory_utilization)
    emit(
        asdict(found)
        | {
            "units": {"law": "ms, ms/token, ms/request, ms/token", "kv_capacity": "tokens"},
            "law": found.law.model_dump(exclude_defaults=True),
            "wall": None if found.wall is None else found.wall.model_dump(),
            "config": found.config(),
            "vllm_serve": served(found, vllm_version, max_model_len),
        },
        profile_table,
    )
