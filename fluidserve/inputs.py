"""From the parameters of a command to the instance and the workload that they name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from fluidserve.options import (
    FILE_KEYS,
    GENERATOR_KEYS,
    LENGTHS_KEYS,
    FlagError,
    config_flags,
)
from fluidserve.profiled import SERVER, estimate_of, profile_of, with_server
from fluidserve.progress import tell
from serving import (
    DEFAULT_KIND,
    FluidServeError,
    Instance,
    RequestMix,
    kind_named,
    kind_of,
)

if TYPE_CHECKING:
    from studies import CapacityEstimate, Question
    from workload import TraceReading, Workload

LARGEST_SCALE = 1_000_000
NO_SERVER = (
    f"note: engine {DEFAULT_KIND.name}, whose prompts come prefilled; --engine {SERVER} is the "
    "server that computes them"
)
DEFAULT_LOAD = 0.8
"""Load of generated requests where nobody says a rate: one that any node bears."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a command works on.

    Parameters
    ----------
    config
        The configuration, as :func:`fluidserve.config.load_config` returns it.
    question
        The requests, on the instance, both scaled.
    source
        What the requests are, for people and programs.
    notes
        What was assumed about the file that the requests come from, one line each.
    rate_is_default
        Whether nobody said a rate, so that the load is :data:`DEFAULT_LOAD`.
    estimate
        Which setting holds an estimated KV capacity, and how far it may be off.
    """

    config: Any
    question: Question
    source: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    rate_is_default: bool = False
    estimate: CapacityEstimate | None = None

    @property
    def instance(self) -> Instance:
        """The instance, scaled."""
        return self.question.instance

    @property
    def is_constant(self) -> bool:
        """Whether requests are generated at a rate that the command line does not shape."""
        return not self.question.is_file and "rate_shape" not in self.source

    @property
    def rate_note(self) -> dict[str, str]:
        """The note, under its key in JSON, that nobody said a rate; nothing where one was given."""
        if not self.rate_is_default:
            return {}
        said = f"no rate was given, the load is {DEFAULT_LOAD:g} of capacity; see --load"
        return {"note": said}

    def warnings(self, *further: str, largest: Mapping[str, float] | None = None) -> list[str]:
        """Return what to know before trusting an answer, one line each.

        Parameters
        ----------
        *further
            What the method says of its own answer.
        largest
            Largest value of outputs in the answer, by name; see :func:`studies.caveats`.
        """
        from studies import caveats

        said = caveats(self.question, largest=largest)
        return list(dict.fromkeys([*self.assumed, *self._overload(), *said, *further]))

    def run_warnings(
        self, *further: str, largest: Mapping[str, float], max_concurrency: int | None = None
    ) -> list[str]:
        """Return what to know before trusting a run of the engine alone, one line each.

        Parameters
        ----------
        *further
            What the run says of itself.
        largest
            As of :meth:`warnings`.
        max_concurrency
            Most requests that were sent and not yet answered.
        """
        from studies import caveats

        said = caveats(self.question, largest=largest, is_run=True)
        overload = self._overload()
        if overload and max_concurrency is not None:
            overload = [
                f"{overload[0].partition(':')[0]}: with --max-concurrency {max_concurrency} what "
                "is beyond it waits at the clients, which no latency counts"
            ]
        return list(dict.fromkeys([*self.assumed, *overload, *said, *further]))

    @property
    def assumed(self) -> tuple[str, ...]:
        """What was assumed about the file of the requests and about the node, one line each."""
        return (*self.notes, *self._toy_defaults())

    def _overload(self) -> list[str]:
        """Say that more is offered than the node can do."""
        load = self.question.load
        if not load > 1 + 1e-9:  # 1 itself, but for rounding
            return []
        if self.is_constant:
            return [f"load {load:.3g} of capacity: queues grow as long as it lasts"]
        return [f"mean load {load:.3g} of capacity: more arrives than the node can serve"]

    def _toy_defaults(self) -> list[str]:
        """Say that flags in real time leave law, memory or budget to the defaults of a toy."""
        from fluidserve.config import REAL_UNITS, toy_defaults

        missing = toy_defaults(self.config) if self.config.time_unit in REAL_UNITS else {}
        if not missing:
            return []
        shown = ", ".join(f"{key} = {value}" for key, value in missing.items())
        return [
            f"times are in {self.config.time_unit}, but {shown} are the defaults of a toy node and "
            "not those of a server"
        ]

    def describe(self) -> dict[str, Any]:
        """Return the workload in numbers, for JSON."""
        question = self.question
        return {
            **self.source,
            "requests": question.size,
            "horizon": None if question.waits else question.end,
            "mean_arrival_rate": question.mean_rate,
            **mean_lengths(question.mix),
            "capacity": question.capacity,
            "capacity_error": question.capacity_error.to_json(),
            "load": question.load,
            **self.rate_note,
        }


def mean_lengths(mix: RequestMix) -> dict[str, float]:
    """Return the mean lengths [tokens] of a mix for JSON: 38, not 37.999999999999986.

    Twelve digits are left: the mean of many lengths is not known better.
    """
    return {
        "mean_prefill_length": float(f"{mix.mean_prefill:.12g}"),
        "mean_decode_length": float(f"{mix.mean_decode:.12g}"),
    }


def load_inputs(params: Mapping[str, Any], *, told: Callable[[str], None] = tell) -> Inputs:
    """Return the instance and the workload that a command's parameters name.

    Parameters
    ----------
    params
        Of the command.
    told
        Called with a line on the profile, and on the engine where it is none of a server.

    Raises
    ------
    FluidServeError
        One line on what is wrong, and where.
    """
    from fluidserve.config import instance_of

    params = with_server(params)
    for key in ("arrival_rate", "rate_scale", "sessions"):
        if _given(params, "load") and _given(params, key):
            flag = key.replace("_", "-")
            raise FluidServeError(f"--load and --{flag} both set the rate; give one of them")
    config = load_config_of(params)
    profile = profile_of(params)
    if profile is not None:
        told(f"profile: {profile.of_kind(kind_named(config.engine), config.model_dump()).said()}")
        if config.engine == DEFAULT_KIND.name and "engine" not in config.model_fields_set:
            told(NO_SERVER)
    scale = 1 if params.get("scale") is None else params["scale"]
    if not 1 <= scale <= LARGEST_SCALE:
        raise FlagError("--scale", scale, f"a whole number > 0 and <= {LARGEST_SCALE}")
    path, is_trace = _file(params, config)
    instance = instance_of(config)
    largest = instance if scale == 1 else instance.scaled(int(scale))
    if path is None:
        inputs = _generated(params, config, instance, largest)
    else:
        inputs = _from_file(params, config, instance, path, is_trace, largest)
    question = inputs.question if scale == 1 else inputs.question.scaled(int(scale))
    rated = any(_given(params, key) for key in ("load", "arrival_rate", "types", "sessions"))
    if path is None and not rated and _has_capacity(question):
        default = question.at_load(DEFAULT_LOAD)
        return replace(inputs, question=default, rate_is_default=True)
    if profile is not None:
        inputs = replace(inputs, estimate=estimate_of(profile, config))
    if path is None and not rated:
        inputs = replace(inputs, notes=(*inputs.notes, _scenario_rate(question)))
    if _given(params, "load"):
        load = _number(params, "load", 1.0)
        try:
            question = question.at_load(load)
        except FluidServeError as error:
            where = "" if path is None else f"{path}: "
            why = f"{error}{_no_load(question)}"
            raise FluidServeError(f"{where}--load {load:g}: {why}") from error
    return replace(inputs, question=question)


def _scenario_rate(question: Question) -> str:
    """Say the rate of requests that are generated though nobody said one."""
    unit = question.instance.time_unit
    per = "" if unit == "none" else f"/{unit}"
    return (
        f"no rate was given, and no load is known for the engine {question.instance.engine}: "
        f"{question.mean_rate:.3g} requests{per}; see --arrival-rate"
    )


def _no_load(question: Question) -> str:
    """Say what to do without a load where no fluid model knows the capacity."""
    if not math.isnan(question.capacity):
        return ""
    flag = "--rate-scale" if question.is_file else "--arrival-rate"
    return f"; its capacity is not known; {flag} sets the rate without it"


def _has_capacity(question: Question) -> bool:
    """Return whether a load has a meaning: not for an engine or a law that has no capacity."""
    try:
        return 0 < question.capacity < float("inf")
    except FluidServeError:
        return False


def load_config_of(params: Mapping[str, Any]) -> Any:
    """Return the configuration that a command's parameters name: flags, file, profile, defaults."""
    from fluidserve.config import load_config

    params = with_server(params)
    return load_config(params.get("config_file"), config_flags(params), profile_of(params))


