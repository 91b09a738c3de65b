"""A lookup finds the model and the card that a user's name means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from serving import FluidServeError

TUNED = {"instruct", "chat", "it", "base", "hf", "meta"}
"""Words that name a variant of the same shape."""


def model_key(name: str) -> str:
    """Return the part that all names of one shape share: ``Llama-3.1-8B-Instruct`` is its base."""
    words = re.split(r"[-_\s]+", name.strip().lower().rpartition("/")[2])
    return "-".join(
        word for word in words if word not in TUNED and not re.fullmatch(r"\d{4}", word)
    )


def gpu_key(name: str) -> str:
    """Return a card's name without case, blanks and the vendor's words."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain.removeprefix("nvidia").removeprefix("geforce")


def resolve(name: str, table: Mapping[str, Any], key: Any, flag: str) -> str:
    """Return the entry that a name means.

    Raises
    ------
    FluidServeError
        Naming the flag, the name, the closest known and all that exist.
    """
    known = {}
    for entry, value in table.items():
        for each in (entry, *value.aliases):
            known[key(each)] = entry
    wanted = key(name)
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, 1, 0.6)
    hint = f"did you mean {known[close[0]]}? " if close else ""
    raise FluidServeError(f"{flag} {name}: not known; {hint}known are: {', '.join(table)}")
