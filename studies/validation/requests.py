"""What of a measured run an engine is given: its requests, with what the run does not say assumed.

Every assumption is a line that stands beside the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.measured_runs import MeasuredRun
from serving import FluidServeError, RequestTable
from serving.contents import Contents

NEIGHBOURS = 101
"""Requests, by arrival, whose times per token one is compared with."""

SLOWER = 1.25
"""Time per token, over that of the neighbours, from which a length is not believed."""

SLOWER_ALIKE = 1.06
"""The same where most answers have nearly one length, so that even a small doubt decides."""

ALIKE = 0.03
"""Share of the median length within which most answers then lie."""

ENOUGH = 30
"""Answers that stand for those of others."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The requests that an engine replays.

    Parameters
    ----------
    run
        The measured run; answers that were mended have their new lengths here too.
    table
        The requests in order of arrival.
    assumptions
        What the run does not say, one line each.
    max_concurrency
        Requests that the client has under way at most; None for an open loop.
    """

    run: MeasuredRun
    table: RequestTable
    assumptions: tuple[str, ...]
    max_concurrency: int | None = None


def replayed(run: MeasuredRun, *, mend_lengths: bool = False, seed: int = 42) -> Replayed:
    """Return the requests of a run as an engine takes them.

    Parameters
    ----------
    run
        The measured run.
    mend_lengths
        Give an answer whose time contradicts its length the usual length; see :func:`mended`.
    seed
        Of the lengths that are drawn for requests that failed.
    """
    assumptions = list(run.notes)
    if mend_lengths:
        run, said = mended(run)
        assumptions += said
    prompt, said = _prompts(run)
    assumptions += said
    output, said = _answers(run, np.random.default_rng(seed))
    assumptions += said
    aborts = None
    if run.waited is not None:
        aborts = run.arrival + np.where(run.succeeded, run.timeout, run.waited)
        assumptions.append(
            "clients give up when they did and, where they did not have to, after "
            f"{run.timeout:.4g} s, the median of those who did"
        )
    arrival = run.arrival
    if run.max_concurrency is not None:
        arrival = np.zeros(len(run))
        assumptions.append(
            f"the client sends the next request when one of {run.max_concurrency} has ended: when "
            "requests come is predicted too"
        )
    table = RequestTable.validated(
        arrival, prompt, output, abort_time=aborts, contents=_contents(run, prompt)
    )
    return Replayed(run, table, tuple(assumptions), run.max_concurrency)


def contradicted(run: MeasuredRun, slower: float = SLOWER) -> NDArray[np.bool_]:
    """Return whose time per token contradicts the counted tokens, shape (R,).

    Requests that decode side by side get their tokens in the same steps. Where one seems to have
    taken much longer per token, its answer had more tokens than were counted: lengths that a
    client gets by tokenising the text again are too short.
    """
    rows = np.flatnonzero(run.succeeded)
    tokens = np.maximum(run.output_tokens[rows] - 1, 1)
    each = (run.e2el - run.ttft)[rows] / tokens
    half = NEIGHBOURS // 2
    usual = np.array([np.median(each[max(0, k - half) : k + half + 1]) for k in range(rows.size)])
    found = np.zeros(len(run), bool)
    found[rows] = each > slower * usual
    return found


def mended(run: MeasuredRun) -> tuple[MeasuredRun, Sequence[str]]:
    """Return the run with the median length where a length is contradicted, and what was done."""
    wrong = contradicted(run)
    good = run.succeeded & ~wrong
    if not wrong.any():
        return run, ()
    usual, slower = int(np.median(run.output_tokens[good])), SLOWER
    if (np.abs(run.output_tokens[good] - usual) <= ALIKE * usual).mean() > 0.5:
        slower = SLOWER_ALIKE
        wrong = contradicted(run, slower)
    tokens = np.where(wrong, np.maximum(run.output_tokens, usual), run.output_tokens)
    changed = int((tokens != run.output_tokens).sum())
    said = (
        f"{changed} of {int(run.succeeded.sum())} answers took more than {slower:g} times as long "
        f"per counted token as those beside them: they are taken to have {usual} tokens, the "
        "median of the others"
    )
    return run.noted(output_tokens=tokens), (said,)


def _prompts(run: MeasuredRun) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Return the lengths of all prompts; unknown ones are those of the same prompt elsewhere."""
    prompt = run.prompt_tokens.copy()
    unknown = prompt < 1
    if not unknown.any():
        return prompt, ()
    usual = int(np.median(prompt[~unknown]))
    turn = np.arange(len(run)) % (run.prompts or len(run))
    for each in np.unique(turn[unknown]):
        same = turn == each
        known = prompt[same & ~unknown]
        prompt[same & unknown] = int(np.median(known)) if known.size else usual
    return prompt, [f"{int(unknown.sum())} prompts have no length in the run: that of the same "
                    "prompt of another request, or the median"]  # fmt: skip


def _answers(run: MeasuredRun, rng: np.random.Generator) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Return the lengths of all answers; of requests that failed they are drawn.

    They are drawn from the requests that came before the first that failed: later ones succeeded
    the more likely the shorter they are.
    """
    output, done = run.output_tokens.copy(), run.succeeded
    said = []
    if not done.all():
        first = int(np.argmin(done))
        before = output[:first] if first >= ENOUGH else output[done]
        unknown = ~done & (output < 1)
        output[unknown] = rng.choice(before, int(unknown.sum()))
        if unknown.any():
            said.append(
                f"{int(unknown.sum())} requests failed, with no length of an answer: it is drawn "
                f"from the {before.size} answers before the first of them"
            )
    return np.maximum(output, 1), said


def _contents(run: MeasuredRun, prompt: NDArray[np.int64]) -> Contents | None:
    """Return which prompts have tokens in common."""
    if run.prompts is None and not run.shared_prefix:
        return None
    if run.prompts is not None and run.prompts < 1:
        raise FluidServeError("the number of distinct prompts must be >= 1")
    turn = np.arange(len(run)) % (run.prompts or 1)
    shared = np.minimum(prompt, run.shared_prefix) if run.shared_prefix else prompt
    return Contents.validated(np.arange(len(run) + 1), turn + 1, shared)
