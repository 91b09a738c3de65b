"""Predict what an LLM server will do: a fluid model next to a discrete simulator.

Everything public is reached from here and loaded when it is first used::

    import fluidserve as fs

    node = fs.DecodeNode(M_total=10_000, B=2_000)
    requests = fs.scenarios.bursty(num_requests=1_000, arrival_rate=0.1, seed=7)
    run = fs.simulate(requests, node)
    flow = fs.solve(requests.rate_profile(), requests.mix(), node)
    flow("waiting [requests]", 500.0), flow.metrics(), run.metrics()
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

_STUB = Path(__file__).with_suffix(".pyi")
ROOM_OF = {
    alias.name: node.module or __name__
    for node in ast.parse(_STUB.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
"""The room that each public name comes from, read off the stub file: names are written once there.

The rooms use ``lazy_loader``, which refuses a stub that imports from another package."""

__all__ = sorted(ROOM_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in ROOM_OF:
        raise AttributeError(f"module 'fluidserve' has no attribute {name!r}")
    room = ROOM_OF[name]
    if room == __name__:
        value: Any = importlib.import_module(f"fluidserve.{name}")
    else:
        value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
