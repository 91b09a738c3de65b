"""The chunks of a streamed output: which are tokens, and where a request paused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.server_runs.requests import RequestLog

AT_ONCE = 0.05
"""Time between two chunks, over the median of these times, below which they came as one."""

MOST_PER_CHUNK = 128
"""Largest number of tokens of a chunk that a regular stream is sought for."""

NOT_SOONER = 0.85
"""Time before the last chunk, over the one before others, from which on the last chunk is full."""

ALL = 0.98
"""Share of the requests whose numbers of chunks a regular stream must explain."""

BUNDLED = 0.005
"""Largest share of tokens without a chunk of their own at which chunks still tell the batches."""


def bundled_share(log: RequestLog) -> float:
    """Return the share of the tokens after the first that came in no chunk of their own.

    A chunk of several tokens, and several chunks at one moment, hide batches. So do more chunks
    than tokens: then the lengths of the file are not what the server made.
    """
    if log.inter_token is None:
        return 0.0
    tokens = log.output_tokens - 1
    gaps = np.concatenate(log.inter_token)
    usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.0
    apart = np.array([np.count_nonzero(each > AT_ONCE * usual) for each in log.inter_token])
    return float(np.abs(tokens - apart).sum() / max(tokens.sum(), 1.0))


def between_chunks(log: RequestLog) -> RequestLog:
    """Return a log of bundled tokens with the batches that lie between first and last chunk.

    A server that streams every k tokens sends the first token first, or k tokens; it sends the
    rest when the request finishes, or not in a chunk of its own. The numbers of chunks of all
    requests tell which, and so how many batches lie between the first and the last chunk. What a
    request decoded outside counts as prompt, or not at all: less than k tokens of each. Of an
    irregular stream, first and last chunk are taken for first and last token.
    """
    if log.inter_token is None:
        return log
    plain = replace(log, inter_token=None)
    every, way = _regular(log)
    if every is None or way == FIRST:
        return plain
    if way == FULL:
        ahead = np.minimum(every, log.output_tokens) - 1
        return replace(
            plain,
            prompt_tokens=log.prompt_tokens + ahead,
            output_tokens=log.output_tokens - ahead,
        )
    gaps = np.array([each.size for each in log.inter_token])
    seen = np.where(log.output_tokens > every, 1.0 + every * gaps, log.output_tokens)
    return replace(plain, output_tokens=seen)


FIRST, FULL, WITHOUT_REST = "first token first", "k tokens first", "without the rest"
"""Ways in which a server streams every k tokens."""


def _regular(log: RequestLog) -> tuple[int | None, str]:
    """Return every how many tokens a server streams and in which way; None where it varies."""
    chunks = log.inter_token or ()
    gaps, tokens = np.array([each.size for each in chunks]), log.output_tokens
    best, chosen = ALL, (None, "")
    for every in range(2, MOST_PER_CHUNK + 1):
        long = tokens > 2 * every
        if not long.any():
            break
        ways = {FIRST: np.ceil((tokens - 1) / every), FULL: np.ceil(tokens / every) - 1}
        for way, expected in ways.items():
            share = float(np.mean(gaps[long] == expected[long]))
            if share > best:
                best, chosen = share, (every, way)
    every, way = chosen
    if every is None or way == FIRST:
        return chosen
    # A last chunk of what is left comes sooner than a full one.
    last = [each[-1] / np.median(each[:-1]) for each in chunks if each.size > 1 and each[:-1].all()]
    return every, WITHOUT_REST if last and np.mean(np.minimum(last, 2)) > NOT_SOONER else FULL


@dataclass(frozen=True, slots=True, eq=False)
class Pauses:
    """Requests paused between two of their tokens while others went on: the server preempted.

    Parameters
    ----------
    begin, end : shape (P,) [s]
        The two tokens.
    context : shape (P,) [tokens]
        Tokens that the request held, which the server computes again before the second.
    """

    begin: NDArray[np.float64]
    end: NDArray[np.float64]
    context: NDArray[np.float64]


def pauses(log: RequestLog) -> Pauses:
    """Return the pauses of a log with token times."""
    gaps = log.inter_token or ()
    sizes = np.array([each.size for each in gaps], dtype=int)
    every = np.concatenate(gaps) if sizes.sum() else np.zeros(0)
    if not (every > 0).any():
        return Pauses(*np.zeros((3, 0)))
    shift = 0.5 * float(np.median(every[every > 0]))
    end = np.concatenate(
        [first + np.cumsum(each) for first, each in zip(log.first_token, gaps, strict=True)]
    )
    nth = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    times = np.sort(np.concatenate([log.first_token, end]))
    paused = others_inside(times, end - every, end, shift)
    context = np.repeat(log.prompt_tokens, sizes) + nth + 1
    return Pauses((end - every)[paused], end[paused], context[paused])


def others_inside(
    times: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64], shift: float
) -> NDArray[np.bool_]:
    """Return whether tokens came well inside each interval: it then holds several batches."""
    margin = np.maximum(shift, (end - begin) / 4)
    return np.searchsorted(times, end - margin) > np.searchsorted(times, begin + margin)
