"""``fluidserve trace`` converts traces of other projects."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Group, option


@click.group("trace", cls=Group)
def command() -> None:
    """Read traces of other projects."""


@command.command("convert")
@click.argument("source", metavar="IN", shell_complete=completion.file)
@click.argument("output", metavar="OUT", shell_complete=completion.file)
@option(
    "--format",
    default=None,
    help="format of IN; detected without it",
    shell_complete=completion.of_words(completion.trace_formats),
)
@option("--limit", type=int, default=None, help="first so many requests")
@option("--start", type=float, default=None, help="skip arrivals before this time")
@option("--rate-scale", type=float, default=None, help="multiply the arrival rate")
@option("--L-filter", "L_filter", type=int, default=None, help="drop longer decodes")
def convert(source: str, output: str, **options: Any) -> None:
    """Write the trace IN, cleaned, as the request file OUT.

    Rows with zero tokens are dropped and counted on stderr and in the JSON; anything else that
    is wrong is an error that names file, row, column and value.
    """
    from fluidserve.folders import emit
    from fluidserve.inputs import mean_lengths
    from fluidserve.tables import requests_table
    from workload import read_trace, write_requests

    reading = read_trace(source, **options)
    write_requests(reading.requests, output)
    for reason, count in reading.dropped.items():
        if count:
            click.echo(f"dropped {count} rows: {reason}", err=True)
    workload = {
        "format": reading.format,
        "requests": len(reading.requests),
        "dropped": dict(reading.dropped),
        "horizon": reading.requests.horizon,
        **mean_lengths(reading.requests.mix()),
    }
    emit({"input": source, "output": output, "workload": workload}, requests_table)
