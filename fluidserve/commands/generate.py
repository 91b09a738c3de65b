"""``fluidserve generate`` draws requests from a workload and writes a request file."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.front import Command, option
from fluidserve.options import instance_options, workload_options


@click.command("generate", cls=Command)
@workload_options
@instance_options
@option(
    "--output", default="requests.csv", show_default=True, help="CSV to write", section="Output"
)
def command(output: str, **params: Any) -> None:
    """Sample a request table and write it as CSV.

    Any workload can be written: a scenario, types, a trace's lengths, or a file or trace that is
    cut, scaled or brought to a load. The instance matters only for --load and for refusing
    requests that can never finish.
    """
    from fluidserve.folders import emit
    from fluidserve.inputs import load_inputs
    from fluidserve.tables import requests_table
    from serving.files import check_writable
    from workload import write_requests

    check_writable(output)
    inputs = load_inputs(params)
    question = inputs.question
    # which engine will run requests that wait for answers is not known here
    requests = question.replication(0) if question.waits else question.requests
    assert requests is not None
    write_requests(requests, output)
    emit(
        {
            "output": output,
            "seed": inputs.config.seed,
            "workload": inputs.describe(),
            "warnings": list(inputs.notes),
        },
        requests_table,
    )
