"""A grid: every combination of lists, ranges and groups of keys that go together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from serving import ConfigError

KEYS = ("kind", "base", "grid", "zip")
VALUES_FORM = "a list of values, or {from: LOW, to: HIGH, steps: COUNT} with spacing: log if wanted"
MOST_POINTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Grid:
    """Points of a sweep.

    Parameters
    ----------
    kind
        What is done at each.
    base
        Keys that all points share.
    varied
        Keys that differ, in the order of the file.
    points
        Value of each varied key, per point; the last key varies fastest.
    """

    kind: str
    base: Mapping[str, Any]
    varied: tuple[str, ...]
    points: tuple[Mapping[str, Any], ...]


def grid_of(content: Mapping[str, Any], kinds: Sequence[str]) -> Grid:
    """Return the grid that a file's content describes.

    Parameters
    ----------
    content
        ``kind``, ``base`` (keys with one value), ``grid`` (keys with values, all combinations)
        and ``zip`` (groups of keys whose values go together).
    kinds
        What ``kind`` may be.

    Raises
    ------
    ConfigError
        Naming the key, its value and what is allowed.
    """
    for key, value in content.items():
        if key not in KEYS:
            raise ConfigError(key, value, f"the keys of a grid: {', '.join(KEYS)}")
    kind = content.get("kind", kinds[0])
    if kind not in kinds:
        raise ConfigError("kind", kind, " | ".join(kinds))
    base = _mapping(content, "base")
    for key, value in base.items():
        if isinstance(value, dict):
            raise ConfigError(f"base.{key}", value, "one value; a range belongs to grid")
    axes = [
        [{key: value} for value in _values(f"grid.{key}", given)]
        for key, given in _mapping(content, "grid").items()
    ]
    groups = content.get("zip") or []
    if not isinstance(groups, list):
        groups = [groups]
    for number, group in enumerate(groups, 1):
        axes.append(_zipped(f"zip.{number}", group))
    if not axes:
        raise ConfigError("grid", content.get("grid"), "keys with values to go through")
    varied = [key for axis in axes for key in axis[0]]
    for key in varied:
        if varied.count(key) > 1 or key in base:
            raise ConfigError(key, "given twice", "one place: base, grid or one group of zip")
    size = math.prod(len(axis) for axis in axes)
    if size > MOST_POINTS:
        raise ConfigError("grid", f"{size} points", f"at most {MOST_POINTS}")
    points = [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*axes)
    ]
    return Grid(kind, base, tuple(varied), tuple(points))


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(key, value, "lines of 'key: value' under it")
    return {str(name): each for name, each in value.items()}


def _values(key: str, given: Any) -> list[Any]:
    """Return the values of one key."""
    if isinstance(given, list) and given and not any(isinstance(v, dict | list) for v in given):
        return given
    if not isinstance(given, dict) or set(given) - {"from", "to", "steps", "spacing"}:
        raise ConfigError(key, given, VALUES_FORM)
    low, high, steps = given.get("from"), given.get("to"), given.get("steps")
    spacing = given.get("spacing", "linear")
    if not (_is_number(low) and _is_number(high)) or type(steps) is not int:
        raise ConfigError(key, given, VALUES_FORM)
    if not 1 <= steps <= MOST_POINTS or spacing not in ("linear", "log"):
        raise ConfigError(key, given, VALUES_FORM)
    if spacing == "log" and not (low > 0 and high > 0):
        raise ConfigError(key, given, "ends > 0 where the spacing is log")
    spaced = (np.geomspace if spacing == "log" else np.linspace)(low, high, steps)
    # Twelve digits: 0.7, not 0.7000000000000001.
    values = [float(f"{each:.12g}") for each in spaced]
    whole = isinstance(low, int) and isinstance(high, int)
    return [int(v) if whole and v == int(v) else v for v in values]


def _zipped(name: str, group: Any) -> list[dict[str, Any]]:
    if not isinstance(group, dict) or not group:
        raise ConfigError(name, group, "keys, each with a list of values; all of one length")
    columns = {str(key): _values(f"{name}.{key}", given) for key, given in group.items()}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(name, lengths, "lists of one length: their values go together")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
