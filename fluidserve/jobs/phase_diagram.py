"""Map the regimes of a decode node, or of a server that a command names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fluidserve.config import flat, instance_of
from fluidserve.folders import to_json
from fluidserve.inputs import load_config_of
from fluidserve.options import PROFILE_KEYS, config_flags
from fluidserve.profiled import profile_of
from fluidserve.progress import ProgressLine, tell
from serving import DEFAULT_KIND, FluidServeError, Instance, kind_named
from serving.files import atomic_write

QUICK = {
    "cv": (0.0, 0.1, 0.2, 0.3, 0.4),
    "ratio": (0.1, 0.5, 2.0, 10.0),
    "marked_cv": (0.0, 0.2),
    "marked_ratio": (0.1, 2.0),
}
"""A coarse map and few engine runs."""


def mapped(
    params: Mapping[str, Any],
    output: str,
    *,
    loads: Sequence[float] | None,
    mode: str | None,
    mean_decode: int | None,
    seed: int | None,
    quick: bool,
    asks_engine: bool,
    approximate: bool,
) -> dict[str, Any]:
    """Write the map and its picture, and return what the command prints.

    Parameters
    ----------
    params
        Of the command that name a server; without any the map is that of a decode node.
    output
        Stem of the two files.
    loads, mode, mean_decode, seed
        As given; None is the default of the map.
    quick
        Whether the map is to be coarse.
    asks_engine
        Whether the engine is to be run at marked points.
    approximate
        Whether settings of a server that are not modelled are read as those that are.
    """
    named = {"load": loads, "mode": mode, "mean_decode": mean_decode, "seed": seed}
    options: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    options |= dict(QUICK) if quick else {}
    if not asks_engine:
        if seed is not None:
            raise FluidServeError("--seed and --no-engine: nothing is random without it")
        options |= {"marked_cv": (), "marked_ratio": ()}
    line = ProgressLine()
    options["progress"] = lambda done, total: line.say(
        f"{done} of {total}", final=done >= total
    )  # fmt: skip
    server = _server(params)
    if server is None:
        if approximate:
            raise FluidServeError("--approximate: the map of a decode node has nothing to read so")
        return _of_a_decode_node(output, options)
    options["approximate"] = approximate
    if mode is not None:
        raise FluidServeError(
            f"--mode: the engine {server.engine} has no such key, {DEFAULT_KIND.name} has"
        )
    return _of_a_server(server, params, output, options)


def _server(params: Mapping[str, Any]) -> Instance | None:
    """Return the server that is named; None for the decode node of the default map."""
    config = load_config_of(params)
    if config.engine != DEFAULT_KIND.name:
        profile = profile_of(params)
        if profile is not None:
            found = profile.of_kind(kind_named(config.engine), config.model_dump())
            tell(f"profile: {found.said()}")
        return instance_of(config)
    given = [key for key in (*config_flags(params), *PROFILE_KEYS, "config_file")
             if params.get(key) is not None and key != "engine"]  # fmt: skip
    if given:
        flag = given[0].removesuffix("_file").replace("_", "-")
        raise FluidServeError(
            f"--{flag}: the map of a {DEFAULT_KIND.name} has a law and a memory of its own; "
            "--engine vllm_v1 maps a server with yours"
        )
    return None


def _of_a_decode_node(output: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from fluidserve.plots import phase_diagram as picture
    from studies.phase_diagram import phase_diagram

    diagram = phase_diagram(**options)
    found = diagram.to_json()
    _write(output, found, lambda path: picture(diagram, path))
    return {
        "mode": diagram.mode,
        "mean_decode": diagram.mean_decode,
        "cells": _cells(found),
        "engine": found["engine"],
        "unconverged": found["unconverged"],
        "output": _files(output),
    }


def _of_a_server(
    server: Instance, params: Mapping[str, Any], output: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    from fluidserve.plots import server_regimes as picture
    from studies.server_map import server_map

    found = server_map(server, **options)
    profile = profile_of(params)
    title = "" if profile is None else f"{profile.model} on {profile.tp} x {profile.hardware}"
    told = found.to_json() | {"instance": flat(server)}
    _write(output, told, lambda path: picture(found, path, server=title))
    binds = found.binds.ravel().tolist()
    return {
        "engine_kind": server.engine,
        "mean_decode": found.mean_decode,
        "cells": _cells(told),
        "binds": {name: binds.count(name) for name in dict.fromkeys(binds)},
        "engine": told["engine"],
        "instance": flat(server),
        "warnings": found.warnings,
        "output": _files(output),
    }


def _write(output: str, found: Mapping[str, Any], draw: Any) -> None:
    with atomic_write(f"{output}.json", "w") as file:
        file.write(to_json(found) + "\n")
        draw(f"{output}.png")  # both or neither


def _cells(found: Mapping[str, Any]) -> dict[str, int]:
    return {name: len(found[name]) for name in ("cv", "ratio", "load")}


def _files(output: str) -> list[str]:
    return [f"{output}.json", f"{output}.png"]
