"""``fluidserve trace`` converts traces of other projects."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Group, option
from fluidserve.options import attached, trace_columns


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
    section="Workload",
)
@attached(*trace_columns())
@option("--limit", type=int, default=None, help="first so many requests", section="Workload")
@option(
    "--start", type=float, default=None, help="skip arrivals before this time", section="Workload"
)
@option(
    "--rate-scale", type=float, default=None, help="multiply the arrival rate", section="Workload"
)
@option(
    "--L-filter", "L_filter", type=int, default=None, help="drop longer decodes", section="Workload"
)
def convert(source: str, output: str, **options: Any) -> None:
    """Write the trace IN, cleaned, as the request file OUT.

    Times are seconds from the first request (those of a request file keep their unit). Rows with
    zero tokens are dropped and counted on stderr and in the JSON; anything else that is wrong is
    an error that names file, line, row, column and value.
    """
    from fluidserve.folders import emit
    from fluidserve.inputs import read_with_progress, say_what_was_dropped, told_of
    from fluidserve.tables import requests_table
    from serving.files import check_writable
    from workload import write_requests

    check_writable(output, source)
    reading = read_with_progress(source, **options)
    write_requests(reading.requests, output)
    say_what_was_dropped(reading)
    table = reading.requests
    workload = {
        **told_of(reading),
        "requests": len(table),
        "horizon": table.horizon,
        "mean_prefill_length": float(table.prefill_length.mean()),
        "mean_decode_length": float(table.decode_length.mean()),
    }
    del workload["file"]  # is the input
    emit(
        {
            "input": source,
            "output": output,
            "workload": workload,
            "warnings": list(reading.notes),
        },
        requests_table,
    )
