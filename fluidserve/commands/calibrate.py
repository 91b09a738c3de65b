"""``fluidserve calibrate`` groups the commands that fit batch-time laws to measurements."""

from __future__ import annotations

import click

from fluidserve.commands.calibrate_run import run
from fluidserve.commands.calibrate_steps import steps
from fluidserve.front import Group


@click.group("calibrate", cls=Group)
def command() -> None:
    """Fit batch-time laws to measurements."""


command.add_command(run)
command.add_command(steps)
