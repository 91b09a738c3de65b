"""``fluidserve serve`` answers schedulers over HTTP."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.fleets import fleet_options
from fluidserve.front import Command, option
from fluidserve.options import instance_options, length_options


@click.command("serve", cls=Command, result=False)
@length_options
@instance_options
@fleet_options
@option("--level", type=click.Choice(["reuse", "lightweight"]), default="reuse", show_default=True,
        help="reuse: forecasts are shared until they no longer fit what is reported; lightweight: "
        "each report makes a new one")  # fmt: skip
@option("--arrival-rate", type=float,
        help="requests per time that reach each instance  [default: measured]")  # fmt: skip
@option("--signal-delay", type=float, default=0.0, show_default=True,
        help="time until a report arrives")  # fmt: skip
@option("--reports", type=click.Choice(["every-batch", "seldom"]), default="every-batch",
        show_default=True, help="how often instances report; seldom, which may be never: meanwhile "
        "batches are believed to end as forecast")  # fmt: skip
@option("--corrector", is_flag=True,
        help="learn factors from what came true, each used while it makes held-out predictions "
        "better")  # fmt: skip
@option("--stale-after", type=float,
        help="an instance with work that is silent so long is stale  [default: never]")  # fmt: skip
@option("--host", default="127.0.0.1", show_default=True,
        help="address to listen at; one that others reach needs a token")  # fmt: skip
@option("--port", type=int, default=8371, show_default=True, help="port; 0 takes a free one")
@option("--token-file", metavar="FILE",
        help="file with the bearer token of every call  [default: FLUIDSERVE_TOKEN, or none]",
        )  # fmt: skip
@option("--allow-no-token", is_flag=True, help="listen to other machines without a token")
@option("--max-in-flight", type=int, default=256, show_default=True,
        help="calls at a time; more are told to come again (429)")  # fmt: skip
@option("--patience", type=float, metavar="SECONDS",
        help="within which the head, and then the body, of a call must come  [default: 10]",
        )  # fmt: skip
@option("--state", metavar="FILE",
        help="keep the state in this file, and go on from it")  # fmt: skip
@option("--snapshot-every", type=float, metavar="SECONDS",
        help="between two writes of --state  [default: 5]")  # fmt: skip
def command(**params: Any) -> None:
    """Serve predictions for a fleet over HTTP, until Ctrl-C or SIGTERM.

    The fleet is described as for fluidserve route; the workload says which lengths requests have.
    Prints the address once it listens. Endpoints: /v1/enqueue_request, /v1/predict,
    /v1/sync_batch_result, those of llm-d's latency predictor, /healthz, /metrics, /docs.
    Needs the extra: pip install "fluidserve[serve]".
    """
    from fluidserve.jobs.serve import asked, serve

    serve(asked(params))
