"""What every test may rely on."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let commands that tests start be interrupted: a shell's background jobs ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
