"""``fluidserve validate`` holds a prediction against a measured run."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Command, option
from fluidserve.options import instance_options, run_options


@click.command("validate", cls=Command)
@click.argument("run", metavar="RUN", shell_complete=completion.file)
@option("--result", type=click.IntRange(1), help="number of the result in a file of several")
@option(
    "--law-file",
    metavar="FILE",
    section="Law",
    help="take the batch-time law of this file, such as calibrate writes",
)
@option(
    "--calibrate-on",
    metavar="RUN",
    multiple=True,
    section="Law",
    help="match the law to this other run; repeatable",
)
@option(
    "--calibrate-steps",
    metavar="FILE",
    multiple=True,
    section="Law",
    help="match the law to measured steps of the server too, as calibrate steps reads them",
)
@option(
    "--calibrate-until",
    type=float,
    metavar="S",
    section="Law",
    help="match the law to the first S seconds of RUN, and judge what arrives later",
)
@option(
    "--front-end-offset",
    metavar="S|matched",
    section="Law",
    help="add so many seconds before every first token; matched: what --calibrate-on shows  "
    "[default: 0]",
)
@option(
    "--distinct-prompts",
    type=click.IntRange(0),
    metavar="N",
    section="Workload",
    help="requests send N prompts in turn; 0 = all differ  [default: as RUN shows]",
)
@option(
    "--mend-lengths",
    is_flag=True,
    section="Workload",
    help="give answers whose times contradict their counted tokens the usual length",
)
@option("--fluid", is_flag=True, help="ask the fluid model beside the engine")
@option("--one-node", is_flag=True, help="ask the model of one server in equilibrium beside it")
@option(
    "--replicas",
    type=click.IntRange(1, 1024),
    section="Node",
    help="engines among which requests are dealt in turn  [default: as RUN says]",
)
@instance_options
@run_options
def command(run: str, **params: Any) -> None:
    """Replay a measured RUN through an engine and print measured against predicted.

    RUN is a file of requests, a folder with one run, or FOLDER/NAME for one run of several:
    results of vllm bench serve, inference-perf, guidellm, aiperf, LLMServingSim, or CSV. Settings
    that the folder of RUN tells (a config JSON, an index.csv) are used; options win over them.

    The law comes from --model on --hardware, from --law-file, from other runs (--calibrate-on) or
    from the beginning of the run itself (--calibrate-until). What the run does not say is assumed,
    and stands in the result.
    """
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.jobs.validate import validate_into
    from fluidserve.tables import validation_table

    with experiment_folder(params["output_dir"]) as (folder, final):
        result = validate_into(folder, final, run, params)
    emit(result | {"output_dir": str(final)}, validation_table)
