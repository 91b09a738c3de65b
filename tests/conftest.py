"""What every test may rely on."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("fluidserve", deadline=None)  # on a busy machine a first call is slow
settings.load_profile("fluidserve")


def pytest_configure() -> None:
    """Let commands that tests start be interrupted: a shell's background jobs ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
