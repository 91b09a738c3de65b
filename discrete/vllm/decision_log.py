"""The decision log: a CSV file with one row per schedule() call, written while the engine runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discrete.vllm.layout import DECISION, STEP
from serving.compilation import compiled
from serving.csv_text import csv_pieces
from serving.errors import FileAccessError

SPACE, COLON = 32, 58

DECIDED = (
    ("preempted", 1),
    ("swapped_out", 1),
    ("swapped_in", 1),
    ("scheduled", 2),
    ("hits", 2),
    ("ignored", 1),
    ("waiting_ids", 1),
    ("running_ids", 1),
    ("swapped_ids", 1),
)
"""Lists of a decision in the order in which the kernel writes them, and numbers per entry."""

APPLIED = (("aborted", 1), ("drafts", 3), ("finished", 1))
"""Lists of what a step brought, likewise."""


@compiled
def _texts(numbers, starts, counts, width, text, ends):
    """Write each list as text: entries of ``width`` numbers with colons, parted by spaces.

    ``ends`` gets where each list ends in ``text``; the length of all is returned.
    """
    at = 0
    digits = np.empty(20, np.uint8)
    for row in range(starts.size):
        for entry in range(counts[row]):
            if entry:
                text[at] = SPACE
                at += 1
            for part in range(width):
                if part:
                    text[at] = COLON
                    at += 1
                value, size = numbers[starts[row] + entry * width + part], 0
                while size == 0 or value > 0:
                    digits[size] = 48 + value % 10
                    value //= 10
                    size += 1
                while size:
                    size -= 1
                    text[at] = digits[size]
                    at += 1
        ends[row] = at
    return at


def lists_as_text(
    numbers: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], width: int
) -> NDArray:
    """Return each list of numbers as a word, shape (L,)."""
    text = np.empty(int(counts.sum()) * width * 20 + 1, np.uint8)
    ends = np.zeros(starts.size, np.int64)
    whole = bytes(text[: _texts(numbers, starts, counts, width, text, ends)]).decode()
    first = np.append(0, ends)[:-1]  # of no list, none
    return np.array(
        [whole[a:b] for a, b in zip(first.tolist(), ends.tolist(), strict=True)], object
    )


class DecisionLog:
    """Writes decisions as they come, so that memory stays bounded.

    Parameters
    ----------
    path
        The file; it is begun anew.
    extended
        Whether to write the columns of the V1 extensions.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """

    def __init__(self, path: str | Path, *, extended: bool = False) -> None:
        self._path, self._extended, self._rows = Path(path), extended, 0
        listed = {name: np.empty(0, object) for name, _ in (*DECIDED, *APPLIED)}
        columns = self._columns(np.empty(0, STEP), np.empty(0, DECISION), listed)
        self._write(b"".join(csv_pieces(columns)), "wb")

    def _write(self, text: bytes, mode: str) -> None:
        try:
            with self._path.open(mode) as file:
                file.write(text)
        except OSError as error:
            reason = error.strerror or "cannot be written"
            raise FileAccessError(f"{self._path}: cannot be written: {reason}") from error

    def take(
        self,
        rows: NDArray,
        decisions: NDArray,
        words: NDArray[np.int64],
        outcomes: NDArray[np.int64],
    ) -> tuple[int, int]:
        """Write the steps of some rows; return how many words and outcomes they took.

        Parameters
        ----------
        rows, decisions : shape (N,)
            Rows of ``STEP`` and of ``DECISION`` for the same schedule() calls.
        words, outcomes
            Their lists, from the first on.
        """
        listed, taken = {}, []
        for lists, numbers in ((DECIDED, words), (APPLIED, outcomes)):
            at = np.zeros(decisions.size, np.int64)
            sizes = sum(decisions[name] * width for name, width in lists)
            start = np.concatenate([[0], np.cumsum(sizes)])
            taken.append(int(start[-1]))
            for name, width in lists:
                counts = decisions[name].astype(np.int64)
                listed[name] = lists_as_text(numbers, start[:-1] + at, counts, width)
                at += counts * width
        if decisions.size:
            columns = self._columns(rows, decisions, listed)
            self._write(b"".join(list(csv_pieces(columns))[1:]), "ab")
            self._rows += decisions.size
        return taken[0], taken[1]

    def _columns(
        self, rows: NDArray, decisions: NDArray, listed: dict[str, NDArray]
    ) -> dict[str, NDArray]:
        columns = {
            "it": np.arange(self._rows, self._rows + rows.size),
            "t_start": rows["start"],
            "dur": rows["duration"],
            "t_end": rows["end"],
            "waiting": rows["waiting"],
            "running": rows["running"],
            "swapped": rows["swapped"],
            "n_sched": rows["size"],
            "n_prefill_seqs": rows["prefills"],
            "prefill_tokens": rows["prefill_tokens"],
            "decode_tokens": rows["decode_tokens"],
            "tokens": rows["prefill_tokens"] + rows["decode_tokens"],
            "context": rows["context"],
            "blocks_used": rows["blocks"],
            "cpu_blocks_used": rows["cpu_blocks"],
            "preempted": listed["preempted"],
            "swapped_out": listed["swapped_out"],
            "swapped_in": listed["swapped_in"],
            "n_blk_out": decisions["blocks_out"],
            "n_blk_in": decisions["blocks_in"],
            "sched_ids": listed["scheduled"],
            "finished": listed["finished"],
            "ignored": listed["ignored"],
            "q_waiting": listed["waiting_ids"],
            "q_running": listed["running_ids"],
            "q_swapped": listed["swapped_ids"],
        }
        if self._extended:
            columns |= {
                "t_sched": rows["scheduled"],
                "aborted": listed["aborted"],
                "hits": listed["hits"],
                "drafts": listed["drafts"],
                "n_hashes": decisions["hashes"],
                "n_evicted": decisions["evictions"],
                "pool_crc": decisions["crc"],
            }
        return columns