def _file(params: Mapping[str, Any], config: Any) -> tuple[str | None, bool]:
    """Return the file that holds the workload, if a file does, and whether it is a trace."""
    generator = [key for key in (*GENERATOR_KEYS, "num_requests", "horizon") if _given(params, key)]
    named = [key for key in ("request_file", "trace") if _given(params, key)]
    if len(named) == 2:
        raise FluidServeError("--requests and --trace are two workloads; give one of them")
    if named and generator:
        flag = generator[0].replace("_", "-")
        raise FluidServeError(f"--{flag} generates requests, but a file of requests is given too")
    if generator:
        path = None
    else:
        path = params["trace"] if _given(params, "trace") else config.request_file
    if path is None:
        for key in FILE_KEYS:
            if _given(params, key) and not (key in LENGTHS_KEYS and _given(params, "lengths")):
                raise FluidServeError(f"--{key.replace('_', '-')} needs --requests or --trace")
    return path, "trace" in named


def _generated(
    params: Mapping[str, Any], config: Any, instance: Instance, largest: Instance
) -> Inputs:
    from studies import Question
    from workload import describe, read_lengths

    keys = (*GENERATOR_KEYS, "closed_loop")
    options = {key: params[key] for key in keys if _given(params, key)}
    for key in ("types", "lengths"):
        if "scenario" in options and key in options:
            raise FluidServeError(
                f"--scenario and --{key} both name lengths; give one of them, and the bursts of a "
                "scenario by --rate-shape"
            )
    scenario = options.pop("scenario", "normal")
    source = {key: str(value) for key, value in options.items()}
    if _given(params, "columns"):
        options["lengths"] = read_lengths(options["lengths"], columns=params["columns"])
    workload = describe(scenario, L_filter=config.L_filter, **options)
    if params.get("drop_oversized"):
        if workload.conversations is not None:
            raise FluidServeError(
                "--drop-oversized: requests of conversations repeat each other, so that none can "
                "be left out"
            )
        workload = _fitting(workload, largest, source["lengths"])
    horizon = params.get("horizon")
    count = params.get("num_requests")
    if horizon is not None and count is not None:
        raise FluidServeError("--horizon and --num-requests both say when to stop; give one")
    if horizon is None and count is None:
        count = 100
    named = {} if {"types", "lengths"} & options.keys() else {"scenario": scenario}
    source = {"source": "generator", **named, **source}
    return Inputs(config, Question(workload, instance, count, horizon, config.seed), source)


