"""Names of fluid methods: as they are given (a dash is an underscore), and as people write them."""

from __future__ import annotations

from serving import UnsupportedError

NAMES = {
    "lagrangian": "Lagrangian",
    "eulerian_jax": "Eulerian (JAX)",
    "eulerian_diffrax": "Eulerian (diffrax)",
    "eulerian_scipy": "Eulerian (SciPy)",
    "workload": "workload process",
}


def method_name(method: str) -> str:
    """Return the name of a method as people write it; one that is unknown stays as it is."""
    return NAMES.get(method, method)


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
