"""From a measured run, and what the command line adds, to the server that is simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.config import instance_of, load_config
from fluidserve.options import config_flags
from fluidserve.profiled import profile_of
from fluidserve.progress import tell
from fluidserve.settings import settings_of
from fluidserve.yaml_keys import read_keys
from serving import KINDS, BatchTimeLaw, ConfigError, FluidServeError, Instance, kind_named

if TYPE_CHECKING:
    from calibration.measured_runs import MeasuredRun
    from calibration.profiles import Profile

FIRST_V1 = (0, 8)
"""First version of vLLM that runs the V1 engine by default."""

SECONDS = {"s": 1.0, "ms": 1e-3}


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredServer:
    """The server of a run.

    Parameters
    ----------
    instance
        In seconds.
    config
        As :func:`fluidserve.config.load_config` returns it.
    law_from
        Where the law comes from, in words.
    replicas
        Engines among which requests are dealt.
    assumptions
        What the run does not say of the server, one line each.
    profile
        Of the model on the card, where one is known and no file gives the law.
    """

    instance: Instance
    config: Any
    law_from: str
    replicas: int
    assumptions: tuple[str, ...]
    profile: Profile | None = None


def server_of_run(
    run: MeasuredRun, params: Mapping[str, Any], start: BatchTimeLaw | None = None
) -> MeasuredServer:
    """Return the server of a run: what options say, then the run, then the profile.

    Parameters
    ----------
    run
        The measured run.
    params
        Of the command.
    start
        A law to begin with where neither options nor a profile give one, in seconds.

    Raises
    ------
    FluidServeError
        If nothing says a law, a KV capacity or another setting that is needed.
    """
    flags = config_flags(params)
    for key in ("seed", "verbose", "output_dir"):
        flags.pop(key, None)
    assumed: list[str] = []
    engine = flags.get("engine") or _engine(run)
    kind = kind_named(engine)
    if not kind.is_in_real_time:
        raise ConfigError("engine", engine, " | ".join(k for k, v in KINDS.items()
                                                       if v.is_in_real_time))  # fmt: skip
    own = settings_of(kind)
    told = {key: value for key, value in run.server.settings.items() if key in own}
    if "vllm_version" in own and "vllm_version" not in flags:
        version, said = _version(run.server.vllm_version, own["vllm_version"].rules["choices"])
        told["vllm_version"] = version
        assumed += said
    if "async_scheduling" in own and _is_synchronous(run):
        told.setdefault("async_scheduling", False)
    keys, law_from = dict(told), "the options"
    unit = "s"
    if params.get("law_file") is not None:
        law, unit = _law_keys(params["law_file"], kind)
        keys |= law
        law_from = f"the file {Path(params['law_file']).name}"
    profile = _profile(run, params)
    if profile is not None and params.get("law_file") is None:
        law_from = f"the {profile.origin} profile of {profile.model} on {profile.tp} x "
        law_from += f"{profile.hardware} ({profile.basis})"
        tell(f"profile: {profile.said()}")
    elif profile is None and start is not None and params.get("law_file") is None:
        keys |= kind.law_values(start)
        law_from = "the run"
    flags = keys | flags | {"engine": engine}
    if unit != "s" and flags.setdefault("time_unit", unit) != unit:
        raise ConfigError("time_unit", flags["time_unit"], f"{unit}, as in {params['law_file']}")
    config: Any = load_config(params.get("config_file"), flags, profile)
    node: Any = instance_of(config)
    if config.time_unit not in SECONDS:
        raise ConfigError("time_unit", config.time_unit, " | ".join(SECONDS))
    law = node.batch_time.in_unit(SECONDS[config.time_unit])
    instance = replace(node, batch_time=law, time_unit="s")
    if "num_gpu_blocks" not in {**told, **config_flags(params)} and profile is not None:
        assumed.append(
            f"the run does not say its KV capacity: {instance.num_gpu_blocks} blocks, "
            f"{profile.of_kind(kind, config.model_dump()).kv_capacity_origin} by the profile"
        )
    replicas = params.get("replicas") or run.server.replicas
    if replicas > 1:
        assumed.append(f"requests are dealt in turn among {replicas} engines that do not wait for "
                       "each other")  # fmt: skip
    own_law = params.get("law_file") is None and not _says_law(flags, kind)
    return MeasuredServer(
        instance, config, law_from, replicas, tuple(assumed), profile if own_law else None
    )


def _says_law(given: Mapping[str, Any], kind: Any) -> bool:
    """Return whether some keys say terms of a law."""
    return any(key in kind.law_keys for key in given)


def _engine(run: MeasuredRun) -> str:
    version = _numbers(run.server.vllm_version)
    return "vllm_v0" if version is not None and version < FIRST_V1 else "vllm_v1"


def _numbers(version: str | None) -> tuple[int, ...] | None:
    from calibration.profiles.server import version_numbers

    return None if version is None else version_numbers(version)[:3]


def _version(said: str | None, known: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the known version nearest to that of the run: the oldest that is not older."""
    number = _numbers(said)
    in_order = sorted(known, key=lambda each: _numbers(each) or ())
    if number is None:
        return in_order[0], [f"the run does not say its version of vLLM: {in_order[0]} decides"]
    newer = [each for each in in_order if (_numbers(each) or ()) >= number[:2]]
    found = (newer or in_order[-1:])[0]
    exact = (_numbers(found) or ())[:2] == number[:2]
    return found, [] if exact else [f"vLLM {said} is taken to decide as {found} does"]


FIRST_ASYNC = (0, 14)
"""First version of vLLM that decides a batch while the one before runs, by default."""


def _is_synchronous(run: MeasuredRun) -> bool:
    version = _numbers(run.server.vllm_version)
    cpu = "cpu" in (run.server.vllm_version or "")
    return cpu or (version is not None and version < FIRST_ASYNC)


def _profile(run: MeasuredRun, params: Mapping[str, Any]) -> Profile | None:
    """Return the profile that options or the run name; None where it is not known."""
    given = dict(params)
    named = any(params.get(key) is not None for key in ("model", "hardware"))
    if not named and run.server.model and run.server.hardware:
        given |= {"model": run.server.model, "hardware": run.server.hardware}
        if given.get("tp") is None:
            given["tp"] = run.server.tp
        try:
            return profile_of(given)
        except FluidServeError as error:
            if isinstance(error, ConfigError) and error.key != "tp":
                raise
            tell(f"note: no profile for this run: {error}")
            return None
    return profile_of(given)


def _law_keys(path: str, kind: Any) -> tuple[dict[str, Any], str]:
    """Return the keys of the law in a file, and its unit of time."""
    keys = read_keys(Path(path))
    unit = keys.get("time_unit", "none")
    if unit not in SECONDS:
        raise FluidServeError(
            f"{path}: time_unit {unit}; a law of a server has {' | '.join(SECONDS)}"
        )
    if "d_1" in keys:
        keys |= {"d_decode": keys["d_1"], "d_kv": keys["d_1"]}
    law = {key: keys[key] for key in (*kind.law_keys, *kind.carried_keys) if key in keys}
    if not law:
        raise FluidServeError(f"{path}: holds no law; keys of one are {', '.join(kind.law_keys)}")
    return law, unit
