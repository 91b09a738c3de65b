"""A dataclass field that is also a configuration key: its default, its words, its constraints."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any

from serving.errors import ConfigError


def setting(default: Any, doc: str, **constraints: Any) -> Any:
    """Declare a dataclass field that is also a configuration key.

    Parameters
    ----------
    default
        Default value.
    doc
        One line for the schema and the command line.
    **constraints
        Any of ``minimum``, ``exclusive_minimum``, ``maximum``, ``choices``, ``user_function``
        (True where ``path.py:function`` is accepted besides the choices), ``numbers`` (True where
        a text lists whole numbers, see :func:`whole_numbers`), and ``rows`` (what a table may be,
        in words: its class checks it).
    """
    return field(default=default, metadata={"doc": doc, **constraints})


LARGEST_LISTED = 99_999
"""Largest number of a list that is one setting."""


def whole_numbers(listed: Any) -> tuple[int, ...]:
    """Return the whole numbers that a list, a text such as ``0,3,1`` or a number stands for.

    Raises
    ------
    ValueError
        If it stands for none.
    """
    if isinstance(listed, str):
        listed = [int(part) if part.strip().isdecimal() else None for part in listed.split(",")]
    parts = listed if isinstance(listed, list | tuple) else (listed,)
    if not parts or not all(_is_listed(each) for each in parts):
        raise ValueError(f"{listed!r} is no list of whole numbers")
    return tuple(map(int, parts))


def _is_listed(value: Any) -> bool:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    return is_whole and 0 <= int(value) <= LARGEST_LISTED


def listed(value: Any) -> str:
    """Return the text that says the same as a list of whole numbers; see :func:`whole_numbers`."""
    return ",".join(map(str, whole_numbers(value)))


BOUNDS = {
    "minimum": (">=", operator.ge),
    "exclusive_minimum": (">", operator.gt),
    "maximum": ("<=", operator.le),
}
"""Sign of each constraint, and what it asks of value and bound."""

KINDS = {"int": "a whole number", "float": "a finite number", "bool": "true | false"}


def allowed_values(kind: str, rules: Mapping[str, Any], *, optional: bool = False) -> str:
    """Return in words what a setting may be.

    Parameters
    ----------
    kind
        Name of its type.
    rules
        Its constraints; see :func:`setting`.
    optional
        Whether it may be null.
    """
    if "rows" in rules:
        return rules["rows"] + (", or null" if optional else "")
    if "numbers" in rules:
        return "a list of whole numbers >= 0, such as [0, 3, 1] or 0,3,1" + (
            ", or null" if optional else ""
        )
    if "choices" in rules:
        words = " | ".join(rules["choices"])
        return words + (" | path.py:function" if rules.get("user_function") else "")
    bounds = [f"{sign} {rules[name]}" for name, (sign, _) in BOUNDS.items() if name in rules]
    words = " ".join([KINDS.get(kind, "a text"), " and ".join(bounds)]).rstrip()
    return words + (", or null" if optional else "")


def check_settings(spec: Any) -> None:
    """Hold every field of ``spec`` declared by :func:`setting` to its constraints.

    Raises
    ------
    ConfigError
        Naming the first key whose value is not allowed.
    """
    for item in fields(spec):
        rules, value = item.metadata, getattr(spec, item.name)
        kind, _, null = str(item.type).partition(" | ")
        if "doc" in rules and not (value is None and null) and not _is_allowed(value, kind, rules):
            allowed = allowed_values(kind, rules, optional=bool(null))
            raise ConfigError(item.name, value, allowed)


def _is_allowed(value: Any, kind: str, rules: Mapping[str, Any]) -> bool:
    if "rows" in rules:
        return True
    if "numbers" in rules:
        try:
            return bool(whole_numbers(value))
        except ValueError:
            return False
    if "choices" in rules:
        is_function = bool(rules.get("user_function")) and ".py:" in str(value)
        return is_function or (isinstance(value, str) and value in rules["choices"])
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    size: Any = abs(value)
    if size > sys.float_info.max:  # infinite, or a whole number of hundreds of digits
        return False
    held = all(ask(value, rules[name]) for name, (_, ask) in BOUNDS.items() if name in rules)
    return held and math.isfinite(value) and (kind != "int" or value % 1 == 0)
