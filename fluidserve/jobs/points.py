"""One point of a sweep: from its keys to what a command would have been given, and to a row."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from fluidserve.folders import plain
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.methods import parse_method, parse_methods
from fluidserve.options import goodput_option, instance_options, workload_options
from fluidserve.results import parse_goodput
from serving import FluidServeError

FILES = ("config_file", "request_file", "trace", "lengths")
"""Keys that name a file, sought from the folder of the grid."""


def _simulated(inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Any]:
    import discrete

    thresholds = parse_goodput(params["goodput"], inputs.instance.time_unit)
    run = discrete.simulate(inputs.requests, inputs.instance, seed=inputs.config.seed)
    return {"batches": run.num_batches, **_metrics(run, thresholds, inputs)}


def _solved(inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Any]:
    from ode import InitialState, solve

    thresholds = parse_goodput(params["goodput"], inputs.instance.time_unit)
    flow = solve(
        inputs.profile, inputs.mix, inputs.instance, method=parse_method(params["method"]),
        initial=InitialState(waiting=params["initial_waiting"]), approximate=params["approximate"],
    )  # fmt: skip
    return _metrics(flow, thresholds, inputs)


def _metrics(result: Any, thresholds: Mapping[str, float] | None, inputs: Inputs) -> dict[str, Any]:
    return result.metrics(thresholds).to_json(inputs.instance.time_unit)


def _compared(inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores and headline metrics of the engine's replications and of each method."""
    import studies

    unit = inputs.instance.time_unit
    done = studies.compare(
        inputs.draws, inputs.instance, methods=parse_methods(params["methods"]),
        replications=params["replications"], num_requests=inputs.num_requests,
        horizon=inputs.horizon, seed=inputs.config.seed, workers=1,
        goodput=parse_goodput(params["goodput"], unit), approximate=params["approximate"],
    )  # fmt: skip
    row: dict[str, Any] = {"replications": done.discrete.replications}
    row["noise_floor"] = done.noise_floor["in_system"]
    assert done.discrete.metrics is not None
    row |= {f"discrete_{k}": v for k, v in done.discrete.metrics.to_json(unit).items()}
    for method, each in done.methods.items():
        row |= {f"{method}_nrmse_{output}": value for output, value in each.nrmse.items()}
        if each.metrics is not None:
            row |= {f"{method}_{k}": v for k, v in each.metrics.to_json(unit).items()}
    return row


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(*names, **attributes)


_SOLVE = (
    _option("--method", default="lagrangian"),
    _option("--initial-waiting", type=float, default=0.0),
    _option("--approximate", type=bool, default=False),
)
_COMPARE = (
    _option("--methods", default="lagrangian"),
    _option("--replications", type=click.IntRange(1), default=8),
    _option("--approximate", type=bool, default=False),
)
KINDS: dict[str, tuple[Callable[[Inputs, Mapping[str, Any]], dict[str, Any]], tuple[Any, ...]]] = {
    "simulate": (_simulated, ()),
    "solve": (_solved, _SOLVE),
    "compare": (_compared, _COMPARE),
}
"""What a sweep can do at a point, and the options that it takes besides workload and instance."""


@functools.cache
def _parser(kind: str) -> click.Command:
    """Return a command that parses the keys of a point as the command line would."""

    def nothing(**_: Any) -> None: ...

    for add in (*KINDS[kind][1], goodput_option, instance_options, workload_options):
        nothing = add(nothing)
    return click.command(kind)(nothing)


def names_of(kind: str) -> dict[str, click.Parameter]:
    """Return every key of a point by the names that it may be given."""
    names = {}
    for option in _parser(kind).params:
        if option.name is not None and option.name != "help":
            flags = [flag.removeprefix("--").replace("-", "_") for flag in option.opts]
            names |= dict.fromkeys([option.name, *flags], option)
    return names


def check_key(kind: str, key: str) -> None:
    """Refuse a key that no point of this kind has.

    Raises
    ------
    FluidServeError
        Naming it, and the nearest that there is.
    """
    known = names_of(kind)
    if key.replace("-", "_") not in known:
        close = difflib.get_close_matches(key.replace("-", "_"), known, 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
        raise FluidServeError(f"a sweep of kind {kind} has no key {key!r}; {hint}")


def parameters(kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a command that was given ``keys``.

    Raises
    ------
    FluidServeError
        Naming the key and what is wrong with its value.
    """
    names, arguments = names_of(kind), []
    for key, value in keys.items():
        flag = names[key.replace("-", "_")].opts[0]
        for each in value if isinstance(value, list) else [value]:
            arguments.append(f"{flag}={'none' if each is None else each}")
    try:
        return dict(_parser(kind).make_context("sweep", arguments).params)
    except click.ClickException as wrong:
        raise FluidServeError(wrong.format_message()) from None


def files_of(kind: str, keys: Mapping[str, Any]) -> list[str]:
    """Return the keys whose value is the path of a file."""
    names = names_of(kind)
    return [
        key for key, value in keys.items()
        if isinstance(value, str) and names[key.replace("-", "_")].name in FILES
    ]  # fmt: skip


def row_of(shared: tuple[str, str, Mapping[str, Any]], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of one point; what is wrong with it is a column, not the end of the sweep.

    Parameters
    ----------
    shared
        Kind, folder of the grid, and the keys that all points share.
    keys
        Those of this point.
    """
    kind, folder, base = shared
    merged = {**base, **keys}
    for key in files_of(kind, merged):
        merged[key] = str(Path(folder) / merged[key])
    row: dict[str, Any] = {"error": None}
    try:
        params = parameters(kind, merged)
        inputs = load_inputs(params)
        row |= {
            "requests": len(inputs.requests),
            "mean_arrival_rate": inputs.mean_rate,
            "capacity": inputs.capacity,
            "realised_load": inputs.load,
        }
        row |= KINDS[kind][0](inputs, params)
    except FluidServeError as error:
        row["error"] = " ".join(str(error).split())
    return plain(row)
