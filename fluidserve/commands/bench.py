"""``fluidserve bench`` measures the speed of engine and solvers on this machine."""

from __future__ import annotations

import click

from fluidserve import completion
from fluidserve.front import Command, option
from serving import FluidServeError


@click.command("bench", cls=Command)
@click.argument("what", type=click.Choice(["speed", "predictor"]), default="speed")
@option("--quick", is_flag=True, help="smaller systems and fewer repeats, some seconds")
@option(
    "--methods",
    default="all",
    show_default=True,
    help="fluid methods, comma-separated",
    shell_complete=completion.of_words(completion.methods, listed=True),
)
def command(what: str, quick: bool, methods: str) -> None:
    """Measure speed and print it: kernels warm, best of several, no files written.

    Engine requests and batches per second; the fluid model next to one discrete run for systems of
    n = 1 to 10,000; each fluid method. With the word predictor: what a prediction of the online
    predictor costs, by candidates, requests and instances.
    """
    from fluidserve.folders import emit

    if what == "predictor":
        if methods != "all":
            raise FluidServeError("--methods is of the speed of solvers, not of the predictor")
        from fluidserve.jobs.bench_predictor import measure_predictor
        from fluidserve.tables.predictor import predictor_table

        emit(measure_predictor(quick=quick), predictor_table)
        return
    from fluidserve.jobs.bench import measure
    from fluidserve.methods import parse_methods
    from fluidserve.tables import speed_table

    emit(measure(quick=quick, methods=parse_methods(methods)), speed_table)
