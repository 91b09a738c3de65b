"""``fluidserve calibrate steps`` fits the batch-time law to measured step times."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Command, option
from serving import FluidServeError


@click.command("steps", cls=Command)
@click.argument("file", metavar="FILE", shell_complete=completion.file)
@option("--hardware", help="rows of this hardware only; its name, where no column says it")
@option("--model", help="rows of this model only; its name, where no column says it")
@option("--tp", type=int, help="rows of this tensor-parallel degree only")
@option("--kv-capacity", "kv_capacity", type=click.IntRange(1), default=None,
        help="KV cache of the server [tokens]; else that of the profile, if any")  # fmt: skip
@option("--block-size", type=click.IntRange(1), default=None,
        help="tokens of a KV block of the server, for a log of iterations")  # fmt: skip
@option("--config", "config_file", default=None, metavar="FILE",
        help="configuration of the server: --out writes it with the law")  # fmt: skip
@option(
    "--longest-gap", type=click.IntRange(0), default=10, show_default=True, help="largest gap_steps"
)
@option(
    "--law", metavar="linear|tabulated|auto", default="auto", show_default=True,
    help="decode in the number of requests; auto: what is better on held-out levels",
)  # fmt: skip
@option("--kv/--no-kv", default=True, show_default=True, help="KV read as a term")
@option("--compare/--no-compare", default=True, show_default=True, help="also without KV")
@option(
    "--out",
    "out",
    metavar="DIR",
    section="Output",
    help="experiment folder: law, pictures, summary",
)
def steps(
    file: str,
    out: str | None,
    compare: bool,
    longest_gap: int,
    kv_capacity: int | None,
    block_size: int | None,
    config_file: str | None,
    **params: Any,
) -> None:
    """Fit the batch-time law to the step times of FILE (plain or gzip).

    FILE is the log of `vllm serve --enable-logging-iteration-details`, a result of `vllm bench
    forward --output-json`, or a CSV. Its columns: step_time_ms (or _s, _us; or latency_ms) and
    decode_tokens (or batch_size); optional prefill_tokens, kv_tokens, prefill_kv_tokens,
    gap_steps, hardware, model, tp.
    Prints the law with intervals, what is identified, the error on held-out levels, outliers.
    """
    from calibration import fit_step_times, read_step_times
    from calibration.step_times import ITERATIONS
    from fluidserve.folders import Stopwatch, emit, experiment_folder
    from fluidserve.jobs.calibrate_steps import write_fit
    from fluidserve.law_files import LACKING, Memory, memory_of_profile
    from fluidserve.tables import step_fit_table

    watch = Stopwatch()
    law, kv = params.pop("law"), params.pop("kv")

    def fitted() -> Any:
        with watch("read"):
            rows = read_step_times(
                file, longest_gap=longest_gap, kv_capacity=kv_capacity, block_size=block_size,
                **params,
            )  # fmt: skip
        if out is None and kv_capacity is not None and rows.about.get("source") != ITERATIONS:
            raise FluidServeError("--kv-capacity is for the configuration that --out writes")
        with watch("fit"):
            return rows, fit_step_times(
                rows, law=law, kv=kv, compare=compare,
                progress=lambda text: click.echo(text, err=True),
            )  # fmt: skip

    if out is None:
        if config_file is not None:
            raise FluidServeError("--config is for the configuration that --out writes")
        _, fit = fitted()
        emit(fit.to_json(), step_fit_table)
        return
    with experiment_folder(out) as (folder, final):
        rows, fit = fitted()
        memory = memory_of_profile(rows.about)
        if kv_capacity is not None:
            memory = Memory(kv_capacity, "--kv-capacity")
        write_fit(folder, final, fit, memory, watch.seconds, server=config_file)
    if memory is None:
        click.echo(f"note: {final}/config_used.yaml {LACKING}", err=True)
    emit(fit.to_json() | {"output_dir": str(final)}, step_fit_table)
