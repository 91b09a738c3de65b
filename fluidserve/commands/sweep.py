"""``fluidserve sweep`` runs a grid of points on processes or a cluster, resumable."""

from __future__ import annotations

import click

from fluidserve import completion
from fluidserve.front import Command, option


@click.command("sweep", cls=Command)
@click.argument("grid", metavar="GRID.yaml", shell_complete=completion.file)
@option(
    "--output", default="sweep.csv", show_default=True, metavar="FILE", section="Output",
    help="result, .csv or .parquet (needs pyarrow)",
)  # fmt: skip
@option("--workers", type=int, help="processes; all cores by default")
@option("--scheduler", metavar="ADDRESS", help="run on this Dask cluster instead")
@option("--verbose/--no-verbose", default=True, help="progress on stderr",
        section="Output")  # fmt: skip
def command(
    grid: str, output: str, workers: int | None, scheduler: str | None, verbose: bool
) -> None:
    """Run every point of a grid and write one row for each.

    GRID.yaml has the keys kind (simulate, solve or compare), base (keys that all points share),
    grid (keys with a list or a range, in all combinations) and zip (groups of keys whose values
    go together); the keys are the options of the command and those of a configuration. After
    Ctrl-C or a kill the same command goes on where it was. The result is the same, byte for
    byte, wherever and in whatever order the points ran.
    """
    from fluidserve.folders import emit
    from fluidserve.jobs.sweep import swept
    from serving import FluidServeError

    if scheduler is not None and workers is not None:
        raise FluidServeError("--workers and --scheduler: a cluster brings its own; give one")
    emit(swept(grid, output, workers=workers, scheduler=scheduler, verbose=verbose))
