"""What searches of ``tune`` share: the flags behind parameters, brackets, and what was tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fluidserve.config import flat
from fluidserve.flags import FlagError
from fluidserve.inputs import mean_lengths
from serving import CARD_KNOBS, KINDS, ConfigError, FluidServeError

if TYPE_CHECKING:
    from studies import Question

REPLICAS = "replicas"
"""The knob that counts the instances of a fleet."""

NO_ANSWER = 1
"""Exit status where no value meets the objectives."""

FLAGS = {
    "knob": "KNOB",
    "bracket": "--bracket",
    "tolerance": "--tolerance",
    "replications": "--replications",
    "confidence": "--confidence",
    "method": "--method",
    "within": "--within",
    "scan": "--scan",
    "least_requests": "--run-length",
    "most_requests": "--max-run-length",
    "requests": "--run-length",
    "run_length": "--run-length",
    "max_run_length": "--max-run-length",
    "policy": "--policy",
    "rate_shape": "--rate-shape",
}
"""What a user types for each parameter of tuning."""


@contextmanager
def flags_named() -> Iterator[None]:
    """Let an error about a parameter of tuning name the flag that a user typed, or lacks."""
    try:
        yield
    except ConfigError as wrong:
        flag = FLAGS.get(wrong.key)
        if flag is None:
            raise
        if wrong.value is None:
            raise FluidServeError(f"{flag} is needed: {wrong.allowed}") from None
        allowed = wrong.allowed
        if wrong.key == "knob":  # that of fleets, of which who knows the others does not know
            allowed = f"{allowed} | {REPLICAS}"
        raise FlagError(flag, _typed(wrong.value), allowed) from None


def check_knobs(names: Sequence[str]) -> None:
    """Refuse a word that is no knob of any engine, before the requests are read.

    Raises
    ------
    FlagError
        Listing the knobs that there are.
    """
    from studies.tuning import knobs_of

    of_engines = (name for kind in KINDS.values() for name in knobs_of(kind))
    known = list(dict.fromkeys([*of_engines, *CARD_KNOBS, REPLICAS]))
    folded = {each.lower() for each in known}
    for name in names:
        if name.replace("_", "-").lower() not in folded:
            raise FlagError("KNOB", name, " | ".join(known))


def context_of(question: Question, workload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was tuned: the instance, what it can serve, and its workload."""
    return {
        "time_unit": question.instance.time_unit,
        "seed": question.seed,
        "capacity": question.capacity,
        "capacity_error": question.capacity_error.to_json(),
        "instance": flat(question.instance),
        "workload": {**workload, **mean_lengths(question.mix)},
    }


def _typed(value: Any) -> str:
    """Return a value as a user would type it."""
    return ":".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)


def said_why(found: bool, reason: str) -> int:
    """Say on stderr why nothing was found; return the exit status."""
    if found:
        return 0
    click.echo(f"fluidserve: {reason}", err=True)
    return NO_ANSWER


def parse_brackets(text: str | None, knobs: int) -> list[tuple[float, float] | None]:
    """Return the two numbers of ``LOW:HIGH`` for each knob; None where nothing is given.

    Raises
    ------
    FlagError
        If ``text`` is not one bracket per knob, with a comma between them.
    """
    if text is None:
        return [None] * knobs
    if knobs == 1 and not text:
        raise FlagError("--bracket", text, "LOW:HIGH, two numbers")
    try:
        brackets: list[Any] = [
            tuple(map(float, part.split(":"))) if part else None for part in text.split(",")
        ]
    except ValueError:
        brackets = []
    if len(brackets) != knobs or any(each is not None and len(each) != 2 for each in brackets):
        allowed = "LOW:HIGH, two numbers" if knobs == 1 else "LOW:HIGH,LOW:HIGH, one per knob"
        raise FlagError("--bracket", text, allowed)
    return brackets
