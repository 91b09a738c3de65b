"""From the parameters of a command to the instance and the workload that they name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from fluidserve.options import (
    FILE_KEYS,
    GENERATOR_KEYS,
    PROFILE_KEYS,
    FlagError,
    config_flags,
)
from serving import FluidServeError, Instance, RateProfile, RequestMix, RequestTable, check_fits

if TYPE_CHECKING:
    from calibration.profiles import Profile
    from workload import TraceReading, Workload

LARGEST_SCALE = 1_000_000
OWN_FORMAT = "own"
"""Name of the project's own request files, whose times are in the unit of the instance."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a command works on.

    Parameters
    ----------
    config
        The configuration, as :func:`fluidserve.config.load_config` returns it.
    instance
        The node, scaled.
    workload
        The generator's description; None for a file.
    file
        The requests of a file, loaded and scaled; None for the generator.
    num_requests, horizon
        How far the generator goes.
    source
        What the workload is, for people and programs.
    """

    config: Any
    instance: Instance
    workload: Workload | None
    file: RequestTable | None
    num_requests: int | None
    horizon: float | None
    source: Mapping[str, Any]

    @cached_property
    def requests(self) -> RequestTable:
        """The file, or one draw of the generator; every request fits the node."""
        if self.file is not None:
            return self.file
        assert self.workload is not None
        table = self.workload.sample(
            self.config.seed, num_requests=self.num_requests, horizon=self.horizon
        )
        check_fits(table, self.instance)
        return table

    @property
    def draws(self) -> Workload | RequestTable:
        """What replications are drawn from: the generator, or the requests of a file."""
        return self.requests if self.workload is None else self.workload

    @property
    def mix(self) -> RequestMix:
        """Exact mix of the generator, empirical mix of a file."""
        return self.requests.mix() if self.workload is None else self.workload.mix

    @property
    def end(self) -> float:
        """End of arrivals [time]: the horizon that was asked for, or the last arrival."""
        return self.requests.horizon if self.horizon is None else self.horizon

    @property
    def profile(self) -> RateProfile:
        """Expected arrivals of the generator, or a file's own cumulative curve."""
        if self.workload is None:
            return self.requests.rate_profile()
        return self.workload.profile(self.end)

    @cached_property
    def capacity(self) -> float:
        """lambda_M [requests/time]."""
        from fluid import capacity

        return capacity(self.mix, self.instance)

    @property
    def mean_rate(self) -> float:
        """Mean arrival rate [requests/time]; NaN where all arrive at once."""
        return self.profile.mean_rate if self.end > 0 else math.nan

    @property
    def load(self) -> float:
        """Mean arrival rate over capacity; infinite for a node too slow to have one."""
        return self.mean_rate / self.capacity if self.capacity > 0 else math.inf

    def warn_of_overload(self) -> None:
        """Say on stderr that more is offered than the node can do."""
        if not self.load > 1 + 1e-9:  # 1 itself, but for rounding
            return
        if self.workload is not None and "profile" not in self.source:
            said = f"load {self.load:.3g} of capacity: queues grow as long as it lasts"
        else:
            said = f"mean load {self.load:.3g} of capacity: more arrives than the node can serve"
        click.echo(f"note: {said}", err=True)

    def describe(self) -> dict[str, Any]:
        """Return the workload in numbers, for JSON."""
        mix = self.mix
        return {
            **self.source,
            "requests": len(self.requests),
            "horizon": self.end,
            "mean_arrival_rate": self.mean_rate,
            "mean_prefill_length": mix.mean_prefill,
            "mean_decode_length": mix.mean_decode,
            "capacity": self.capacity,
            "load": self.load,
        }


def load_inputs(params: Mapping[str, Any]) -> Inputs:
    """Return the instance and the workload that a command's parameters name.

    Raises
    ------
    FluidServeError
        One line on what is wrong, and where.
    """
    from fluidserve.config import instance_of

    for key in ("arrival_rate", "rate_scale"):
        if _given(params, "load") and _given(params, key):
            flag = key.replace("_", "-")
            raise FluidServeError(f"--load and --{flag} both set the rate; give one of them")
    config = load_config_of(params)
    profile = profile_of(params)
    if profile is not None:
        click.echo(f"profile: {profile.said()}", err=True)
    scale = 1 if params.get("scale") is None else params["scale"]
    if not 1 <= scale <= LARGEST_SCALE:
        raise FlagError("--scale", scale, f"a whole number > 0 and <= {LARGEST_SCALE}")
    node = instance_of(config)
    instance = node if scale == 1 else node.scaled(int(scale))
    path, is_trace = _file(params, config)
    if path is None:
        return _generated(params, config, instance, scale)
    return _from_file(params, config, instance, scale, path, is_trace)


