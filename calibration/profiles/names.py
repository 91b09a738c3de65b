"""A lookup finds the model and the card that a user's name means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from serving import FluidServeError

TUNED = {"instruct", "chat", "it", "base", "hf", "meta"}
"""Words that name a variant of the same shape."""

VENDOR = {"nvidia", "geforce", "tesla", "gpu"}
"""Words that every name of a card may have or not."""

FORM = re.compile(r"sxm\d?|hbm\d?e?")
"""Words for the socket and the memory that the cards of the table have."""

PART = re.compile(r"\d+x\d+b?|\d+(?:\.\d+)*b?|[a-z]+")
"""Part of a model's name: mixtures as 8x7b, versions and sizes as 3.1 and 70b, and words."""

MOST_HINTS = 3
"""Largest number of entries that an error asks about."""


def model_key(name: str) -> str:
    """Return the part that all names of one shape share: ``Llama-3.1-8B-Instruct`` is its base.

    Case, the publisher before a slash, and what stands between the parts do not count, so that
    ``llama3.1:8b`` is the same.
    """
    words = re.split(r"[^a-z0-9.]+", name.strip().strip("/").lower().rpartition("/")[2])
    kept = [word for word in words if word not in TUNED and not re.fullmatch(r"\d{4}", word)]
    return "-".join(part for word in kept for part in PART.findall(word))


def gpu_key(name: str) -> str:
    """Return a card's name without case, blanks, the vendor's words and the socket."""
    words = re.split(r"[^a-z0-9]+", name.lower().rpartition("/")[2])
    kept = "".join(word for word in words if not (word in VENDOR or FORM.fullmatch(word)))
    for word in VENDOR:
        kept = kept.removeprefix(word)
    return kept


def resolve(name: str, table: Mapping[str, Any], key: Callable[[str], str], flag: str) -> str:
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
    close = _close(wanted, known)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise FluidServeError(f"{flag} {name}: not known; {hint}known are: {', '.join(table)}")


def _close(wanted: str, known: Mapping[str, str]) -> list[str]:
    """Return the entries whose names hold all parts of a name, else the one most like it."""
    parts = set(wanted.split("-"))
    found = [entry for name, entry in known.items() if wanted and parts <= set(name.split("-"))]
    if not found:
        found = [known[each] for each in difflib.get_close_matches(wanted, known, 1, 0.6)]
    return list(dict.fromkeys(found))[:MOST_HINTS]
