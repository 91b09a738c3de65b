"""Complete what a user types in a shell: values of options, looked up only when they are asked for.

Commands and options are completed by click itself; see ``fluidserve completion``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_FLUIDSERVE_COMPLETE"
"""Environment variable by which the script of a shell asks for completions."""

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def of_words(known: Callable[[], Iterable[str]], *, listed: bool = False) -> Completer:
    """Return what completes a value that is one of some words.

    Parameters
    ----------
    known
        Returns the words.
    listed
        Whether several may be given, with commas between them.
    """

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        head, comma, last = incomplete.rpartition(",") if listed else ("", "", incomplete)
        wanted, words = last.lower(), list(known())
        found = [word for word in words if word.lower().startswith(wanted)]
        found = found or [word for word in words if wanted in word.lower()]
        return [CompletionItem(f"{head}{comma}{word}") for word in found]

    return complete


def file(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def folder(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a folder."""
    return [CompletionItem(incomplete, type="dir")]


def models() -> Iterable[str]:
    """Return the models of hardware profiles."""
    from calibration.profiles import models

    return models()


def hardware() -> Iterable[str]:
    """Return the cards of hardware profiles."""
    from calibration.profiles import gpus

    return gpus()


def scenarios() -> Iterable[str]:
    """Return the scenarios of the generator."""
    from workload import SCENARIOS

    return SCENARIOS


def methods() -> Iterable[str]:
    """Return the methods that solve the fluid model."""
    from ode import METHODS

    return METHODS


def trace_formats() -> Iterable[str]:
    """Return the formats of traces."""
    from workload import TRACE_FORMATS

    return TRACE_FORMATS


def routing_policies() -> Iterable[str]:
    """Return the routing policies that have a name."""
    from scheduling.policies import POLICIES

    return POLICIES


def knobs() -> Iterable[str]:
    """Return the knobs that ``tune`` turns."""
    from serving import CARD_KNOBS, KINDS

    own = dict.fromkeys(knob.name for kind in KINDS.values() for knob in kind.knobs)
    return ["max-rate", *own, *CARD_KNOBS, "replicas"]


def script(shell: str, cli: Any, program: str) -> str:
    """Return the script that makes a shell complete a program."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    return made(cli, {}, program, VARIABLE).source()
