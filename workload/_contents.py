"""Read what requests consist of, and when their clients give up, off the columns of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving import ConfigError, Contents, WorkloadError
from workload._clock import Clock
from workload._table import LARGEST_ID, Ragged, Table

CONTENT, ANSWER, ABORT = "content", "answer_content", "abort_time"
"""Optional columns of the project's own format."""

HASHES = "hash_ids"
"""Key of traces: an id per block of the prompt; equal ids are equal prefixes."""

CONTENT_KEYS = (CONTENT, ANSWER, ABORT, HASHES)

HASH_BLOCKS = (512, 16, 1024, 256, 128, 64, 32)
"""[tokens] Sizes of a block that is hashed, the likeliest first (Mooncake, Qwen-Bailian)."""

HASH_OPTION = "--hash-block-size"

_ID = r"\d{1,19}"
_PIECES = rf"(?:{_ID}:{_ID}(?: +{_ID}:{_ID})*+)?+"
_ONE, _ALL = re.compile(_PIECES, re.A), re.compile(rf"{_PIECES}(?:\n{_PIECES})*+", re.A)

PIECES_FORM = '"id:length id:length ...", whole numbers >= 1 and <= 10^18'


def check_hash_block(size: int | None) -> None:
    """Refuse a number of tokens per hash that is none.

    Raises
    ------
    ConfigError
        Saying what is allowed.
    """
    if size is not None and size < 1:
        raise ConfigError("hash_block_size", size, "a whole number >= 1")


def refuse_hash_block(table: Table, size: int | None) -> None:
    """Refuse a number of tokens per hash for a file without hashes.

    Raises
    ------
    WorkloadError
        If a number is given.
    """
    if size is not None:
        raise WorkloadError(
            f"{HASH_OPTION} {size} says how to read it; the file has none",
            path=table.path,
            column=HASHES,
        )


def own_contents(table: Table) -> Contents | None:
    """Return the contents that a file of the project's own format states; None for none.

    Raises
    ------
    WorkloadError
        Naming the first value that is wrong.
    """
    pieces = Ragged.of([0] * len(table), np.empty(0, np.int64))
    if CONTENT in table.columns:
        pieces = _pieces(table)
    answer = np.zeros(len(table), np.int64)
    if ANSWER in table.columns:
        answer = _answers(table)
    if not pieces.values.size and not answer.any():
        return None
    return Contents(
        pieces.first // 2,
        np.ascontiguousarray(pieces.values[::2]),
        np.ascontiguousarray(pieces.values[1::2]),
        answer,
    )


def _pieces(table: Table) -> Ragged:
    """Return ids and lengths of the pieces of each row in turn."""
    texts = table.texts(CONTENT)
    together = "\n".join(texts)
    if _ALL.fullmatch(together) is None:
        row = next(k for k, text in enumerate(texts) if _ONE.fullmatch(text) is None)
        raise _wrong(table, CONTENT, row, texts[row], PIECES_FORM)
    counts = [2 * text.count(":") for text in texts]
    plain = together.replace(":", " ")
    flat = np.empty(0, np.int64)
    if sum(counts):
        flat = np.fromstring(plain, dtype=np.int64, sep=" ")
    pieces = Ragged.of(counts, flat)
    wrong = (flat < 1) | (flat > LARGEST_ID)
    if wrong.any():
        row = int(np.searchsorted(pieces.first, int(np.argmax(wrong)), side="right")) - 1
        raise _wrong(table, CONTENT, row, texts[row], PIECES_FORM)
    return pieces


def _answers(table: Table) -> NDArray[np.int64]:
    """Return the content of each answer; 0 where the column is empty."""
    texts = table.texts(ANSWER)
    for row, text in enumerate(texts):
        if text and not (text.isascii() and text.isdigit() and int(text[:20]) <= LARGEST_ID):
            allowed = "a whole number >= 1 and <= 10^18, or nothing where nobody knows it"
            raise _wrong(table, ANSWER, row, text, allowed)
    return np.array([int(text or 0) for text in texts], dtype=np.int64)


