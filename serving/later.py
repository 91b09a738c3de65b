"""Names of a room that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def later(room: str, home: Mapping[str, str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a room whose heavy names wait until they are used.

    Parameters
    ----------
    room
        ``__name__`` of the room.
    home
        Module of each name. A name that is the module's own last part means the module. No other
        name may be that of a module of the room: importing it would put the module in its place.

    Returns
    -------
    function
        Raises AttributeError for a name that is not in ``home``.
    """

    def get(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        module = import_module(home[name])
        value = module if home[name] == f"{room}.{name}" else getattr(module, name)
        setattr(sys.modules[room], name, value)
        return value

    return get
