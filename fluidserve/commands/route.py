"""``fluidserve route`` puts routing policies side by side on a fleet."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.fleets import fleet_options
from fluidserve.front import Command, option
from fluidserve.options import goodput_option, instance_options, run_options, workload_options


@click.command("route", cls=Command)
@workload_options
@instance_options
@fleet_options
@option("--policies", metavar="NAME,NAME,...",
        help="policies, NAME@K to look at K instances at random, FILE.py:FUNCTION for your own  "
        "[default: all that ask no predictor]",
        shell_complete=completion.of_words(completion.routing_policies, listed=True))  # fmt: skip
@option("--against", metavar="NAME",
        help="policy that differences are told against  [default: jsq, or the first]")  # fmt: skip
@option("--loads", metavar="X,X,...",
        help="arrivals over what the fleet can serve  [default: 0.7,0.8,0.9]")  # fmt: skip
@option("--seeds", type=int, default=5, show_default=True,
        help="draws of the requests, the same for every policy")  # fmt: skip
@option("--signal-period", metavar="TIME|never",
        help="instances tell of themselves so often; 0 = always  [default: with every batch]",
        )  # fmt: skip
@option("--signal-delay", type=float, default=0.0, show_default=True,
        help="time until what they tell arrives")  # fmt: skip
@option("--lost-reports", type=float, default=0.0, show_default=True,
        help="share of reports of batches that never arrive, to who follows them")  # fmt: skip
@option("--doubled-reports", type=float, default=0.0, show_default=True,
        help="share that arrives twice")  # fmt: skip
@option("--reordered-reports", type=float, default=0.0, show_default=True,
        help="share that arrives after the next one of its instance")  # fmt: skip
@option("--decision-time", type=float, default=0.0, show_default=True,
        help="time that a decision takes, which is latency")  # fmt: skip
@option("--predicted-lengths", is_flag=True,
        help="tell policies the requests' predicted_decode_length")  # fmt: skip
@option("--slo", "slos", multiple=True, metavar="STATISTIC_LATENCY<LIMIT",
        help='find the load at which each policy stops to meet this, such as "p99_ttft<2"; '
        "repeatable")  # fmt: skip
@goodput_option
@option("--workers", type=int, help="processes; all cores by default")
@run_options
def command(**params: Any) -> None:
    """Deal requests out to a fleet by several policies, and put these side by side.

    Every policy gets the same requests, drawn from several seeds, at each load. Prints mean and
    p99 of TTFT and E2EL with 95 % intervals of the paired differences to one policy, and writes
    all runs, a table and a picture into a folder. The first 10 % of each run are not counted.
    After Ctrl-C the same command with the same --out goes on where it was.
    """
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.inputs import load_config_of
    from fluidserve.jobs.route import asked, routed
    from fluidserve.tables.routing import routing_table

    question = asked(params)
    with experiment_folder(load_config_of(params).output_dir) as (folder, final):
        result = routed(folder, final, question, workers=params["workers"])
    emit(result | {"output_dir": str(final)}, routing_table)
