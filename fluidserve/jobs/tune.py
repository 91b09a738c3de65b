"""From the parameters of ``fluidserve tune`` to its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fluidserve.config import flat
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.options import FlagError
from fluidserve.progress import ProgressLine
from fluidserve.results import parse_goodput
from serving import FluidServeError

if TYPE_CHECKING:
    from workload import Workload

NO_ANSWER = 1
"""Exit status where no value meets the objectives."""


def tuned(
    params: Mapping[str, Any], knob: str, slos: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Return what the command prints, and its exit status.

    Parameters
    ----------
    params
        Of the command: workload and instance.
    knob
        Name of the knob, or two with a comma between them.
    slos
        Objectives as given.
    options
        Of :func:`studies.tuning.tune`; those that are None are left out.
    """
    from studies.tuning import Operation, knob_named, most_goodput, parse_slo, tune

    chosen = [knob_named(name) for name in knob.split(",")]
    given = {name: value for name, value in options.items() if value is not None}
    if len(chosen) > 2:
        raise FluidServeError("KNOB: one knob, or two with a comma between them")
    if (len(chosen) == 2) != bool(params["goodput"]) or (len(chosen) == 2 and slos):
        raise FluidServeError(
            "--goodput goes with two knobs (B,admission-threshold), --slo with one"
        )
    inputs = load_inputs(params)
    operation = Operation(_steady(params, inputs), inputs.instance)
    line = ProgressLine()
    told = line.say if inputs.config.verbose else None
    if len(chosen) == 2:
        names = {"replications": "replications", "least_requests": "requests"}
        for name in given.keys() - names.keys():
            raise FluidServeError(f"--{name.replace('_', '-')} is for one knob")
        thresholds = parse_goodput(params["goodput"], inputs.instance.time_unit)
        best = most_goodput(
            chosen, operation, thresholds or {}, seed=inputs.config.seed, told=told,
            **{names[name]: value for name, value in given.items()},
        )  # fmt: skip
        result = best.to_json() | _context(inputs, operation.mean_rate)
        return result, _said(best.best is not None, result["reason"], ())
    parsed = [parse_slo(text, inputs.instance.time_unit) for text in slos]
    found = tune(chosen[0], operation, parsed, seed=inputs.config.seed, told=told, **given)
    result = found.to_json() | _context(inputs, operation.mean_rate)
    return result, _said(found.value is not None, found.reason, found.warnings)


def _steady(params: Mapping[str, Any], inputs: Inputs) -> Workload:
    """Return the stream that is tuned for; refuse what ends."""
    if inputs.question.is_file:
        raise FluidServeError(
            "tune needs a steady stream, not a file that ends; give its lengths with "
            "--lengths FILE and arrivals are generated"
        )
    for key in ("num_requests", "horizon"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--{flag}: tune sets the length of its runs; see --run-length")
    return inputs.question.stream


def _context(inputs: Inputs, rate: float) -> dict[str, Any]:
    """Return what was tuned: the rate given counts only where it is no knob."""
    mix = inputs.question.mix
    return {
        "time_unit": inputs.instance.time_unit,
        "seed": inputs.config.seed,
        "capacity": inputs.question.capacity,
        "instance": flat(inputs.instance),
        "workload": {
            **inputs.source,
            "mean_arrival_rate": rate,
            "mean_prefill_length": mix.mean_prefill,
            "mean_decode_length": mix.mean_decode,
        },
    }


def _said(found: bool, reason: str, warnings: Sequence[str]) -> int:
    """Say on stderr what a user must not miss; return the exit status."""
    for warning in warnings:
        click.echo(f"note: {warning}", err=True)
    if found:
        return 0
    click.echo(f"fluidserve: {reason}", err=True)
    return NO_ANSWER


def parse_bracket(text: str | None) -> tuple[float, float] | None:
    """Return the two numbers of ``LOW:HIGH``.

    Raises
    ------
    FlagError
        If they are not.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise FlagError("--bracket", text, "LOW:HIGH, two numbers") from None
    return low, high
