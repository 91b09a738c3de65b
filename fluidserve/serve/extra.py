"""The packages that only the service needs: the extra ``serve``."""

from __future__ import annotations

from importlib.util import find_spec

from serving import FluidServeError

NEEDED = ("fastapi", "uvicorn", "httptools", "prometheus_client")
"""Modules of the extra."""


def check_extra() -> None:
    """Refuse to go on where the extra is not installed.

    Raises
    ------
    FluidServeError
        Naming what is missing and how to install it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise FluidServeError(
            f"serve needs {', '.join(missing)}, which this Python does not have; install them by "
            'pip install "fluidserve[serve]"'
        )
