"""What every test may rely on, and how tests share the processors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fluidserve", deadline=None)  # on a busy machine a first call is slow
settings.load_profile("fluidserve")


COMPILED = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"


def pytest_configure() -> None:
    """Have what JAX compiles shared, and let commands that tests start be interrupted.

    Processes that run side by side, commands and notebooks among them, solve the same shapes, and
    a compilation takes seconds. Background jobs of a shell ignore Ctrl-C.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_processor_each():
    """Where tests run side by side, each runs its replications itself unless it asks for workers.

    The processors are busy with other tests: workers of its own would only load the compiled code
    once more each.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
        yield
