"""``fluidserve bench`` measures the speed of engine and solvers on this machine."""

from __future__ import annotations

import click

from fluidserve import completion
from fluidserve.front import Command, option


@click.command("bench", cls=Command)
@option("--quick", is_flag=True, help="smaller systems and fewer repeats, some seconds")
@option(
    "--methods",
    default="all",
    show_default=True,
    help="fluid methods, comma-separated",
    shell_complete=completion.of_words(completion.methods, listed=True),
)
def command(quick: bool, methods: str) -> None:
    """Measure speed and print it: kernels warm, best of several, no files written.

    Engine requests and batches per second; the fluid model next to one discrete run for systems of
    n = 1 to 10,000; each fluid method.
    """
    from fluidserve.folders import emit
    from fluidserve.jobs.bench import measure
    from fluidserve.methods import parse_methods
    from fluidserve.tables import speed_table

    emit(measure(quick=quick, methods=parse_methods(methods)), speed_table)
