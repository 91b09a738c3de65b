"""Read configuration files: flat YAML, every key checked, every error in one line."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from fluidserve.settings import D_1, D_1_KEYS, Setting, all_settings, settings_of
from fluidserve.yaml_keys import read_keys
from serving import (
    DEFAULT_KIND,
    ConfigError,
    FluidServeError,
    Instance,
    Kind,
    kind_named,
    kind_of,
)
from serving.batch_time import checked_table
from serving.errors import hint
from serving.setting import listed

if TYPE_CHECKING:
    from calibration.profiles import Profile


@functools.cache
def schema(kind: Kind = DEFAULT_KIND) -> type[BaseModel]:
    """Return the pydantic model of a configuration of one kind of engine."""
    columns: dict[str, Any] = {
        key: (_type(item), item.default) for key, item in settings_of(kind).items()
    }
    columns["engine"] = (Literal[kind.name], kind.name)
    return create_model(
        "Config",
        __config__=ConfigDict(extra="forbid", frozen=True, title="FluidServe configuration"),
        **columns,
    )


def _type(item: Setting) -> Any:
    """Return the annotation that holds a value to the rules of its setting."""
    bounds = {"minimum": "ge", "exclusive_minimum": "gt", "maximum": "le"}
    limits = {bounds[name]: rule for name, rule in item.rules.items() if name in bounds}
    kind: Any = item.kind
    if "rows" in item.rules:
        kind = Annotated[kind, BeforeValidator(checked_table)]
    elif "numbers" in item.rules:
        kind = Annotated[kind, BeforeValidator(listed)]
    elif "choices" in item.rules:
        kind = Literal[item.rules["choices"]]
        if item.rules.get("user_function"):
            kind = kind | Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    elif kind is float:
        limits["allow_inf_nan"] = False
    kind = Annotated[kind, Field(description=item.doc, **limits)]
    return kind | None if item.optional else kind


def load_config(
    path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    profile: Profile | None = None,
) -> BaseModel:
    """Return the configuration of a file, overridden by flags, over a profile and the defaults.

    Parameters
    ----------
    path
        YAML file with flat keys; only defaults without it. With ``d_decode_table`` the other
        coefficients of the batch time are 0 unless given. Its ``request_file`` is sought from
        the folder that it lies in, so that an experiment folder can be moved.
    flags
        Values by key that win over the file.
    profile
        Of a model on a card: its law and KV capacity, in seconds unless the file or the flags
        say ms.

    Returns
    -------
    An instance of :func:`schema`, whose attributes are the keys.

    Raises
    ------
    ConfigError
        Naming key, value and what is allowed.
    FluidServeError
        If a file in real time leaves law, memory or budget to the defaults, which are a toy's.
    FileAccessError
        If the file cannot be read or is not YAML.
    """
    written = {} if path is None else read_keys(Path(path))
    given = dict(flags or {})
    kind = _kind({**written, **given}.get("engine", DEFAULT_KIND.name))
    merged = _with_shorthand(kind, written, f"{path}: ")
    if isinstance(merged.get("request_file"), str):
        merged["request_file"] = str(Path(str(path)).parent / merged["request_file"])
    merged |= _with_shorthand(kind, given, "")
    if profile is not None:
        given = _checked(kind, {"time_unit": "s"} | merged)
        keys = profile.config(given.time_unit, kind, given.model_dump(), merged)
        if _is_whole_law(merged):  # of two laws one holds: terms of both are no law at all
            law = {*kind.law_keys, *kind.carried_keys}
            keys = {key: value for key, value in keys.items() if key not in law}
        merged = keys | merged
    if merged.get("d_decode_table") is not None:  # the default law is no part of another
        linear = [key for key in ("d_0", "d_decode", "d_kv") if key in kind.law_keys]
        merged = dict.fromkeys(linear, 0.0) | merged
    config = _checked(kind, merged)
    if path is not None and written.get("time_unit") in REAL_UNITS:
        _refuse_toy_defaults(config, f"{path}: times are in {given_unit(config)}, but the file")
    elif kind.is_in_real_time and given_unit(config) in REAL_UNITS:
        what = f"the engine {kind.name} is a real server, but the command"
        _refuse_toy_defaults(config, what)
    return config


def _is_whole_law(given: Mapping[str, Any]) -> bool:
    """Return whether some keys say the whole time of a decode batch."""
    return "d_decode_table" in given or {"d_0", *D_1_KEYS} <= given.keys()


REAL_UNITS = ("s", "ms")
"""Units of a real server's times."""

LINEAR = ("d_0", "d_decode", "d_kv")
"""Coefficients that every server has, be they 0."""


PREFILL = ("d_prefill", "d_prefill_table")
"""Coefficients one of which an engine needs that computes prompts."""


