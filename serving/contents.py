"""What requests consist of: which tokens of a prompt or an answer are those of another request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.errors import WorkloadError

UNKNOWN = 0
"""Content id of an answer that nobody knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The contents of R requests. Build it with :meth:`validated`.

    A prompt is a row of pieces. A piece is the beginning of a content: two pieces with the same id
    begin with the same tokens. Tokens of the prompt beyond its pieces are those of this request
    alone; pieces beyond the prompt are cut off.

    Parameters
    ----------
    first : shape (R + 1,)
        Request r has the pieces ``first[r]`` to ``first[r + 1] - 1``.
    piece_id : shape (P,)
        Content that the piece is the beginning of, >= 1.
    piece_length : shape (P,) [tokens]
        >= 1.
    answer : shape (R,)
        Content of the answer, which a later prompt may repeat; 0 where nobody knows it.
    """

    first: NDArray[np.int64]
    piece_id: NDArray[np.int64]
    piece_length: NDArray[np.int64]
    answer: NDArray[np.int64]

    @classmethod
    def validated(
        cls,
        first: ArrayLike,
        piece_id: ArrayLike,
        piece_length: ArrayLike,
        answer: ArrayLike | None = None,
    ) -> Contents:
        """Check every value.

        Raises
        ------
        WorkloadError
            Naming the request (from 1), what is wrong and what is allowed.
        """
        offsets = _whole("the first pieces of contents", first)
        ids, lengths = _whole("content", piece_id), _whole("length of content", piece_length)
        if ids.shape != lengths.shape:
            raise WorkloadError("contents have as many ids as lengths")
        if offsets.size < 1 or offsets[0] != 0 or offsets[-1] != ids.size:
            raise WorkloadError(f"the first pieces of contents begin at 0 and end at {ids.size}")
        if (np.diff(offsets) < 0).any():
            raise WorkloadError("the first pieces of contents never decrease")
        size = offsets.size - 1
        answers = np.zeros(size, np.int64) if answer is None else _whole("answer_content", answer)
        if answers.size != size:
            raise WorkloadError(f"has {answers.size} values for {size} requests",
                                column="answer_content")  # fmt: skip
        for name, values in (("content", ids), ("length of content", lengths)):
            if (values < 1).any():
                at = int(np.argmax(values < 1))
                row = int(np.searchsorted(offsets, at, side="right"))
                raise WorkloadError("allowed: a whole number >= 1", row=row, column=name,
                                    value=int(values[at]))  # fmt: skip
        if (answers < 0).any():
            at = int(np.argmax(answers < 0))
            raise WorkloadError("allowed: a whole number >= 1, or 0 where it is unknown",
                                row=at + 1, column="answer_content",
                                value=int(answers[at]))  # fmt: skip
        return cls(offsets, ids, lengths, answers)

    @classmethod
    def none(cls, requests: int) -> Contents:
        """Return the contents of requests that share nothing."""
        nothing = np.empty(0, np.int64)
        return cls(np.zeros(requests + 1, np.int64), nothing, nothing, np.zeros(requests, np.int64))

    def __len__(self) -> int:
        return self.answer.size

    def take(self, rows: NDArray) -> Contents:
        """Return the contents of ``rows`` (indices or a mask), in their order."""
        rows = np.arange(len(self))[rows]
        count = self.first[rows + 1] - self.first[rows]
        first = np.concatenate(([0], np.cumsum(count)))
        piece = np.arange(first[-1]) + np.repeat(self.first[rows] - first[:-1], count)
        return Contents(first, self.piece_id[piece], self.piece_length[piece], self.answer[rows])

    def apart(self, group: NDArray[np.int64]) -> Contents:
        """Return contents of which requests of different groups, from 0 on, share none.

        Parameters
        ----------
        group : shape (R,)
            Group of each request.
        """
        both = np.concatenate([self.piece_id, self.answer])
        known, number = np.unique(both, return_inverse=True)
        owner = np.concatenate([np.repeat(group, np.diff(self.first)), group])
        named = np.where(both == UNKNOWN, UNKNOWN, 1 + number + owner * known.size)
        pieces = self.piece_id.size
        return replace(self, piece_id=named[:pieces], answer=named[pieces:])

    def joined(self, others: Contents | Sequence[Contents]) -> Contents:
        """Return these contents and those of others after them; equal ids are equal contents."""
        parts = (self, *((others,) if isinstance(others, Contents) else others))
        sizes = np.cumsum([0, *(each.piece_id.size for each in parts)])
        starts = [each.first[:-1] + size for each, size in zip(parts, sizes[:-1], strict=True)]
        return Contents(
            np.concatenate([*starts, sizes[-1:]]),
            *(
                np.concatenate([getattr(each, name) for each in parts])
                for name in ("piece_id", "piece_length", "answer")
            ),
        )


def _whole(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """Return a list of whole numbers."""
    array = np.asarray(values)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array > 2**63 - 1).any():
        raise WorkloadError(f"allowed: a list of whole numbers up to {2**63 - 1}", column=name)
    return np.ascontiguousarray(array, dtype=np.int64)