def _fitting(workload: Workload, instance: Instance, path: str) -> Workload:
    """Return a workload without the lengths of a file that can never finish on an instance."""
    most = kind_of(instance).largest_request(instance)
    try:
        short = workload.fitting(most.value)
    except FluidServeError as error:
        raise FluidServeError(f"{path}: {error}; allowed: <= {most.words}") from error
    if short is not workload:
        share = 100 * (1 - short.rate / workload.rate)
        said = f"dropped {share:.2g} % of the requests: longer than the node can hold"
        click.echo(f"{path}: {said} ({most.words})", err=True)
    return short


def _from_file(
    params: Mapping[str, Any],
    config: Any,
    instance: Instance,
    path: str,
    is_trace: bool,
    largest: Instance,
) -> Inputs:
    from studies import Question

    cuts = {key: params.get(key) for key in (*FILE_KEYS, "closed_loop")}
    if cuts["start"] is None and path == config.request_file:
        cuts["start"] = config.request_start
    reading = read_file(path, largest, L_filter=config.L_filter, **cuts)
    source = {"source": "trace" if is_trace else "requests", **told_of(reading)}
    question = Question(reading.requests, instance, seed=config.seed)
    return Inputs(config, question, source, reading.notes)


def read_file(
    path: str, instance: Instance, *, drop_oversized: bool | None = None, **options: Any
) -> TraceReading:
    """Return a file's requests in the unit of the instance; what was dropped is said on stderr.

    Parameters
    ----------
    path
        Request file or trace.
    instance
        What the requests are for: each must fit it.
    drop_oversized
        Leave out, and count, requests that can never finish instead of refusing the file.
    **options
        Of :func:`workload.read_trace`.

    Raises
    ------
    FluidServeError
        If the file cannot be read, or a request can never finish.
    """
    reading = read_with_progress(path, **options)
    if drop_oversized:
        reading = reading.fitting(instance)
    say_what_was_dropped(reading)
    reading.check_fits(instance)
    if instance.time_unit == "ms" and reading.unit == "s":
        reading = replace(reading, requests=reading.requests.in_unit(1000.0))
    return reading


def read_with_progress(path: str, **options: Any) -> TraceReading:
    """Return what :func:`workload.read_trace` reads; what takes long says how far it is."""
    from fluidserve.progress import ProgressLine
    from workload import read_trace

    line = ProgressLine(every=1.0)
    reading = read_trace(path, progress=line.say, **options)
    line.say(f"read {path}: {len(reading.requests):,} requests", final=True)
    return reading


def say_what_was_dropped(reading: TraceReading) -> None:
    """Say on stderr how many rows of a file were left out, and why."""
    for reason, count in reading.dropped.items():
        if count:
            click.echo(f"{reading.path}: dropped {count} rows: {reason}", err=True)


def told_of(reading: TraceReading) -> dict[str, Any]:
    """Return what was read for JSON."""
    return {"file": str(reading.path), "format": reading.format, "dropped": dict(reading.dropped)}


def _given(params: Mapping[str, Any], key: str) -> bool:
    return params.get(key) is not None


def _number(params: Mapping[str, Any], key: str, default: float) -> float:
    value = params.get(key)
    if value is None:
        return default
    if not 0 < value < float("inf"):
        raise FlagError(f"--{key}", value, "a finite number > 0")
    return value
