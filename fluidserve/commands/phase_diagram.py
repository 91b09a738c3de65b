"""``fluidserve phase-diagram`` draws the map of regimes and checks marked points by the engine."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.front import Command, option
from fluidserve.options import server_options
from serving import MODES


@click.command("phase-diagram", cls=Command)
@option("--mode", type=click.Choice(MODES),
        help="what a decode node does to an evicted request  [default: sacrifice]")  # fmt: skip
@option("--loads", help="a panel for each  [default: 0.6,0.8,0.95,1.1; of a server "
        "0.8,0.95,1.05,1.2]")  # fmt: skip
@option("--mean-decode", type=click.IntRange(2, 1000),
        help="E[D]  [default: 40; of a server 200]")  # fmt: skip
@option("--no-engine", "no_engine", is_flag=True, help="the model alone, no engine runs")
@option("--seed", type=click.IntRange(0), help="of the engine runs  [default: 42]")
@option("--quick", is_flag=True, help="a coarse map and few engine runs, some seconds")
@option("--approximate", is_flag=True, help="read unmodelled policies of a server as FCFS and LIFO")
@option(
    "--output", default="phase_diagram", show_default=True, metavar="STEM", section="Output",
    help="writes STEM.json and STEM.png",
)  # fmt: skip
@server_options
def command(
    mode: str | None,
    loads: str | None,
    mean_decode: int | None,
    no_engine: bool,
    seed: int | None,
    quick: bool,
    approximate: bool,
    output: str,
    **params: Any,
) -> None:
    """Map the regimes of a node over (CV of the decode lengths, prompt per decode, load).

    Decode lengths are gamma, rounded up to whole tokens. A node is healthy, bistable (healthy until
    it first has a queue), backlogged, or in a limit cycle, where requests are in step with each
    other. Marked points are run on the engine, from an empty node and from a long queue.

    Without a server the map is that of a decode node whose memory holds 10,000 requests. With
    --engine vllm_v1 or vllm_v0, or --model on --hardware, it is that of this server, and says which
    of its limits binds where: seats, step tokens or KV.
    """
    from fluidserve.folders import emit
    from fluidserve.jobs.phase_diagram import mapped
    from fluidserve.options import FlagError
    from serving.files import check_writable

    if not output:
        raise FlagError("--output", output, "the STEM of two names")
    for suffix in ("json", "png"):
        check_writable(f"{output}.{suffix}")
    emit(
        mapped(
            params, output, loads=None if loads is None else _loads(loads), mode=mode,
            mean_decode=mean_decode, seed=seed, quick=quick, asks_engine=not no_engine,
            approximate=approximate,
        )
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
