"""Write the folder of a search: its answer, and the curve of latencies over the knob."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.config import resolved_yaml
from fluidserve.folders import write_common
from fluidserve.inputs import Inputs
from fluidserve.pictures import RATE_LATENCY, draw
from fluidserve.results import write_rows
from fluidserve.text import for_people, instance_line

if TYPE_CHECKING:
    from studies.tuning import LatencyCurve

LONG = ("points", "crossings", "confirmed", "met_ranges", "sizes")
"""Lists of an answer that are a table of their own, and no line of a summary for people."""


def write_tuning(
    folder: Path,
    final: Path,
    inputs: Inputs,
    result: Mapping[str, Any],
    curve: LatencyCurve | None,
    timings: Mapping[str, float],
) -> None:
    """Write everything into ``folder``.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    inputs
        What was tuned.
    result
        What the command prints.
    curve
        Of one knob.
    timings
        Seconds by name.
    """
    node = inputs.instance
    if curve is not None:
        write_rows(folder / RATE_LATENCY, curve.columns(node.time_unit))
    shown = {
        key: value for key, value in result.items()
        if not (key in LONG and isinstance(value, list))
    }  # fmt: skip
    write_common(
        folder, final,
        config_yaml=resolved_yaml(inputs.config, node),
        summary=result, people=for_people(f"Tuned: {instance_line(node)}", shown),
        seed=inputs.config.seed, timings=timings,
    )  # fmt: skip
    if curve is not None:
        draw(folder)
