"""``fluidserve equations`` prints the symbolic model as text, LaTeX or Python."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.flags import FlagError
from fluidserve.front import Command, option
from serving import DEFAULT_KIND, KINDS, MODES, reading_of
from serving.kinds.prompt_server import MODEL

FORMATS = ("text", "latex", "python")


@click.command("equations", cls=Command, result=False)
@option(
    "--engine", type=click.Choice(tuple(KINDS)), default=DEFAULT_KIND.name, metavar="NAME",
    show_default=True, help=f"{', '.join(KINDS)}; with the settings that it has by default",
)  # fmt: skip
@option(
    "--mode", type=click.Choice(MODES), default=None,
    help="what happens to an evicted request of a decode node  [default: swapping]",
)  # fmt: skip
@option("--format", "style", type=click.Choice(FORMATS), default="text", show_default=True)
def command(engine: str, mode: str | None, style: str) -> None:
    """Print the fluid model that the solvers integrate."""
    import fluid

    symbolic: Any = fluid  # loads what needs SymPy when it is asked for
    reading = reading_of(KINDS[engine].settings())
    if reading.model != MODEL:
        click.echo(symbolic.render(symbolic.equations(mode or MODES[0]), style))
        return
    if mode is not None:
        raise FlagError("--mode", mode, f"nothing for the engine {engine}, which has no mode")
    click.echo(symbolic.render(symbolic.server_equations(reading.node.prompts_apart), style))