def load_config_of(params: Mapping[str, Any]) -> Any:
    """Return the configuration that a command's parameters name: flags, file, profile, defaults."""
    from fluidserve.config import load_config

    return load_config(params.get("config_file"), config_flags(params), profile_of(params))


def profile_of(params: Mapping[str, Any]) -> Profile | None:
    """Return the profile that ``--model`` and ``--hardware`` name, if they do."""
    given = {key: params[key] for key in PROFILE_KEYS if _given(params, key)}
    if not given:
        return None
    for key in ("model", "hardware"):
        if key not in given:
            first = next(iter(given)).replace("_", "-")
            raise FluidServeError(f"--{first} is of a profile, which needs --{key} too")
    from calibration.profiles import find

    return find(given.pop("model"), given.pop("hardware"), **given)


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
        path = params.get("trace") or config.request_file
    if path is None:
        for key in FILE_KEYS:
            if _given(params, key):
                raise FluidServeError(f"--{key.replace('_', '-')} needs --requests or --trace")
    return path, "trace" in named


def _generated(params: Mapping[str, Any], config: Any, instance: Instance, scale: float) -> Inputs:
    from workload import describe

    options = {key: params[key] for key in GENERATOR_KEYS if _given(params, key)}
    scenario = options.pop("scenario", "normal")
    workload = describe(scenario, L_filter=config.L_filter, **options)
    if _given(params, "load"):
        from fluid import capacity

        load = _number(params, "load", 1.0)
        workload = workload.at_rate(load * capacity(workload.mix, instance))
    else:
        workload = workload.scaled(scale)
    horizon = params.get("horizon")
    count = params.get("num_requests")
    if horizon is not None and count is not None:
        raise FluidServeError("--horizon and --num-requests both say when to stop; give one")
    if horizon is None and count is None:
        count = 100
    named = {"types": options["types"]} if "types" in options else {"scenario": scenario}
    source = {"source": "generator", **named} | {k: str(v) for k, v in options.items()}
    return Inputs(config, instance, workload, None, count, horizon, source)


def _from_file(
    params: Mapping[str, Any],
    config: Any,
    instance: Instance,
    scale: float,
    path: str,
    is_trace: bool,
) -> Inputs:
    from workload import replicated

    cuts = {key: params.get(key) for key in FILE_KEYS}
    reading = read_file(path, instance, L_filter=config.L_filter, **cuts)
    requests = reading.requests
    if scale != 1:
        requests = replicated(requests, int(scale), config.seed)
    if _given(params, "load"):
        from fluid import capacity

        load = _number(params, "load", 1.0)
        if requests.horizon <= 0:
            raise FluidServeError(f"{path}: all requests arrive at time 0; --load needs a rate")
        rate = len(requests) / requests.horizon
        requests = requests.stretched(rate / (load * capacity(requests.mix(), instance)))
    source = {"source": "trace" if is_trace else "requests", "file": str(path)}
    source |= {"format": reading.format, "dropped": dict(reading.dropped)}
    return Inputs(config, instance, None, requests, None, None, source)


def read_file(path: str, instance: Instance, **options: Any) -> TraceReading:
    """Return a file's requests in the unit of the instance; what was dropped is said on stderr.

    Parameters
    ----------
    path
        Request file or trace.
    instance
        What the requests are for: each must fit it.
    **options
        Of :func:`workload.read_trace`.

    Raises
    ------
    FluidServeError
        If the file cannot be read, or a request can never finish.
    """
    from workload import read_trace

    reading = read_trace(path, **options)
    for reason, count in reading.dropped.items():
        if count:
            click.echo(f"{path}: dropped {count} rows: {reason}", err=True)
    reading.check_fits(instance)
    if instance.time_unit == "ms" and reading.format != OWN_FORMAT:
        reading = replace(reading, requests=reading.requests.stretched(1000.0))  # read in seconds
    return reading


def _given(params: Mapping[str, Any], key: str) -> bool:
    return params.get(key) is not None


def _number(params: Mapping[str, Any], key: str, default: float) -> float:
    value = params.get(key)
    if value is None:
        return default
    if not 0 < value < float("inf"):
        raise FlagError(f"--{key}", value, "a finite number > 0")
    return value
