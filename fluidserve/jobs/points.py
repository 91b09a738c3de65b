"""Run one point of a sweep: turn its keys into the parameters of a command, and that into a row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from fluidserve.folders import plain
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.jobs.compare import compare_row
from fluidserve.jobs.simulate import simulate_row
from fluidserve.jobs.solve import solve_row
from fluidserve.options import goodput_option, instance_options, workload_options
from serving import FluidServeError
from serving.errors import hint

FILES = ("config_file", "request_file", "trace", "lengths")
"""Keys that name a file, sought from the folder of the grid."""


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(*names, **attributes)


_SOLVE = (
    _option("--method", default="auto"),
    _option("--within", type=float),
    _option("--budget", type=float),
    _option("--initial-waiting", type=float, default=0.0),
    _option("--approximate", type=bool, default=False),
)
_COMPARE = (
    _option("--methods", default="lagrangian"),
    _option("--replications", type=click.IntRange(1), default=8),
    _option("--approximate", type=bool, default=False),
)
Row = Callable[[Inputs, Mapping[str, Any]], tuple[dict[str, Any], list[str]]]
"""From inputs and parameters to the columns of a point and its warnings."""

KINDS: dict[str, tuple[Row, tuple[Any, ...]]] = {
    "simulate": (simulate_row, ()),
    "solve": (solve_row, _SOLVE),
    "compare": (compare_row, _COMPARE),
}
"""What a sweep can do at a point, and the options that it takes besides workload and instance."""


@functools.cache
def _parser(kind: str) -> click.Command:
    """Return a command that parses the keys of a point as the command line would."""

    def nothing(**_: Any) -> None: ...

    for add in (*KINDS[kind][1], goodput_option, instance_options, workload_options):
        nothing = add(nothing)
    return click.command(kind)(nothing)


def names_of(kind: str) -> dict[str, click.Parameter]:
    """Return every key of a point by the names that it may be given."""
    names = {}
    for option in _parser(kind).params:
        if option.name is not None and option.name != "help":
            flags = [flag.removeprefix("--").replace("-", "_") for flag in option.opts]
            names |= dict.fromkeys([option.name, *flags], option)
    return names


def check_key(kind: str, key: str) -> None:
    """Refuse a key that no point of this kind has.

    Raises
    ------
    FluidServeError
        Naming it, and the nearest that there is.
    """
    known = names_of(kind)
    if key.replace("-", "_") not in known:
        more = hint(key, known) or f"; known: {', '.join(sorted(known))}"
        raise FluidServeError(f"a sweep of kind {kind} has no key {key!r}{more}")


def parameters(kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a command that was given ``keys``.

    Raises
    ------
    FluidServeError
        Naming the key and what is wrong with its value.
    """
    names, arguments = names_of(kind), []
    for key, value in keys.items():
        flag = names[key.replace("-", "_")].opts[0]
        for each in value if isinstance(value, list) else [value]:
            arguments.append(f"{flag}={'none' if each is None else each}")
    try:
        return dict(_parser(kind).make_context("sweep", arguments).params)
    except click.ClickException as wrong:
        raise FluidServeError(wrong.format_message()) from None


def files_of(kind: str, keys: Mapping[str, Any]) -> list[str]:
    """Return the keys whose value is the path of a file."""
    names = names_of(kind)
    return [
        key for key, value in keys.items()
        if isinstance(value, str) and names[key.replace("-", "_")].name in FILES
    ]  # fmt: skip


def row_of(shared: tuple[str, str, Mapping[str, Any]], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of one point; what is wrong with it is a column, not the end of the sweep.

    Parameters
    ----------
    shared
        Kind, folder of the grid, and the keys that all points share.
    keys
        Those of this point.
    """
    kind, folder, base = shared
    merged = {**base, **keys}
    for key in files_of(kind, merged):
        merged[key] = str(Path(folder) / merged[key])
    row: dict[str, Any] = {"error": None, "warnings": None}
    try:
        params = parameters(kind, merged)
        notes: list[str] = []  # a thousand points are not to say on stderr what they all are
        inputs = load_inputs(params, told=notes.append)
        notes += [f"note: {line}" for line in inputs.rate_note.values()]
        row |= {"notes": "; ".join(notes)} if notes else {}
        row |= {
            "requests": len(inputs.question.requests),
            "mean_arrival_rate": inputs.question.mean_rate,
            "capacity": inputs.question.capacity,
            "capacity_confidence": inputs.question.capacity_error.confidence,
            "realised_load": inputs.question.load,
        }
        found, warnings = KINDS[kind][0](inputs, params)
        row |= {**found, "warnings": "; ".join(warnings) or None}
    except FluidServeError as error:
        row["error"] = " ".join(str(error).split())
    return plain(row)
