"""The JSON documents of a file: one, several one after the other, or one a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import WorkloadError

BLANKS = re.compile(r"\s*")
"""Blanks and line ends between two documents."""

MOST_SHOWN = 6
"""Number of results that an error lists."""


def parse_documents(text: str, path: Path) -> list[Any]:
    """Return the documents of a file of JSON, in order; a later check refuses ``NaN``.

    Raises
    ------
    WorkloadError
        Naming the line that is not JSON.
    """
    decoder, found, at = json.JSONDecoder(), [], _content(text, 0)
    try:
        while at < len(text):
            content, at = decoder.raw_decode(text, at)
            found.append(content)
            at = _content(text, at)
    except json.JSONDecodeError as error:
        raise WorkloadError(f"not JSON: {error.msg}", path=path, row=error.lineno) from None
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, 3,000 brackets
        reason = "too deep" if isinstance(error, RecursionError) else "a number is too long"
        row = text.count("\n", 0, at) + 1
        raise WorkloadError(f"not JSON that can be read: {reason}", path=path, row=row) from None
    return found


def _content(text: str, at: int) -> int:
    """Return where the next document begins: documents stand apart by blanks."""
    found = BLANKS.match(text, at)
    return at if found is None else found.end()


def choose(described: Sequence[str], result: int | None, path: Path, what: str) -> int:
    """Return the index of the result to take, of those of a file.

    Parameters
    ----------
    described
        Each result in a few words, in the order of the file.
    result
        Number of the one to take, from 1; None is enough where there is one.
    path
        Name of the file, for messages.
    what
        What a file holds several of, such as ``results of vllm bench serve``.

    Raises
    ------
    WorkloadError
        Listing the results, where several are there and none or one out of range is chosen.
    """
    count = len(described)
    if result is not None and not 1 <= result <= count:
        raise WorkloadError(f"holds {count} {what}; --result {result} is none of them", path=path)
    if result is None and count > 1:
        shown = [f"{at}: {words}" for at, words in enumerate(described[:MOST_SHOWN], start=1)]
        more = f", ... {count - MOST_SHOWN} more" if count > MOST_SHOWN else ""
        raise WorkloadError(
            f"holds {count} {what}; choose one with --result ({'; '.join(shown)}{more})", path=path
        )
    return 0 if result is None else result - 1


def number(value: Any, path: Path, row: int, key: str) -> float:
    """Return a value of a JSON document as a finite number.

    Raises
    ------
    WorkloadError
        Naming row, key and value.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = np.inf
        if np.isfinite(found):
            return found
    raise WorkloadError("allowed: a finite number", path=path, row=row, column=key, value=value)


def numbers(
    values: Any, key: str, path: Path, *, row: int | None = None, allowed_from: float | None = None
) -> NDArray[np.float64]:
    """Return a JSON list as finite numbers; refuse any other value by name."""
    if not isinstance(values, list):
        raise WorkloadError("allowed: a list of numbers", path=path, row=row, column=key)
    out = np.array([_plain(value) for value in values], dtype=np.float64)
    wrong = ~np.isfinite(out) if allowed_from is None else ~(out >= allowed_from) | np.isinf(out)
    if wrong.any():
        at = int(np.argmax(wrong))
        words = "allowed: a finite number" + ("" if allowed_from is None else f" >= {allowed_from}")
        raise WorkloadError(
            words, path=path, row=at + 1 if row is None else row, column=key, value=values[at]
        )
    return out


def _plain(value: Any) -> float:
    """Return a JSON number as a float; NaN for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf
