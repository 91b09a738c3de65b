"""How much a search may spend, and how sure its answer has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving import ConfigError


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What the search of one knob may spend, and how precise and how sure it has to be.

    Parameters
    ----------
    tolerance
        Width of the final bracket as a share of the knob's value. The bracket of a whole-number
        knob is at least 1 wide.
    replications
        Most runs of one length at one value. A value is left as soon as its verdict is certain.
    confidence
        Chance with which a verdict that counts as certain is right.
    scan
        Values at which the engine looks first, both ends of the bracket included.
    least_requests, most_requests : [requests]
        Shortest and longest run. Runs grow from the one to the other until the verdict half a
        bracket away from the crossing is certain with few replications. Runs that are shorter
        than the default say little about a steady state. A ``most_requests`` below
        ``least_requests`` is raised to it.

    Raises
    ------
    ConfigError
        Naming the first setting whose value is not allowed.
    """

    tolerance: float = 0.01
    replications: int = 16
    confidence: float = 0.95
    scan: int = 4
    least_requests: int = 20_000
    most_requests: int = 1_000_000

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ConfigError("tolerance", self.tolerance, "a number > 0 and < 1")
        _check_confidence(self.confidence)
        _check_whole(self, replications=3, scan=2, least_requests=100, most_requests=1)
        object.__setattr__(self, "most_requests", max(self.most_requests, self.least_requests))


@dataclass(frozen=True, slots=True)
class GoodputSettings:
    """What the search of two knobs may spend.

    Parameters
    ----------
    steps
        Values of each knob on the grid.
    confirmed
        Points of the grid that the engine runs first, the best of the fluid model.
    replications
        Runs of the engine at each point.
    requests : [requests]
        Length of each run.
    confidence
        Chance with which the interval of the lead over the second best holds the true lead.

    Raises
    ------
    ConfigError
        Naming the first setting whose value is not allowed.
    """

    steps: int = 9
    confirmed: int = 6
    replications: int = 5
    requests: int = 100_000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _check_confidence(self.confidence)
        _check_whole(self, steps=2, confirmed=1, replications=2, requests=100)


def _check_confidence(value: float) -> None:
    if not 0.5 <= value < 1:
        raise ConfigError("confidence", value, "a number >= 0.5 and < 1")


def _check_whole(settings: Any, **least: int) -> None:
    """Hold whole numbers to the least value that each may have."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value != value // 1 or value < smallest:
            raise ConfigError(name, value, f"a whole number >= {smallest}")
