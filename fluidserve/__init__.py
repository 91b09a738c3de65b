"""Predict what an LLM server will do: a fluid model next to a discrete simulator.

Everything public is reached from here and loaded when it is first used::

    import fluidserve as fs

    node = fs.DecodeNode(M_total=10_000, B=2_000)
    requests = fs.scenarios.bursty(num_requests=1_000, arrival_rate=0.1, seed=7)
    run = fs.simulate(requests, node)
    flow = fs.solve(requests.rate_profile(), requests.mix(), node)
    flow("waiting [requests]", 500.0), flow.metrics(), run.metrics()

The command passes through here before it can be interrupted cleanly: nothing is imported above.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _rooms() -> dict[str, str]:
    """Return the room of each public name, read off the stub file: names are written once there.

    The rooms use ``lazy_loader``, which refuses a stub that imports from another package.
    """
    import ast
    from pathlib import Path

    stub = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    return {
        alias.name: node.module or __name__
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "ROOM_OF":
        value: Any = _rooms()
    elif name == "__all__":
        value = __dir__()
    else:
        value = _imported(name)
    globals()[name] = value
    return value


def _imported(name: str) -> Any:
    """Return a public name from its room."""
    import importlib

    rooms = globals().get("ROOM_OF") or __getattr__("ROOM_OF")
    if name not in rooms:
        raise AttributeError(f"module 'fluidserve' has no attribute {name!r}")
    if rooms[name] == __name__:
        return importlib.import_module(f"fluidserve.{name}")
    return getattr(importlib.import_module(rooms[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(globals().get("ROOM_OF") or _rooms())
