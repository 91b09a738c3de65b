"""``fluidserve completion`` prints what makes a shell complete the command line."""

from __future__ import annotations

import click

from fluidserve.completion import SHELLS, script
from fluidserve.front import Command


@click.command("completion", cls=Command, result=False)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a script that makes SHELL complete commands, options and their values.

    For bash put this line into ~/.bashrc, for zsh (with the other word) into ~/.zshrc:

        eval "$(fluidserve completion bash)"

    For fish: fluidserve completion fish > ~/.config/fish/completions/fluidserve.fish
    """
    from fluidserve.cli import cli

    click.echo(script(shell, cli, "fluidserve"))
