"""What the options of a benchmark may be, and how it ends where one is not allowed: by one line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

from serving import FluidServeError


def whole(text: str) -> int:
    """Return a whole number >= 1, for :meth:`argparse.ArgumentParser.add_argument`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: a whole number >= 1")
    return int(text)


def positive(text: str) -> float:
    """Return a finite number > 0, for :meth:`argparse.ArgumentParser.add_argument`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: a finite number > 0")
    return value


def run(main: Callable[[], int | None]) -> None:
    """End the process by what a benchmark returns, or by one line and 2, or 130 on Ctrl-C."""
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2]
    try:
        sys.exit(main())
    except FluidServeError as wrong:
        print(f"{name}: {wrong}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
