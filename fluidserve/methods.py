"""Parse the names of fluid methods on the command line, where a dash is an underscore."""

from __future__ import annotations

from serving import UnsupportedError


def method_name(method: str) -> str:
    """Return the name of a method as people write it; an unknown name stays as it is."""
    from ode import METHODS

    return METHODS[method].title if method in METHODS else method


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the methods of a comma-separated text, or every one for ``all``.

    Raises
    ------
    UnsupportedError
        Naming a method that there is not, and those that there are.
    """
    from ode import METHODS, method_named

    if text == "all":
        return tuple(METHODS)
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    return tuple(dict.fromkeys(method_named(name).name for name in names))


def parse_method(text: str) -> str:
    """Return the one method of a text; see :func:`parse_methods`."""
    names = parse_methods(text)
    if len(names) != 1:
        raise UnsupportedError(f"--method {text!r} is not one method; compare takes several")
    return names[0]
