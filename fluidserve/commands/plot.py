"""``fluidserve plot`` draws the pictures of an experiment folder from its files."""

from __future__ import annotations

import click

from fluidserve import completion
from fluidserve.front import Command


@click.command("plot", cls=Command)
@click.argument("folder", metavar="DIR", shell_complete=completion.folder)
def command(folder: str) -> None:
    """Draw the pictures of the experiment folder DIR (again), and its report if it compares.

    Works on what simulate, solve, compare and tune have written.
    """
    from pathlib import Path

    from fluidserve.folders import emit
    from fluidserve.pictures import draw
    from fluidserve.report import write_report

    home = Path(folder)
    drawn = draw(home)
    if (home / "comparison.csv").exists():
        drawn.append(write_report(home))
    emit({"folder": folder, "written": drawn})
