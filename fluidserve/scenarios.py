"""Offer each named scenario as a function that returns a request table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving import RequestTable


def normal(**options: Any) -> RequestTable:
    """Return Poisson arrivals, 80 % short and 20 % long (options of ``workload.generate``)."""
    from workload import generate

    return generate("normal", **options)


def heavy(**options: Any) -> RequestTable:
    """Return requests that are longer and arrive four times as often as in ``normal``."""
    from workload import generate

    return generate("heavy", **options)


def bursty(**options: Any) -> RequestTable:
    """Return the lengths of ``normal`` in bursts: 20 time units at 4x the rate, 80 at 1/4."""
    from workload import generate

    return generate("bursty", **options)
