"""``fluidserve equations`` prints the symbolic model as text, LaTeX or Python."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.front import Command, option
from serving import MODES

FORMATS = ("text", "latex", "python")


@click.command("equations", cls=Command, result=False)
@option(
    "--mode", type=click.Choice(MODES), default="swapping",
    show_default=True, help="what happens to an evicted request",
)  # fmt: skip
@option("--format", "style", type=click.Choice(FORMATS), default="text", show_default=True)
def command(mode: str, style: str) -> None:
    """Print the fluid model that the solvers integrate."""
    import fluid

    symbolic: Any = fluid  # loads what needs SymPy when it is asked for
    click.echo(symbolic.render(symbolic.equations(mode), style))
