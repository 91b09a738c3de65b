"""``fluidserve prefix-cache`` says what a prefix cache finds, by the size of the KV memory."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.front import Command, option
from fluidserve.options import instance_options, workload_options


@click.command("prefix-cache", cls=Command)
@workload_options
@instance_options
@option("--blocks", metavar="N,N,...",
        help="KV blocks at which to predict a server  [default: eight sizes]")  # fmt: skip
@option("--picture", metavar="FILE", help="draw the hit share over the memory as a PNG",
        section="Output")  # fmt: skip
def command(blocks: str | None, picture: str | None, **params: Any) -> None:
    """Predict what a prefix cache finds, for memories of every size at once.

    Takes requests that say what they consist of: the hash_ids of a trace, the column content of a
    request file, --turns or --system-prompts of the generator. Without a server it looks at the
    order of the requests alone; of a server (--model on --hardware, or law, blocks and budget) it
    knows how long requests stay, how much they hold, and how far the server is from its capacity.
    """
    from fluidserve.folders import emit
    from fluidserve.jobs.prefix_cache import predict
    from fluidserve.tables.prefix_cache import prefix_cache_table
    from serving.files import check_writable

    if picture is not None:
        check_writable(picture)
    emit(predict(params, blocks, picture), prefix_cache_table)