def toy_defaults(config: Any) -> dict[str, Any]:
    """Return the keys of law, memory and budget that nobody gave, with their defaults.

    The defaults make a small example without a unit. They describe no server.
    """
    kind = kind_named(config.engine)
    capacity = kind.kv_keys(1, config.model_dump())
    needed = [*(key for key in LINEAR if key in kind.law_keys), *capacity]
    if PREFILL[0] in kind.law_keys and not config.model_fields_set.intersection(PREFILL):
        needed.append(PREFILL[0])
    return {key: getattr(config, key) for key in needed if key not in config.model_fields_set}


def given_unit(config: Any) -> str:
    """Return the unit of time of a configuration; ``none`` for a kind that has no unit."""
    return getattr(config, "time_unit", "none")


def _refuse_toy_defaults(config: Any, who: str) -> None:
    missing = toy_defaults(config)
    if missing:
        flags = ", ".join(settings_of(kind_named(config.engine))[key].flag for key in missing)
        shown = ", ".join(f"{key} = {value}" for key, value in missing.items())
        raise FluidServeError(
            f"{who} does not say {', '.join(missing)}, whose defaults ({shown}) are those of a toy "
            f"node; write them into a file, give {flags}, or take them from a profile by --model "
            "and --hardware"
        )


def _checked(kind: Kind, merged: Mapping[str, Any]) -> Any:
    """Return the configuration of some keys, each held to its rules."""
    try:
        return schema(kind)(**merged)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        key = str(first["loc"][0])
        raise ConfigError(key, merged[key], settings_of(kind)[key].allowed) from None


def _kind(name: Any) -> Kind:
    """Return the kind of engine that a configuration names."""
    return kind_named(name if isinstance(name, str) else repr(name))


def _with_shorthand(kind: Kind, given: dict[str, Any], where: str) -> dict[str, Any]:
    """Check the keys and replace ``d_1`` by the two that it stands for."""
    for key, value in given.items():
        _check_key(kind, key, value, where)
    if "d_1" in given:
        for key in D_1_KEYS:
            if key in given:
                raise ConfigError(key, given[key], "either d_1 or d_decode and d_kv, not both")
        d_1 = given.pop("d_1")
        try:
            number = float(d_1) if not isinstance(d_1, bool) else float("nan")
        except (TypeError, ValueError):
            number = float("nan")
        if not 0 <= number < float("inf"):
            raise ConfigError("d_1", d_1, D_1.allowed)
        given |= dict.fromkeys(D_1_KEYS, number)
    return given


def _check_key(kind: Kind, key: str, value: Any, where: str) -> None:
    settings = settings_of(kind)
    known = [*settings, *([D_1.key] if set(D_1_KEYS) <= set(kind.law_keys) else [])]
    if key in known:
        item = D_1 if key == D_1.key else settings[key]
        if isinstance(value, bool) and item.kind is not bool:
            raise ConfigError(key, value, item.allowed)
        return
    elsewhere = all_settings().get(key)
    if elsewhere is not None:
        owners, verb = elsewhere.kinds, "has" if len(elsewhere.kinds) == 1 else "have"
        reason = f"the engine {kind.name} has no such key, {' and '.join(owners)} {verb}"
        if not where:
            raise FluidServeError(f"{elsewhere.flag}: {reason}")
    else:
        reason = hint(key, known).removeprefix("; ") or f"known keys: {', '.join(known)}"
    raise FluidServeError(f"{where}unknown config key {key!r} (value {value!r}); {reason}")


def instance_of(config: Any) -> Instance:
    """Return the instance that a configuration describes."""
    kind = kind_named(config.engine)
    items = settings_of(kind)
    values = {key: getattr(config, key) for key in items}
    node = {key: values[key] for key, item in items.items() if item.group == "node"}
    return kind.settings(batch_time=kind.law(values), **node)


def flat(instance: Instance) -> dict[str, Any]:
    """Return the configuration keys of an instance, ``d_1`` where it says it all."""
    kind = kind_of(instance)
    items = settings_of(kind).values()
    keys: dict[str, Any] = {"engine": instance.engine}
    keys |= {item.key: getattr(instance, item.key) for item in items if item.group == "node"}
    keys |= kind.law_values(instance.batch_time)
    if keys.get("d_decode") == keys.get("d_kv") is not None:
        keys["d_1"] = keys.pop("d_decode")
        del keys["d_kv"]
    return keys


def resolved_yaml(config: Any, instance: Instance, request_file: str | None = None) -> str:
    """Return a configuration file of this very instance and these very requests.

    Parameters
    ----------
    config
        As from :func:`load_config`.
    instance
        The instance that ran (after ``--scale``).
    request_file
        The requests that ran, as seen from the folder of the configuration file.
    """
    items = settings_of(kind_of(instance)).values()
    own = ("engine", "output_dir", "request_file", "request_start")
    run = [item.key for item in items if item.group == "run" and item.key not in own]
    keys = flat(instance) | {key: getattr(config, key) for key in run}
    keys["request_file"] = request_file
    if request_file is not None:
        keys["request_start"] = 0.0  # the clock of the run, whose first request may come later
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
