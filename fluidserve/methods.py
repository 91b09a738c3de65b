"""Names of fluid methods as they are given: a dash and an underscore mean the same."""

from __future__ import annotations

from serving import UnsupportedError


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the methods of a comma-separated text, or every one for ``all``.

    Raises
    ------
    UnsupportedError
        Naming a method that there is not, and those that there are.
    """
    from ode import METHODS

    if text == "all":
        return METHODS
    names = tuple(dict.fromkeys(name.strip().replace("-", "_") for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise UnsupportedError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    return names


def parse_method(text: str) -> str:
    """Return the one method of a text; see :func:`parse_methods`."""
    names = parse_methods(text)
    if len(names) != 1:
        raise UnsupportedError(f"--method {text!r} is not one method; compare takes several")
    return names[0]
