"""What a model on a card means for a command: its profile, its engine, and how sure its KV is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.options import PROFILE_KEYS, config_flags
from fluidserve.settings import D_1, settings_of
from serving import DEFAULT_KIND, KINDS, FluidServeError, kind_named

if TYPE_CHECKING:
    from calibration.profiles import Profile
    from studies import CapacityEstimate

SERVER = "vllm_v1"
"""Engine that commands take for a model on a card where nobody names one."""

KNOW_SERVERS = ("auto", "lagrangian", "node_work")
"""Methods that answer for a server; whoever names another means a decode node."""


def profile_of(params: Mapping[str, Any]) -> Profile | None:
    """Return the profile that ``--model`` and ``--hardware`` name, if they do."""
    given = {key: params[key] for key in PROFILE_KEYS if params.get(key) is not None}
    if not given:
        return None
    for key in ("model", "hardware"):
        if key not in given:
            first = next(iter(given)).replace("_", "-")
            raise FluidServeError(f"--{first} is of a profile, which needs --{key} too")
    from calibration.profiles import find

    return find(given.pop("model"), given.pop("hardware"), **given)


def with_server(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a command, or of a sweep's point, with the engine that they mean.

    A model on a card means the server that people start there, :data:`SERVER`, where neither flags
    nor file name an engine, and neither a setting nor a method is one that only a decode node has.
    The two doors of :mod:`fluidserve.inputs` ask this, so that no command can forget it.

    Parameters
    ----------
    params
        Of the command; ``knobs`` has the settings that it turns, with a comma between them.
    """
    given = dict(params)
    is_named = all(params.get(key) is not None for key in ("model", "hardware"))
    if not is_named or params.get("resume") is not None:
        return given
    named = [params.get("method"), *str(params.get("methods") or "").split(",")]
    # the option of a method that only a decode node has means that method
    own_method = params.get("solve_gradients") or params.get("step") is not None
    if own_method or {*named} - {None, "", "False", *KNOW_SERVERS}:
        return given
    said = set(config_flags(params)) | _keys_of(params.get("config_file"))
    said |= {each.strip().replace("-", "_") for each in str(params.get("knobs") or "").split(",")}
    own = {kind: {*settings_of(KINDS[kind]), D_1.key} for kind in (SERVER, DEFAULT_KIND.name)}
    if "engine" in said or said & (own[DEFAULT_KIND.name] - own[SERVER]):
        return given
    return {**given, "engine": SERVER}


def _keys_of(path: str | None) -> set[str]:
    """Return the keys that a configuration file says."""
    from fluidserve.yaml_keys import read_keys

    return set() if path is None else set(read_keys(Path(path)))


def estimate_of(profile: Profile, config: Any) -> CapacityEstimate | None:
    """Return the setting whose value is the profile's estimate of the KV capacity, if one is.

    None for a measured capacity, for one that somebody gave, and for an engine that is no server of
    vLLM: how far such a capacity is off does not follow from the memory of a card.
    """
    kind = kind_named(config.engine)
    found = profile.of_kind(kind, config.model_dump())
    if found.server is None or found.kv_capacity_error is None:
        return None
    from studies import CapacityEstimate

    for key, value in kind.kv_keys(found.usable, config.model_dump()).items():
        if getattr(config, key) == value:
            return CapacityEstimate(key, found.kv_capacity_error)
    return None
