"""Hold the arguments of public functions to what their annotations say, before anything is done."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from serving.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

LARGEST = 2**63 - 1
"""Of a whole number: what compiled code can count."""

ANY = "any"
"""The rule of a number, or a list of numbers, that the function refuses in its own words."""

SIGNS = {
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
    "<=": lambda value, bound: value <= bound,
}
"""What a rule such as ``"> 0"`` asks of a number."""

VOCABULARY = {
    "RequestMix", "RateProfile", "RequestTable", "BatchTimeLaw", "InitialState", "LatencySamples",
    "Question", "Replications", "Trajectory", "Workload", "Generator", "SeedSequence",
    "RequestLog", "MetricsLog", "BatchRows",
}  # fmt: skip
"""Classes by which an annotation is held; of other names nothing is asked."""


def checked(**rules: str) -> Callable[[F], F]:
    """Have a function refuse arguments that its annotations do not allow.

    Parameters
    ----------
    **rules
        By parameter, what is asked of a number besides being finite: ``rate="> 0"``, several with
        ``and`` between them.

    Notes
    -----
    The annotations must be texts (``from __future__ import annotations``). A number of arguments
    that is wrong stays Python's ``TypeError``.
    """

    def declare(function: F) -> F:
        signature = inspect.signature(function)

        @wraps(function)
        def door(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            for name, value in given.items():
                parameter = signature.parameters[name]
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    check(name, value, str(parameter.annotation), rules.get(name, ""))
            return function(*args, **kwargs)

        return door  # pyright: ignore[reportReturnType]

    return declare


def check_fields(record: Any, **rules: str) -> None:
    """Hold the fields of a dataclass to their annotations; for its ``__post_init__``."""
    for item in fields(record):
        if item.init:
            check(item.name, getattr(record, item.name), str(item.type), rules.get(item.name, ""))


def check(name: str, value: object, annotation: str, rule: str = "") -> None:
    """Refuse a value that an annotation, or a rule on numbers, does not allow.

    Raises
    ------
    ConfigError
        Naming the parameter, its value and what is allowed.
    """
    kinds = _kinds(annotation)
    if not kinds:
        return
    dimensions = int("ArrayLike" in kinds)
    for kind in kinds:
        if rule == ANY and kind in ("float", "ArrayLike"):
            if _is_any_number(value, dimensions):
                return
            continue
        if _is(kind, value) and (kind not in ("float", "int") or _holds(value, rule)):
            return
    words = [_words(kind, rule) for kind in kinds if kind != "None"]
    optional = ", or None" if "None" in kinds else ""
    raise ConfigError(name, value, " or ".join(dict.fromkeys(words)) + optional)


def _words(kind: str, rule: str) -> str:
    """Say what a kind of annotation allows."""
    words = WORDS.get(kind, f"a {kind}")
    return f"{words} {rule}" if rule not in ("", ANY) and kind in ("float", "int") else words


@cache
def _kinds(annotation: str) -> tuple[str, ...]:
    """Return the alternatives of an annotation, none where one of them is not known here."""
    annotation = ALIASES.get(annotation, annotation)
    parts, depth, start = [], 0, 0
    for at, sign in enumerate(annotation):
        depth += (sign in "[(") - (sign in "])")
        if sign == "|" and depth == 0:
            parts.append(annotation[start:at])
            start = at + 1
    parts.append(annotation[start:])
    found = []
    for part in parts:
        text = part.strip()
        found.append(LONG_NAMES.get(text, text.partition("[")[0].rpartition(".")[2]))
    return tuple(found) if all(kind in WORDS or kind in VOCABULARY for kind in found) else ()


ALIASES = {"ServerLog": "RequestLog | MetricsLog | BatchRows"}
"""Annotations that stand for several classes, none of which has that name."""

LONG_NAMES = {
    "Sequence[str]": "texts",
    "tuple[str, ...]": "texts",
    "Mapping[str, float]": "thresholds",
    "Told": "Callable",
}
"""Annotations whose parts are held, too."""

WORDS = {
    "None": "None",
    "float": "a finite number",
    "int": "a whole number",
    "bool": "True | False",
    "str": "a text",
    "Path": "a path",
    "ArrayLike": "finite numbers",
    "NDArray": "an array of finite numbers",
    "Callable": "a function",
    "Mapping": "a mapping",
    "texts": "texts",
    "thresholds": "finite numbers by name",
}
"""What each kind of annotation allows, in words."""


def _is(kind: str, value: Any) -> bool:
    if kind == "None":
        return value is None
    if kind in VOCABULARY:
        return any(each.__name__ == kind for each in type(value).__mro__)
    return _TESTS[kind](value)


def _is_number(value: Any) -> bool:
    try:
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        return is_real and math.isfinite(value) and not _is_too_long(value)
    except OverflowError:
        return False


def _is_too_long(value: Any) -> bool:
    return (
        isinstance(value, Integral) and abs(int(value)) > LARGEST
    )  # arrays would hold it as an object


def _is_any_number(value: Any, dimensions: int) -> bool:
    if value is None or isinstance(value, str | bytes | bool):
        return False
    try:
        return np.asarray(value, dtype=float).ndim == dimensions
    except (ValueError, TypeError, OverflowError):
        return False


def _is_whole(value: Any) -> bool:
    return (
        isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) <= LARGEST
    )


def _is_numeric(value: Any) -> bool:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return False
    return array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and str(value) != "" and "\0" not in str(value)


_TESTS: Mapping[str, Callable[[Any], bool]] = {
    "float": _is_number,
    "int": _is_whole,
    "bool": lambda value: isinstance(value, bool | np.bool_),
    "str": lambda value: isinstance(value, str),
    "Path": _is_path,
    "ArrayLike": _is_numeric,
    "NDArray": lambda value: isinstance(value, np.ndarray) and _is_numeric(value),
    "Callable": callable,
    "Mapping": lambda value: isinstance(value, Mapping),
    "texts": lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(each, str) for each in value)
    ),
    "thresholds": lambda value: (
        isinstance(value, Mapping)
        and all(isinstance(name, str) and _is_number(each) for name, each in value.items())
    ),
}


def _holds(value: Any, rule: str) -> bool:
    for part in rule.split(" and ") if rule not in ("", ANY) else ():
        sign, _, bound = part.partition(" ")
        if not SIGNS[sign](value, float(bound)):
            return False
    return True
