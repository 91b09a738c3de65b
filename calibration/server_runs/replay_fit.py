"""An engine that decides like the server says what was in the batches of a client's log."""

from __future__ import annotations

import numpy as np

from calibration.server_runs.fitted import Fitted
from calibration.server_runs.law import Coefficients, design, fit_law
from calibration.server_runs.notes import notes_of_replay
from calibration.server_runs.reconstruction import (
    Replay,
    Replayed,
    reconstruct,
    rows_of_replayed,
)
from calibration.server_runs.request_rows import tells_tokens
from calibration.server_runs.requests import RequestLog
from calibration.server_runs.token_rows import Computed, rows_of_tokens
from serving import BatchTimeLaw, WorkloadError

ENOUGH = 0.5
"""Share of the tokens in their steps from which on the steps that agree are fitted to."""

ROUNDS = 12
"""Largest number of replays, each under the law of the one before, of a log without token times."""

SETTLED = 1e-3
"""Mean relative change of the batch times by a round that ends the replays."""

UNEXPLAINED = 0.12
"""Mean relative error of a law on the requests beyond which the run has none."""


def fit_by_replay(
    log: RequestLog, replay: Replay, start: Coefficients, *, budget: int | None, steps_per_row: int
) -> Fitted:
    """Return the law of a server from the results of its client and an engine that decides like it.

    Where every token has a time, the engine reconstructs what each step held. Else, or where it
    does not (nobody knows what the requests consist of, or what the cache held at the start), it
    runs freely under the present law and tells what that leaves open.

    Parameters
    ----------
    log
        Requests of the run.
    replay
        The engine.
    start
        Law of a fit that knows no engine.
    budget : [tokens]
        ``max_num_batched_tokens``.
    steps_per_row
        Batches that one row averages.

    Raises
    ------
    WorkloadError
        If no law describes the requests.
    """
    if not tells_tokens(log, steps_per_row):
        return _settled(log, replay, start)
    found = reconstruct(log, replay, steps_per_row)
    if found.share >= ENOUGH:
        return Fitted(
            "requests with token times, reconstructed", found.rows, fit_law(found.rows),
            token_budget=budget, reconstructed=found.share, of_everyone=True,
            notes=notes_of_replay(log, found.replayed, found.share),
        )  # fmt: skip
    free = replay(log.arrival, law_of(start))
    rows = rows_of_tokens(
        log, log.inter_token or (), steps_per_row=steps_per_row, token_budget=budget,
        remote_prefill=False, computed=computed_by(log, free),
    )  # fmt: skip
    return Fitted(
        "requests with token times, replayed", rows, fit_law(rows), token_budget=budget,
        reconstructed=found.share, notes=notes_of_replay(log, free, found.share),
    )  # fmt: skip


def _settled(log: RequestLog, replay: Replay, start: Coefficients) -> Fitted:
    """Return the law under which the engine's batches take as long as the server's."""
    law = start
    for _ in range(ROUNDS):
        replayed = replay(log.arrival, law_of(law))
        rows = rows_of_replayed(log, replayed)
        fit = fit_law(rows)
        before = design(rows) @ np.array(law)
        law = fit.known()
        if np.mean(np.abs(fit.predict(rows) / np.maximum(before, 1e-12) - 1)) < SETTLED:
            break
    error = float(np.mean(np.abs(fit.predict(rows) / rows.step_time - 1)))
    if error > UNEXPLAINED:
        raise WorkloadError(
            f"no law describes the batches: replayed under its own law, the engine misses the mean "
            f"batch times of the requests by {error:.0%}. Are the settings those of the server?"
        )
    return Fitted(
        "requests, replayed", rows, fit, of_everyone=True,
        notes=notes_of_replay(log, replayed, None),
    )  # fmt: skip


def law_of(known: Coefficients) -> BatchTimeLaw:
    """Return the law of some coefficients for an engine; it has no other terms."""
    return BatchTimeLaw(**known._asdict())


def computed_by(log: RequestLog, replayed: Replayed) -> Computed:
    """Return what the prefix cache of an engine left to compute.

    A preempted request finds most of what it held when it comes back. Its hits are not told apart
    from those of its first admission, which are taken as those of the others.
    """
    came_back = replayed.preemptions > 0
    others = ~came_back
    sent = float(log.prompt_tokens[others].sum())
    found = float(replayed.cached[others].sum()) / sent if sent > 0 else 0.0
    first = np.where(came_back, found * log.prompt_tokens, replayed.cached)
    again = float(replayed.recomputed[came_back].sum())
    hits = float(np.maximum(replayed.cached - first, 0.0)[came_back].sum())
    prompt = np.maximum(log.prompt_tokens - first, 1.0)
    return Computed(prompt, again / (again + hits) if again + hits > 0 else 1.0)
