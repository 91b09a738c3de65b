"""One door for every question to a fluid model: the kind says which model answers, or why none.

A function of ``fluid`` or ``ode`` that takes an instance is declared with :func:`answers`. Called
with an instance of any kind, it asks the kind for its :class:`serving.Reading`: the instance of the
function's own model goes straight in; for another model the door opens the package of that name in
the same room, ``fluid.<model>`` or ``ode.<model>``, and calls its function of the same name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from serving.arguments import checked
from serving.errors import UnsupportedError
from serving.kinds.kind import Instance, Reading
from serving.kinds.registry import kind_of

R = TypeVar("R")


def reading_of(instance: Instance) -> Reading:
    """Return which fluid model answers for an instance, with which settings.

    Raises
    ------
    UnsupportedError
        In the words of the kind, where no fluid model does.
    """
    return kind_of(instance).reading(instance)


def answers(model: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Declare a function as the answer of a fluid model to the question of its name.

    Parameters
    ----------
    model
        Name of the fluid model whose settings the function reads.

    Notes
    -----
    The function has a parameter ``instance``; the door replaces it by the settings that the kind's
    reading gives. Callers may hand in an instance of any kind, which the type of the door allows.
    """

    def declare(answer_of_model: Callable[..., R]) -> Callable[..., R]:
        function = checked()(answer_of_model)
        at = list(inspect.signature(function).parameters).index("instance")

        @wraps(function)
        def door(*args: Any, **kwargs: Any) -> R:
            named = "instance" in kwargs
            if not named and len(args) <= at:
                return function(*args, **kwargs)  # which says what is missing
            instance = kwargs["instance"] if named else args[at]
            reading = reading_of(instance)
            answer: Any = function
            if reading.model != model:
                answer = _answer(function, reading, kind_of(instance).name)
            if reading.node is instance:
                return answer(*args, **kwargs)
            if named:
                return answer(*args, **{**kwargs, "instance": reading.node})
            return answer(*args[:at], reading.node, *args[at + 1 :], **kwargs)

        door.__dict__["model"] = model
        return door

    return declare


def _answer(function: Any, reading: Reading, kind: str) -> Any:
    """Return the function of another model that answers the same question for a kind."""
    room, question = function.__module__.partition(".")[0], function.__name__
    package = f"{room}.{reading.model}"
    found = getattr(import_module(package), question, None) if find_spec(package) else None
    if found is None:
        raise UnsupportedError(
            f"the fluid model {reading.model!r} has no answer to {question!r} for the engine {kind}"
        )
    return found
