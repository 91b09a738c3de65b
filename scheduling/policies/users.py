"""Policies that users write: one function, found by its file or module."""

from __future__ import annotations

import importlib
import inspect
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import ConfigError, FluidServeError
from serving.errors import hint


def users_policy(reference: str) -> Callable[..., int]:
    """Return the function that a reference names.

    Parameters
    ----------
    reference
        ``file.py:function`` or ``module:function``. A class is called without arguments first, so
        that its instance can remember something.

    Raises
    ------
    ConfigError
        If there is no such file, module or function, or it does not take a view and a request.
    """
    place, _, name = reference.rpartition(":")
    members = _members(reference, place)
    found = members.get(name)
    if not callable(found):
        known = [each for each, value in members.items() if inspect.isfunction(value)]
        raise ConfigError(
            "policy", reference,
            f"file.py:function; {place} defines no function {name!r}{hint(name, known)}",
        )  # fmt: skip
    try:
        function: Any = found() if inspect.isclass(found) else found
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        raise ConfigError("policy", reference, "a function of (view, request)") from None

    def choose(view: Any, request: Any) -> int:
        try:
            return function(view, request)
        except FluidServeError:
            raise
        except Exception as error:
            raise FluidServeError(
                f"the policy {reference} failed: {type(error).__name__}: {error}"
            ) from error

    return choose


def _members(reference: str, place: str) -> dict[str, Any]:
    """Return what a file or a module defines, by name."""
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise ConfigError("policy", reference, f"file.py:function; there is no file {place!r}")
    try:
        return runpy.run_path(place) if is_file else vars(importlib.import_module(place))
    except ModuleNotFoundError as error:
        raise ConfigError("policy", reference, f"file.py:function; {error}") from None
    except Exception as error:
        raise ConfigError(
            "policy", reference, f"code that runs ({type(error).__name__}: {error})"
        ) from error
