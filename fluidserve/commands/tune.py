"""``fluidserve tune`` finds the rate or knob value at which an objective stops being met."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Command, option
from fluidserve.options import goodput_option, instance_options, run_options, workload_options
from serving import CARD_KNOBS, KINDS

SETTINGS = {
    "tolerance": "tolerance",
    "replications": "replications",
    "confidence": "confidence",
    "scan": "scan",
    "least_requests": "run_length",
    "most_requests": "max_run_length",
}
"""Flag that gives each setting of a search."""


def help_text() -> str:
    """Return the help of the command, with the knobs that each kind of engine has."""
    paragraphs = [
        "Find the value of KNOB at which objectives stop being met, and print it.",
        "KNOB is max-rate (largest mean arrival rate [requests/time]), or a setting of the engine:",
    ]
    for kind in KINDS.values():
        knobs = "; ".join(f"{knob.name} ({knob.words})" for knob in kind.knobs)
        paragraphs.append(f"{kind.name}: {knobs or 'none'}.")
    named = "; ".join(f"{knob.name} ({knob.words})" for knob in CARD_KNOBS.values())
    paragraphs += [
        f"of a model on a card (--model, --hardware): {named}. There every value of a knob is the "
        "server that starts with it, KV and law included.",
        "replicas: fewest instances that serve the requests, of a trace or at --arrival-rate, with "
        "GPU-hours beside the least that any system needs; every number that decides is run, the "
        "answer and one instance less among them.",
        "In steady state: the first 10 % of each run are dropped and the backlog must not grow; "
        "without --slo that is all. The fluid model says where to look, the engine what is true. "
        "Where no fluid model reads the engine, max-rate needs --bracket.",
        "With --out the answer is written into a folder, and for one knob a curve of TTFT, TPOT "
        "and E2EL over it: rate_latency.csv and rate_latency.png. Of replicas it has the fleets: "
        "replicas.csv and replicas.png.",
        "Two knobs with a comma between them and --goodput: the pair at which most requests meet "
        "the thresholds. Exit status 1 where no value meets the objectives.",
    ]
    return "\n\n".join(paragraphs)


@click.command("tune", cls=Command, help=help_text())
@click.argument("knob", shell_complete=completion.of_words(completion.knobs, listed=True))
@option(
    "--slo", "slos", multiple=True, metavar="STATISTIC_LATENCY<LIMIT",
    help='objective, such as "p99_ttft<2" or "p99_ttft_ms<2000"; repeatable, all are to be met',
)  # fmt: skip
@option(
    "--bracket", metavar="LOW:HIGH",
    help="where to look, for two knobs LOW:HIGH,LOW:HIGH; else the knob's own bracket",
)  # fmt: skip
@option(
    "--method", type=click.Choice(("auto", "stationary", "engine")),
    help="who answers for one knob: the engine; stationary, the model of one node; or auto, the "
    "model where its value is expected to be within --within, else the engine  [default: auto]",
)  # fmt: skip
@option(
    "--within", type=float,
    help="how far off the value may be for auto, relative  [default: the tolerance]",
)  # fmt: skip
@option("--tolerance", type=float, help="relative width of the answer  [default: 0.01]")
@option("--replications", type=int, help="most runs per point  [default: 16; of two knobs 5]")
@option("--confidence", type=float, help="of a verdict  [default: 0.95]")
@option("--scan", type=int, help="points of the engine's first look  [default: 4]")
@option(
    "--policy", metavar="NAME",
    help="of replicas: who deals the requests out, as in fluidserve route  [default: jsq]",
    shell_complete=completion.of_words(completion.routing_policies),
)  # fmt: skip
@option("--gpu-price", type=float, help="of replicas: price of a GPU for an hour")
@option(
    "--run-length", type=int, help="least requests of a run  [default: 20000; of two knobs 100000]"
)
@option("--max-run-length", type=int, help="most requests of a run  [default: 1000000]")
@workload_options
@instance_options
@run_options
@goodput_option
def command(knob: str, slos: tuple[str, ...], bracket: str | None, **params: Any) -> int:
    """Run ``fluidserve tune``."""
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.inputs import load_config_of
    from fluidserve.jobs.tune import tune_into, tuned
    from fluidserve.jobs.tune_servers import that_starts
    from fluidserve.tables import tuning_table

    options = {setting: params.pop(flag) for setting, flag in SETTINGS.items()}
    options |= {"bracket": bracket} | {name: params.pop(name) for name in ("method", "within")}
    params["knobs"] = knob
    out = load_config_of(that_starts(params)).output_dir
    if out is None:
        result, status = tuned(params, knob, slos, options)
    else:
        with experiment_folder(out) as (folder, final):
            result, status = tune_into(folder, final, params, knob, slos, options)
        result |= {"output_dir": str(final)}
    emit(result, tuning_table)
    return status


OF_OTHERS = ("num_requests", "horizon")
"""Options of a stream that ends: refused with a message of their own, and not in the help."""

for _param in command.params:
    if isinstance(_param, click.Option) and _param.name in OF_OTHERS:
        _param.hidden = True