def abort_times(table: Table, clock: Clock) -> NDArray[np.float64] | None:
    """Return when each client gives up, infinite where it does not; None without such a column.

    Parameters
    ----------
    table
        The file.
    clock
        How its times are read; the results are of the same clock.

    Raises
    ------
    WorkloadError
        Naming the first time that is none, or before the arrival.
    """
    if ABORT not in table.columns:
        return None
    texts = table.texts(ABORT)
    if clock.ticks is None:
        row = next((k for k, text in enumerate(texts) if text), None)
        if row is None:
            return None
        raise _wrong(table, ABORT, row, texts[row], "nothing where arrival_time holds dates")
    times = (np.array([_time(text) for text in texts]) - clock.origin) / clock.ticks
    wrong = ~(times >= clock.time)
    if wrong.any():
        row = int(np.argmax(wrong))
        allowed = "a time >= arrival_time, or nothing where the client does not give up"
        raise _wrong(table, ABORT, row, texts[row], allowed)
    return times


def _time(text: str) -> float:
    """Return a time; infinity for nothing, not a number for what is none."""
    if not text:
        return np.inf
    try:
        value = float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def hashed_contents(
    table: Table, prompt: NDArray[np.float64], size: int | None
) -> tuple[Contents | None, tuple[str, ...]]:
    """Return the contents that ids of hashed blocks tell of, and what to say about them.

    Parameters
    ----------
    table
        The file.
    prompt : shape (R,) [tokens]
        Lengths of the prompts.
    size : [tokens]
        Tokens per id; where None, the likeliest size that the numbers of ids fit.

    Raises
    ------
    WorkloadError
        Naming the first row that holds no list of ids.
    """
    if HASHES not in table.columns:
        refuse_hash_block(table, size)
        return None, ()
    lists = table.id_lists(HASHES)
    if not lists.values.size:
        return None, ()
    tokens = prompt.astype(np.int64)
    sizes = HASH_BLOCKS if size is None else (size,)
    misfits = [_misfits(lists.counts, tokens, each) for each in sizes]
    fewest = min(misfits)
    block = sizes[misfits.index(fewest)]
    notes = ()
    if fewest:
        notes = (
            f"{table.path}: {HASHES} is read as an id per {block} tokens, which does not give the "
            f"prompt length in {fewest} of {np.count_nonzero(lists.counts)} rows; {HASH_OPTION} "
            "says another size",
        )
    row = np.repeat(np.arange(len(table)), lists.counts)
    before = (np.arange(lists.values.size) - lists.first[row]) * block
    length = np.minimum(block, tokens[row] - before)
    kept = length >= 1
    count = np.bincount(row[kept], minlength=len(table))
    first = np.concatenate(([0], np.cumsum(count)))
    unknown = np.zeros(len(table), np.int64)
    return Contents.validated(first, lists.values[kept] + 1, length[kept], unknown), notes


def _misfits(count: NDArray[np.int64], tokens: NDArray[np.int64], block: int) -> int:
    """Return how many rows have ids, but not one per block; the last block may be left out."""
    fits = (count >= tokens // block) & (count <= -(-tokens // block))
    return int(np.count_nonzero((count > 0) & ~fits))


def _wrong(table: Table, column: str, row: int, value: str, allowed: str) -> WorkloadError:
    return WorkloadError(
        f"allowed: {allowed}", path=table.path, row=row + 1, column=column, value=value
    )


def pieces_text(contents: Contents) -> Sequence[str]:
    """Return the pieces of each request as the column ``content`` has them."""
    pairs = [
        f"{one}:{length}"
        for one, length in zip(
            contents.piece_id.tolist(), contents.piece_length.tolist(), strict=True
        )
    ]
    return [" ".join(pairs[a:b]) for a, b in pairwise(contents.first.tolist())]
