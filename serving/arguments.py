"""Hold the arguments of public functions to their annotations, before anything is done.

No library does it: beartype, typeguard and pydantic's ``validate_call`` take NaN for a number and
``True`` for a whole one; the first two refuse NumPy's numbers, the last reads the text ``"2"`` as
one. To each the rules below would have to be taught, and its errors put into one line.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike

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


def checked(**rules: str) -> Callable[[F], F]:
    """Have a function refuse arguments that its annotations do not allow.

    Parameters
    ----------
    **rules
        By parameter, what is asked of a number besides being finite: ``rate="> 0"``, several with
        ``and`` between them.

    Notes
    -----
    A whole number may be given as a float, ``1e6``: the function gets 1000000. A number of
    arguments that is wrong stays Python's ``TypeError``.
    """

    def declare(function: F) -> F:
        signature = inspect.signature(function)
        names = list(signature.parameters)

        @wraps(function)
        def door(*args: Any, **kwargs: Any) -> Any:
            kinds = _kinds_of(function)  # not before the first call: they name later modules
            if len(args) > len(names) or not signature.parameters.keys() >= kwargs.keys():
                signature.bind(*args, **kwargs)  # which says what is wrong
            held = [
                _held(name, value, kinds[name], rules.get(name, "")) if kinds.get(name) else value
                for name, value in zip(names, args, strict=False)
            ]
            for name, value in kwargs.items():
                if kinds.get(name):
                    kwargs[name] = _held(name, value, kinds[name], rules.get(name, ""))
            return function(*held, **kwargs)

        return door  # pyright: ignore[reportReturnType]

    return declare


def check_fields(record: Any, **rules: str) -> None:
    """Hold the fields of a dataclass to their annotations; for its ``__post_init__``."""
    kinds = _kinds_of(type(record))
    for item in fields(record):
        if item.init and kinds[item.name]:
            value = getattr(record, item.name)
            held = _held(item.name, value, kinds[item.name], rules.get(item.name, ""))
            if held is not value:
                object.__setattr__(record, item.name, held)


def check(name: str, value: object, annotation: Any, rule: str = "") -> None:
    """Refuse a value that an annotation, or a rule on numbers, does not allow.

    Raises
    ------
    ConfigError
        Naming the parameter, its value and what is allowed.
    """
    _held(name, value, _kinds(annotation), rule)


def _held(name: str, value: Any, kinds: Sequence[Any], rule: str) -> Any:
    """Return a value that one of several kinds allows, a whole number as an ``int``."""
    for kind in kinds:
        if rule == ANY and kind in (float, NUMBERS):
            if _is_any_number(value, dimensions=int(NUMBERS in kinds)):
                return value
        elif _is(kind, value) and (kind not in (float, int) or _obeys(value, rule)):
            return int(value) if kind is int else value
    words = [_words(kind, rule) for kind in kinds if kind is not NoneType]
    optional = ", or None" if NoneType in kinds else ""
    raise ConfigError(name, value, " or ".join(dict.fromkeys(words)) + optional)


@cache
def _kinds_of(annotated: Any) -> Mapping[str, tuple[Any, ...]]:
    """Return the kinds of each annotation of a function or a class."""
    return {name: _kinds(hint) for name, hint in get_type_hints(annotated).items()}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type: keys of :data:`KINDS` and classes.

    Nothing is asked of a type with an alternative that is neither, such as a protocol.
    """
    parts = list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]
    of_array = set(get_args(ArrayLike)) or {ArrayLike}
    if of_array <= set(parts):  # a union forgets that some of its parts were called ArrayLike
        parts = [NUMBERS, *(part for part in parts if part not in of_array)]
    kinds = [part if part in KINDS else get_origin(part) or part for part in parts]
    known = all(
        kind in KINDS
        or (get_origin(part) is None and isinstance(kind, type) and kind is not Any
            and Protocol not in kind.__bases__)
        for kind, part in zip(kinds, parts, strict=True)
    )  # fmt: skip
    return tuple(kinds) if known else ()


def _is(kind: Any, value: Any) -> bool:
    return KINDS[kind][1](value) if kind in KINDS else isinstance(value, kind)


def _words(kind: Any, rule: str) -> str:
    """Say what a kind allows."""
    words = KINDS[kind][0] if kind in KINDS else f"a {kind.__name__}"
    return f"{words} {rule}" if rule not in ("", ANY) and kind in (float, int) else words


def _is_number(value: Any) -> bool:
    if type(value) is float:  # nearly all of them, and slow to tell from an abstract class
        return math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    if isinstance(value, Integral):
        return abs(int(value)) <= LARGEST  # arrays would hold a longer one as an object
    return math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value % 1 == 0 and abs(int(value)) <= LARGEST


def _is_any_number(value: Any, dimensions: int) -> bool:
    if value is None or isinstance(value, str | bytes | bool):
        return False
    try:
        return np.asarray(value, dtype=float).ndim == dimensions
    except (ValueError, TypeError, OverflowError):
        return False


def _is_numeric(value: Any) -> bool:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return False
    return array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and str(value) != "" and "\0" not in str(value)


def _are_texts(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(isinstance(each, str) for each in value)


def _are_named_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and _is_number(each) for name, each in value.items()
    )


NUMBERS = "ArrayLike"
"""The kind of what NumPy makes an array of."""

KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    NoneType: ("None", lambda value: value is None),
    float: ("a finite number", _is_number),
    int: ("a whole number", _is_whole),
    bool: ("True | False", lambda value: isinstance(value, bool | np.bool_)),
    str: ("a text", lambda value: isinstance(value, str)),
    Path: ("a path", _is_path),
    NUMBERS: ("finite numbers", _is_numeric),
    np.ndarray: (
        "an array of finite numbers",
        lambda value: isinstance(value, np.ndarray) and _is_numeric(value),
    ),
    Callable: ("a function", callable),
    Mapping: ("a mapping", lambda value: isinstance(value, Mapping)),
    Sequence[str]: ("texts", _are_texts),
    tuple[str, ...]: ("texts", _are_texts),
    Mapping[str, float]: ("finite numbers by name", _are_named_numbers),
}
"""What each kind allows, in words and as a test. Any other class allows its own objects."""


def _obeys(value: Any, rule: str) -> bool:
    for part in rule.split(" and ") if rule not in ("", ANY) else ():
        sign, _, bound = part.partition(" ")
        if not SIGNS[sign](value, float(bound)):
            return False
    return True
