"""``fluidserve phase-diagram`` draws the map of regimes and checks marked points by the engine."""

from __future__ import annotations

import click

from fluidserve.front import Command, option
from serving import MODES, FluidServeError

QUICK = {
    "cv": (0.0, 0.1, 0.2, 0.3, 0.4),
    "ratio": (0.1, 0.5, 2.0, 10.0),
    "marked_cv": (0.0, 0.2),
    "marked_ratio": (0.1, 2.0),
}


@click.command("phase-diagram", cls=Command)
@option(
    "--mode", type=click.Choice(MODES), default="sacrifice",
    show_default=True, help="what happens to an evicted request",
)  # fmt: skip
@option("--loads", default="0.6,0.8,0.95,1.1", show_default=True, help="a panel for each")
@option("--mean-decode", type=click.IntRange(2, 1000), default=40, show_default=True, help="E[D]")
@option("--engine/--no-engine", default=True, show_default=True, help="ask the engine too")
@option("--seed", type=click.IntRange(0), help="of the engine runs  [default: 42]")
@option("--quick", is_flag=True, help="a coarse map and few engine runs, some seconds")
@option(
    "--output", default="phase_diagram", show_default=True, metavar="STEM", section="Output",
    help="writes STEM.json and STEM.png",
)  # fmt: skip
def command(
    mode: str,
    loads: str,
    mean_decode: int,
    engine: bool,
    seed: int | None,
    quick: bool,
    output: str,
) -> None:
    """Map the regimes of a node over (CV of the decode lengths, prompt per decode, load).

    Decode lengths are gamma, rounded up to whole tokens; the memory holds 10,000 requests. A node
    is healthy, bistable (healthy until its memory fills, then collapsed for good), backlogged, or
    in a limit cycle. The map comes from the survival polynomial and the throughput of a full
    node; marked points are run on the engine, from an empty node and from a long queue.
    """
    from typing import Any

    from fluidserve.folders import emit, to_json
    from fluidserve.options import FlagError
    from fluidserve.plots import phase_diagram as picture
    from fluidserve.progress import ProgressLine
    from serving.files import atomic_write, check_writable
    from studies.phase_diagram import phase_diagram

    if not output:
        raise FlagError("--output", output, "the STEM of two names")
    for suffix in ("json", "png"):
        check_writable(f"{output}.{suffix}")
    options: dict[str, Any] = dict(QUICK) if quick else {}
    if not engine:
        if seed is not None:
            raise FluidServeError("--seed and --no-engine: nothing is random without it")
        options |= {"marked_cv": (), "marked_ratio": ()}
    line = ProgressLine()
    diagram = phase_diagram(
        load=_loads(loads),
        mode=mode,
        mean_decode=mean_decode,
        seed=42 if seed is None else seed,
        progress=lambda done, total: line.say(f"{done} of {total}", final=done >= total),
        **options,
    )
    found = diagram.to_json()
    with atomic_write(f"{output}.json", "w") as file:
        file.write(to_json(found) + "\n")
        picture(diagram, f"{output}.png")  # both or neither
    shape = {name: len(found[name]) for name in ("cv", "ratio", "load")}
    emit(
        {"mode": mode, "mean_decode": mean_decode, "cells": shape, "engine": found["engine"],
         "unconverged": found["unconverged"], "output": [f"{output}.json", f"{output}.png"]}
    )  # fmt: skip


def _loads(text: str) -> tuple[float, ...]:
    from fluidserve.options import FlagError

    try:
        loads = tuple(float(part) for part in text.split(","))
    except ValueError:
        loads = ()
    if not loads or not all(0 < load < 100 for load in loads):
        raise FlagError("--loads", text, "numbers > 0, comma-separated, such as 0.6,0.95,1.1")
    return loads
