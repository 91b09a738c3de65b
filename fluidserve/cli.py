"""Define the command ``fluidserve`` so that its help imports only click."""

from __future__ import annotations

import errno
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from fluidserve.ending import INTERRUPTED, finished, install
from fluidserve.front import Group
from fluidserve.streams import give_up_stdout, prepare

COMMANDS = {
    "generate": "Sample a request table from a scenario, types or a trace's lengths.",
    "trace": "Read traces of other projects (trace convert IN OUT).",
    "simulate": "Run the discrete engine.",
    "solve": "Solve the fluid model.",
    "compare": "Fluid next to discrete: JSON, pictures and a report.",
    "phase-diagram": "Map where a node is healthy, bistable, backlogged or cycling.",
    "analyze": "One node in theory: means, tails, stability, gradients, warnings.",
    "prefix-cache": "What a prefix cache finds, by the size of the memory.",
    "tune": "Find the rate or knob at which an SLO stops being met.",
    "route": "Routing policies side by side on a fleet.",
    "serve": "Predict for schedulers over HTTP.",
    "sweep": "Run a grid of points on processes or a cluster; resumable.",
    "experiments": "List, compare, archive and export experiment folders.",
    "calibrate": "Fit batch-time laws to measurements (calibrate steps | run).",
    "validate": "Hold a prediction against a measured run: errors, pictures, a page.",
    "profiles": "Known models on known GPUs (profiles list | show).",
    "plot": "Draw the pictures of an experiment folder again.",
    "equations": "Print the symbolic fluid model.",
    "bench": "Measure speed: engine, fluid.",
    "completion": "Print what makes bash, zsh or fish complete commands and options.",
}
"""Every command and its one line; the module ``fluidserve.commands.<name>`` loads when it runs."""

LONGEST = 2000
"""Characters of an error."""


class FrontDoor(Group):
    """Loads a command when it is asked for, and turns every error into one line and a status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"fluidserve.commands.{cmd_name.replace('-', '_')}")
        return module.command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any."""
        found = [
            CompletionItem(name, help=words)
            for name, words in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse; see :func:`_past_click`."""
        with _past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see :func:`_past_click`."""
        with _past_click():
            return super().invoke(ctx)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run; with ``standalone_mode`` every deliberate error ends as one line on stderr."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            _check_words(extra.get("args") or (args[0] if args and args[0] else sys.argv[1:]))
            status = super().main(*args, standalone_mode=False, **extra)
            sys.stdout.flush()
        except (KeyboardInterrupt, click.Abort):
            _stop("interrupted", INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError as help_wanted:
            click.echo(help_wanted.ctx.get_help() if help_wanted.ctx else help_wanted.message)
            sys.exit(0)
        except click.ClickException as wrong:
            _stop(wrong.format_message(), 2)
        except (BrokenPipeError, _ReaderGone):
            give_up_stdout()
            sys.exit(0)
        except MemoryError as wrong:
            _stop(f"this machine has not the memory for it: {wrong}", 2)
        except OverflowError as wrong:
            _stop(f"a number is too large: {wrong}", 2)
        except Exception as wrong:
            from serving.errors import FluidServeError

            if isinstance(wrong, OSError) and wrong.filename is None:
                give_up_stdout()
                _stop(f"the result cannot be printed: {wrong.strerror or wrong}", 2)
            if not isinstance(wrong, FluidServeError | OSError):
                raise
            _stop(str(wrong).replace("approximate=True", "--approximate"), 2)  # Python's word
        sys.exit(status if isinstance(status, int) else 0)


class _ReaderGone(Exception):
    """Who read stdout has what it wanted (``| head``): the command ends well."""


@contextmanager
def _past_click() -> Iterator[None]:
    """Keep from click what it would take for a failure, or for Ctrl-C."""
    try:
        yield
    except BrokenPipeError:
        raise _ReaderGone from None
    except EOFError as wrong:
        raise OSError(errno.EIO, f"it ends too early: {wrong}", "a file") from wrong


def _check_words(words: Sequence[str]) -> None:
    """Refuse words that no text file and no file's name can hold."""
    for word in words:
        if any("\ud800" <= each <= "\udfff" for each in word):
            _stop(f"{word!a} is no UTF-8 text: files and results could not name it", 2)
        if "\0" in word:
            _stop(f"{word!a} holds a zero byte: no file can have such a name", 2)


def _stop(message: str, status: int) -> NoReturn:
    words = " ".join(message.split())
    if len(words) > LONGEST:  # of a value that somebody pasted
        words = f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"
    click.echo(f"fluidserve: {words}", err=True)
    sys.exit(status)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"fluidserve {version('fluidserve')}")
        ctx.exit()


@click.command(
    cls=FrontDoor,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version."
)
def cli() -> None:
    """Predict what an LLM serving node will do: a fluid model next to a discrete simulator."""


def _show_log() -> None:
    """Show on stderr what the rooms below log, such as that a compiler is at work."""
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("serving")
    log.addHandler(shown)
    log.setLevel(logging.INFO)


def main() -> NoReturn:
    """Run the command ``fluidserve``; see :mod:`fluidserve.ending` on Ctrl-C."""
    install()
    _show_log()
    if not prepare():
        _stop("stdout is closed, so that no result can be printed; /dev/null would take it", 2)
    try:
        cli.main(prog_name="fluidserve")
    finally:
        finished()
    raise AssertionError("the front door always exits")
