"""From the parameters of ``fluidserve tune`` to its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fluidserve.config import flat
from fluidserve.inputs import load_inputs
from fluidserve.options import FlagError
from fluidserve.progress import ProgressLine
from serving import FluidServeError

if TYPE_CHECKING:
    from calibration.tuning import Tuning

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
        Name of the knob.
    slos
        Objectives as given.
    options
        Of :func:`calibration.tuning.tune`; those that are None are left out.
    """
    from calibration.tuning import Operation, knob_named, parse_slo, tune

    chosen = knob_named(knob)
    inputs = load_inputs(params)
    if inputs.workload is None:
        raise FluidServeError(
            "tune needs a steady stream, not a file that ends; give its lengths with "
            "--lengths FILE and arrivals are generated"
        )
    for key in ("num_requests", "horizon"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--{flag}: tune sets the length of its runs; see --run-length")
    operation = Operation(inputs.workload, inputs.instance)
    parsed = [parse_slo(text, inputs.instance.time_unit) for text in slos]
    line = ProgressLine()
    found = tune(
        chosen,
        operation,
        parsed,
        seed=inputs.config.seed,
        told=line.say if inputs.config.verbose else None,
        **{name: value for name, value in options.items() if value is not None},
    )
    return _result(found, operation.mean_rate, inputs), _said(found)


def _result(found: Tuning, rate: float, inputs: Any) -> dict[str, Any]:
    given = {} if found.knob.name == "max-rate" else {"mean_arrival_rate": rate}
    mix = inputs.mix
    return {
        **found.to_json(),
        "time_unit": inputs.instance.time_unit,
        "seed": inputs.config.seed,
        "capacity": inputs.capacity,
        "instance": flat(inputs.instance),
        "workload": {
            **inputs.source,
            **given,
            "mean_prefill_length": mix.mean_prefill,
            "mean_decode_length": mix.mean_decode,
        },
    }


def _said(found: Tuning) -> int:
    """Say on stderr what a user must not miss; return the exit status."""
    for warning in found.warnings:
        click.echo(f"note: {warning}", err=True)
    if found.value is not None:
        return 0
    click.echo(f"fluidserve: {found.reason}", err=True)
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
