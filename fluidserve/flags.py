"""The error about an option of the command line, which calls it by its flag."""

from __future__ import annotations

from serving import FluidServeError
from serving.errors import allowed_hint, shortened


class FlagError(FluidServeError):
    """An option has a value that is not allowed.

    Parameters
    ----------
    flag, value
        The option and what was given for it.
    allowed
        What would have been accepted, in words.
    """

    def __init__(self, flag: str, value: object, allowed: str) -> None:
        super().__init__(
            f"{flag} {shortened(str(value))}: not allowed; allowed: {allowed_hint(value, allowed)}"
        )
