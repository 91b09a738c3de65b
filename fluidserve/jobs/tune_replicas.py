"""``fluidserve tune replicas``: the least number of instances, GPU-hours, what tokens cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fluidserve.flags import FlagError
from fluidserve.folders import Stopwatch
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.jobs.kept import content_of, identity_of, identity_of_requests, journal_at
from fluidserve.jobs.tune_flags import (
    FLAGS,
    REPLICAS,
    context_of,
    flags_named,
    parse_brackets,
    said_why,
)
from fluidserve.jobs.tune_folder import write_tuning
from fluidserve.pictures import FLEETS, draw
from fluidserve.profiled import profile_of
from fluidserve.progress import ProgressLine
from fluidserve.results import write_rows
from serving import FluidServeError

if TYPE_CHECKING:
    from scheduling.replicas import Replicas
    from scheduling.sizing import Sizing

RUNS = 10_000
"""Runs of one number of instances that a journal can tell apart."""

OF_STREAMS = ("replications", "least_requests", "most_requests")
"""Settings that only runs of a stream have."""

NOT_OF_FLEETS = ("tolerance", "scan", "within")
"""Settings of other knobs."""


def is_replicas(knob: str) -> bool:
    """Return whether a command asks for the number of instances.

    Raises
    ------
    FluidServeError
        If it asks for another knob besides.
    """
    names = [name.strip().replace("_", "-").lower() for name in knob.split(",")]
    if REPLICAS in names and len(names) > 1:
        raise FluidServeError(f"KNOB: {REPLICAS} is looked for alone, without a second knob")
    return REPLICAS in names


def refuse_of_fleets(params: Mapping[str, Any]) -> None:
    """Refuse options of a fleet beside another knob."""
    for key in ("policy", "gpu_price"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--{flag} is for the knob {REPLICAS}")


def replicas_tuned(
    params: Mapping[str, Any],
    slos: tuple[str, ...],
    options: Mapping[str, Any],
    place: tuple[Path, Path] | None = None,
) -> tuple[dict[str, Any], int]:
    """Return what ``fluidserve tune replicas`` prints, and its exit status.

    Parameters
    ----------
    params
        Parameters of the command that name requests, instance, policy and price.
    slos
        Objectives as given.
    options
        As of :func:`fluidserve.jobs.tune.tuned`.
    place
        Folder to write into, and what it will be called; a journal of its runs lies beside it until
        all is done.
    """
    from scheduling.replicas import LARGEST, least_replicas
    from scheduling.sizing import measured

    given = {name: value for name, value in options.items() if value is not None}
    price = _price(params)
    (bracket,) = parse_brackets(given.pop("bracket", None), 1)
    _refuse_others(params, given)
    inputs = load_inputs(params)
    if price is not None and inputs.instance.time_unit == "none":
        raise FluidServeError("--gpu-price is per hour, which needs times in s or ms: --time-unit")
    with flags_named():
        sizing = _sizing(params, inputs, slos, given)
        line, watch = ProgressLine(), Stopwatch()
        told = line.say if inputs.config.verbose else None
        journal_file = None
        if place is not None:
            journal_file = place[1].with_name(place[1].name + ".journal")
        with (
            watch("tune"),
            journal_at(
                journal_file, _identity(sizing, inputs), (LARGEST + 1) * RUNS, total=0
            ) as journal,
        ):  # fmt: skip

            def measure(replicas: int, run: int) -> Mapping[str, Any]:
                number = replicas * RUNS + run
                if number not in journal.rows:
                    journal.add([(number, measured(sizing, replicas, run))])
                return journal.rows[number]

            found = least_replicas(sizing, bracket=cast(Any, bracket), measure=measure, told=told)
    result = {**found.to_json(), **_context(inputs)}
    result |= _costs(found, params, inputs, price)
    result["warnings"] = [*inputs.assumed, *result["warnings"], *result.pop("doubts")]
    if place is not None:
        write_rows(place[0] / FLEETS, _columns(result["sizes"]))
        write_tuning(*place, inputs, {"kind": "tuning", **result}, None, watch.seconds)
        draw(place[0])
    return result, said_why(found.value is not None, found.reason)


def _price(params: Mapping[str, Any]) -> float | None:
    price = params["gpu_price"]
    if price is not None and not 0 < price < math.inf:
        raise FlagError("--gpu-price", price, "a finite number > 0")
    return price


def _refuse_others(params: Mapping[str, Any], given: dict[str, Any]) -> None:
    """Refuse what does not go with a fleet; ``given`` loses the method, which is the engine."""
    if params["goodput"]:
        raise FluidServeError(f"--goodput goes with two knobs; {REPLICAS} takes --slo")
    if given.pop("method", None) == "stationary":
        raise FluidServeError(
            f"--method stationary is of one instance; {REPLICAS} are run by the engine"
        )
    for key in NOT_OF_FLEETS:
        if key in given:
            raise FluidServeError(f"{FLAGS[key]} is for other knobs: {REPLICAS} are whole numbers")
    for key in ("num_requests", "horizon"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--{flag}: tune sets the length of its runs; see --run-length")
    if params.get("scale") not in (None, 1):
        raise FluidServeError(f"--scale makes one instance larger; {REPLICAS} counts instances")


def _sizing(
    params: Mapping[str, Any], inputs: Inputs, slos: tuple[str, ...], given: Mapping[str, Any]
) -> Sizing:
    """Return what is asked, checked."""
    from scheduling.sizing import Sizing
    from studies.tuning import parse_slo

    question = inputs.question
    if question.is_file:
        for key in OF_STREAMS:
            if key in given:
                raise FluidServeError(
                    f"{FLAGS[key]} is for generated requests; a file is run as it is, once"
                )
    elif all(params.get(key) is None for key in ("arrival_rate", "load", "types")):
        raise FluidServeError(
            f"{REPLICAS} needs requests and how fast they come: give --trace, --requests or "
            "--arrival-rate"
        )
    if question.waits:
        raise FluidServeError("requests that wait for answers cannot be routed; leave out their "
                              "sessions")  # fmt: skip
    parsed = tuple(parse_slo(text, question.instance.time_unit) for text in slos)
    if any(slo.latency == "itl" for slo in parsed):
        raise FluidServeError("--slo: a fleet has no ITL; name ttft, tpot, e2el or queue_delay")
    own = {"least_requests": "run_length", "most_requests": "max_run_length"}
    fields = {own.get(key, key): value for key, value in given.items()}
    if params["policy"] is not None:
        fields["policy"] = params["policy"]
    return Sizing(question, parsed, **fields)


def _identity(sizing: Sizing, inputs: Inputs) -> str:
    """Return a digest of everything that the rows depend on."""
    question = sizing.question
    return identity_of(
        identity_of_requests(question), dict(inputs.source), question.mean_rate,
        [question.instance.engine, asdict(cast(Any, question.instance))],
        [str(slo) for slo in sizing.slos], sizing.policy, content_of(sizing.policy),
        sizing.run_length, sizing.max_run_length,
    )  # fmt: skip


def _context(inputs: Inputs) -> dict[str, Any]:
    """Return what the fleet serves, and an instance of it."""
    question = inputs.question
    rate = question.mean_rate if question.is_file else question.stream.mean_rate
    size = {"requests": question.size, "horizon": question.end} if question.is_file else {}
    return context_of(question, {**inputs.source, **size, "mean_arrival_rate": rate})


def _costs(
    found: Replicas, params: Mapping[str, Any], inputs: Inputs, price: float | None
) -> dict[str, Any]:
    """Return the fleets with their GPU time, its bound, what tokens cost, and what was assumed."""
    from scheduling.gpu_time import gpu_time, spent

    profile = profile_of(params)
    stages = getattr(inputs.config, "pipeline_parallel_size", None) or 1
    gpus = stages * (1 if profile is None else profile.tp)
    sizes = [size.to_json() | spent(size, gpus) for size in found.sizes]
    if found.answer is None:
        return {"sizes": sizes, "gpu": None, "price": None, "doubts": []}
    used = gpu_time(found.answer, gpus)
    doubts = []
    if profile is None and price is not None:
        doubts = ["an instance is taken for one GPU: no --model and --hardware say how many it has"]
    return {
        "sizes": sizes,
        "gpu": used.to_json(),
        "price": None if price is None else used.price(price),
        "doubts": doubts,
    }


def _columns(sizes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the fleets that were run as columns.

    Standard errors end in ``_se``, both ends of intervals in ``_low`` and ``_high``.
    """
    rows = []
    for size in sizes:
        told = dict(size)
        values, errors = told.pop("measured"), told.pop("standard_error")
        ends = {name: pair or (None, None) for name, pair in told.pop("interval").items()}
        told |= values | {f"{name}_se": error for name, error in errors.items()}
        for k, end in enumerate(("low", "high")):
            told |= {f"{name}_{end}": pair[k] for name, pair in ends.items()}
        rows.append(told)
    return {name: ["" if row[name] is None else row[name] for row in rows] for name in rows[0]}
