"""Write a fitted law as a configuration that ``--config`` reads, with the memory it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fluidserve.config import load_config
from fluidserve.yaml_keys import read_keys
from serving import DEFAULT_KIND, BatchTimeLaw, FluidServeError, Kind, kind_named

LACKING = (
    "lacks the KV memory, which the measurements do not show: give --kv-capacity here, or "
    "--M-total, or --model and --hardware, to the command that reads it"
)
"""What is said of a law without memory."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The KV memory of a server has a size and a source.

    Parameters
    ----------
    tokens
        The size [tokens].
    source
        Where it comes from, in words.
    """

    tokens: int
    source: str


def law_file(
    title: str, law: Mapping[str, Any], memory: Memory | None, kind: Kind = DEFAULT_KIND
) -> str:
    """Return a configuration: unit and law, then the memory and where it comes from.

    Parameters
    ----------
    title
        What was fitted to what.
    law
        Keys of the law in seconds.
    memory
        KV memory of the server; None where nobody knows it. The file then has no memory, and a
        command that reads it asks for one.
    kind
        Kind of engine that the configuration is for.
    """
    tokens = 1 if memory is None else memory.tokens
    node = kind.kv_keys(tokens, {})
    if memory is None:
        node = {key: value for key, value in node.items() if value is None}
        said = f"# This file {LACKING}."
    else:
        said = f"# KV memory [tokens]: {memory.source}."
    unlimited = [key for key, value in node.items() if value is None]
    if unlimited:
        names = ", ".join(unlimited)
        said += (
            f"\n# {names}: unlimited. A server's limit of requests (max_num_seqs) has no key here."
        )
    keys = _lines({"time_unit": "s", **law})
    return f"# {title}\n{keys}{said}\n{_lines(node)}"


def server_file(
    title: str, law: BatchTimeLaw, path: str, memory: Memory | None, *, of_everyone: bool = False
) -> str:
    """Return the configuration of ``path`` with another law: a server whose steps were measured.

    Parameters
    ----------
    title
        What was fitted to what.
    law
        Law [s].
    path
        Configuration of the server: engine and settings. A law in it is left out.
    memory
        KV memory, taken where the file says none.
    of_everyone
        Whether the KV of the law is that of everyone in a batch, and not of the decoding requests.

    Raises
    ------
    FluidServeError
        If the file is no configuration of its engine.
    """
    written = read_keys(Path(path))
    kind = kind_named(str(written.get("engine", DEFAULT_KIND.name)))
    unit = written.get("time_unit", "s")
    own = law if kind is DEFAULT_KIND or of_everyone else law.for_whole_context()
    values = kind.law_values(own.in_unit(1000.0) if unit == "ms" else own)
    law_keys = {*kind.law_keys, *kind.carried_keys, "d_1"}
    kept = {key: value for key, value in written.items() if key not in law_keys}
    sizes = {} if memory is None else kind.kv_keys(memory.tokens, kept)
    missing = {key: value for key, value in sizes.items() if key not in kept and value is not None}
    keys = {"time_unit": "s", **kept, **values, **missing}
    load_config(None, keys)
    said = f"# KV memory [tokens]: {memory.source}.\n" if missing and memory is not None else ""
    return f"# {title}\n{said}{_lines(keys)}"


def _lines(keys: Mapping[str, Any]) -> str:
    """Return keys as YAML, one a line, each row of a table in one line."""
    return "".join(
        yaml.safe_dump({key: value}, default_flow_style=None if isinstance(value, list) else False)
        for key, value in keys.items()
    )


def memory_of_profile(about: Mapping[str, Any]) -> Memory | None:
    """Return the KV memory of the model on the hardware that measurements name, if it is known."""
    if "model" not in about or "hardware" not in about:
        return None
    from calibration.profiles import find

    try:
        tp = int(about.get("tp", 1))
        found = find(str(about["model"]), str(about["hardware"]), tp)
    except (FluidServeError, ValueError):
        return None
    said = (
        f"{found.kv_capacity_origin} for {found.model} on {found.tp} x {found.hardware} (profile)"
    )
    return Memory(found.kv_capacity, said)
