"""The method that chooses among the others: its options, and what its answers say in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fluidserve.front import option

if TYPE_CHECKING:
    from studies.automatic import Answer

AUTO, AUTO_OPTIONS, ENGINE = "auto", ("within", "budget"), "engine"
"""Name of the method, its options, and the name of the engine's answer."""


def auto_command_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--within`` and ``--budget``."""
    for add in (
        option(
            "--budget", type=float,
            help="auto: seconds of processor time that the engine may take, 10 by default",
        ),
        option(
            "--within", type=float,
            help="auto: how far off an answer may be, such as 0.05 (default)",
        ),
    ):  # fmt: skip
        command = add(command)
    return command


def auto_options(params: Mapping[str, Any]) -> dict[str, float]:
    """Return the arguments of :func:`studies.automatic.answer` that are given."""
    return {name: params[name] for name in AUTO_OPTIONS if params.get(name) is not None}


def auto_json(found: Answer) -> dict[str, Any]:
    """Return who was chosen, and what everybody who might have been said of their error."""
    return {
        "chosen": found.chosen,
        "within": found.within,
        "tried": [
            {
                "method": each.method,
                "confidence": each.error.confidence,
                "error": each.error.to_json(),
            }
            for each in found.tried
        ],
    }
