"""``fluidserve compare`` runs replications of the engine next to the fluid methods."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Command, option
from fluidserve.options import goodput_option, instance_options, run_options, workload_options


@click.command("compare", cls=Command)
@workload_options
@instance_options
@run_options
@goodput_option
@option("--replications", type=int, default=32, show_default=True, help="engine runs")
@option("--workers", type=int, help="processes; all cores by default")
@option(
    "--methods",
    help="fluid methods, comma-separated, or all  [default: lagrangian, eulerian_jax of a decode "
    "node, and node_work where it knows the node]",
    shell_complete=completion.of_words(completion.methods, listed=True),
)  # fmt: skip
@option(
    "--within", type=float,
    help="how far off the main line may be, relative: the cheapest method that expects as much "
    "leads, else the one that comes nearest  [default: 0.05]",
)  # fmt: skip
@option("--approximate", is_flag=True, help="solve unmodelled policies as FCFS and LIFO")
@option("--pictures/--no-pictures", default=True, show_default=True, help="PNGs and report",
        section="Output")  # fmt: skip
def command(pictures: bool, **params: Any) -> None:
    """Put the fluid model next to the discrete engine on the same instance and workload.

    Prints scores, times and metrics, and writes pictures and a report. A generated
    workload is drawn anew in every replication; a file keeps its arrival times and its
    (prefill, decode) pairs are dealt out anew in every replication but the first.
    """
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.inputs import load_config_of
    from fluidserve.jobs.compare import compare_into
    from fluidserve.tables import comparison_table

    with experiment_folder(load_config_of(params).output_dir) as (folder, final):
        result = compare_into(folder, final, params, pictures=pictures)
    emit(result | {"output_dir": str(final)}, comparison_table)
