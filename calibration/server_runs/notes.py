"""What a user of a fitted law must know, in sentences."""

from __future__ import annotations

import numpy as np

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.chunks import BUNDLED, bundled_share, pauses
from calibration.server_runs.drift import MATTERS, Drift
from calibration.server_runs.iteration_rows import MANY_GAPS, Gap, drafts
from calibration.server_runs.iterations import IterationLog
from calibration.server_runs.law import LawFit
from calibration.server_runs.metric_rows import PARTLY_IDLE
from calibration.server_runs.metrics import MetricsLog
from calibration.server_runs.reconstruction import Replayed
from calibration.server_runs.request_rows import tells_tokens
from calibration.server_runs.requests import RequestLog

SAME = 0.95
"""Share of the tokens in their steps from which on an engine did what the server did."""

COLLINEAR = 30.0
"""Condition number beyond which the rows do not tell the coefficients apart."""

OFTEN_IDLE = 0.3
"""Share of the intervals at whose ends nothing runs from which on others may be idle inside."""

WANDERS = 0.05
"""Difference between the batch times of two parts of a run from which on it is said."""


def notes_of(
    rows: BatchRows, law: LawFit, moved: Drift | None, *, remote_prefill: bool
) -> tuple[str, ...]:
    """Return the cautions that the rows and the fit call for."""
    said = []
    if rows.kv_tokens is None:
        said.append(
            "KV in tokens is not in the metrics: d_kv is not fitted, d_decode carries its mean; "
            "scrape vllm:kv_cache_usage_perc or the request token histograms"
        )
    if rows.kv_is_share:
        said.append(
            "the KV cache is known as a share only: d_kv_times_capacity is time per full cache; "
            "give --kv-capacity"
        )
    if not rows.prefill_tokens.any() and not remote_prefill:
        said.append("no prompt was computed while anything decoded: d_prefill is not told")
    if law.condition > COLLINEAR:
        said.append(
            f"batch contents move together (condition {law.condition:.0f}): trust predictions in "
            "the range of this run rather than each coefficient"
        )
    if moved is not None and not moved.drifting and moved.wander > max(WANDERS, MATTERS):
        said.append(
            f"batch times wander: parts of the run differ by up to {moved.wander:.0%} from one "
            "another without a steady trend (other work on the machine, or content that the law "
            "does not know)"
        )
    return tuple(said)


def notes_of_requests(
    log: RequestLog, steps_per_row: int, *, remote_prefill: bool
) -> tuple[str, ...]:
    """Return the cautions that the results of requests call for."""
    said: list[str] = []
    bundled = bundled_share(log)
    if log.inter_token is not None and bundled > BUNDLED:
        said.append(
            f"{bundled:.0%} of the tokens came in no chunk of their own, so that chunks are not "
            "batches: the fit uses the first and the last token of each request and the token "
            "counts of the file (if the server makes several tokens in a batch, as speculative "
            "decoding does, the law is per token and not per batch)"
        )
    if not tells_tokens(log, steps_per_row):
        said.append(
            "without token times each request is one mean over its decode phase: give "
            "--save-detailed results for sharper coefficients"
        )
    elif paused := pauses(log).begin.size:
        said.append(
            f"{paused} times a request got no token while others did (the server preempted it, or "
            "a client stalled): its context is taken as computed again"
        )
    if not remote_prefill:
        said.append(
            "clients do not see which prompt tokens the prefix cache had: d_prefill is per prompt "
            "token sent, and too small for tokens computed where the server caches prefixes"
        )
    return tuple(said)


def notes_of_replay(log: RequestLog, replayed: Replayed, share: float | None) -> tuple[str, ...]:
    """Return what a replay on an engine says of a run.

    Parameters
    ----------
    log
        The run.
    replayed
        What the engine did.
    share
        Tokens that came in the step in which the client saw them; None where clients say no times.
    """
    sent = float(log.prompt_tokens.sum())
    did = (
        f"it preempted {replayed.preemptions.sum():.0f} times, found "
        f"{replayed.cached.sum():.0f} of {sent:.0f} prompt tokens in its prefix cache, and "
        f"computed {replayed.recomputed.sum():.0f} again"
    )
    if not replayed.cached[replayed.preemptions == 0].any():
        did += (
            " (no request shares anything as far as is known: where the server's cache had some "
            "of a prompt, d_prefill is too small)"
        )
    if share is None:
        return (f"what batches held is that of the engine under the fitted law: {did}",)
    if share >= SAME:
        return (f"the engine gives {share:.1%} of the tokens in the step in which the client saw "
                f"them, so it decided what the server did: {did}",)  # fmt: skip
    return (
        f"the engine gives only {share:.0%} of the tokens in the step in which the client saw "
        "them (nobody knows what requests consist of, or what the cache held before, or the "
        f"settings are others); run freely, {did}",
    )


def note_of_paused(paused: int, total: int) -> str:
    """Return what is said of requests that took longer than their batches."""
    return (
        f"{paused} of {total} requests took longer between their first and last token than their "
        "batches (the server preempted them, or stalled): they are left out; what it computed "
        "again is in no file"
    )


def notes_of_metrics(log: MetricsLog, rows: BatchRows, *, remote_prefill: bool) -> tuple[str, ...]:
    """Return the cautions that the metrics of a server call for."""
    said = list(log.notes)
    cached = _grown(log.cached_prompt_tokens)
    if log.computed_prompt_tokens is not None:
        cached = _grown(log.prompt_tokens) - _grown(log.computed_prompt_tokens)
    prompts = _grown(log.prompt_tokens)
    if not remote_prefill and prompts:
        if log.cached_prompt_tokens is None and log.computed_prompt_tokens is None:
            said.append(
                "the metrics do not tell which prompt tokens the prefix cache had: d_prefill is "
                "per prompt token; scrape vllm:prompt_tokens_by_source_total"
            )
        elif cached > 0:
            said.append(
                f"{cached / prompts:.0%} of the prompt tokens were in the prefix cache: d_prefill "
                "is per token computed"
            )
    if cached > 0 and log.finished_prompt_tokens is None and log.kv_usage is not None:
        said.append(
            "requests share KV, and the share in use counts it once: KV per batch is too small and "
            "d_kv too large; scrape vllm:request_prompt_tokens and vllm:request_generation_tokens"
        )
    elif log.block_size is None and log.kv_usage is not None and rows.kv_tokens is not None:
        if log.finished_prompt_tokens is None:
            said.append(
                "the share of KV in use counts whole blocks, whose size is not told: KV per batch "
                "is too large by about half a block per request"
            )
    idle = rows.dropped.get(PARTLY_IDLE, 0)
    if idle > OFTEN_IDLE * (idle + len(rows)):
        said.append(
            f"at the begin or end of {idle} of {idle + len(rows)} intervals nothing ran: the "
            "others may hold idle times too, which make batch times too long; scrape more often, "
            "or calibrate on a busier run"
        )
    preempted = _grown(log.preemptions)
    if preempted:
        said.append(
            f"{preempted:.0f} preemptions: what the server computed again is in no counter, so "
            "d_prefill and d_0 may be too large"
        )
    return tuple(said)


def notes_of_iterations(
    log: IterationLog, gap: Gap | None, rows: BatchRows, block_size: float | None
) -> tuple[str, ...]:
    """Return the cautions that the iterations of a server call for."""
    said = []
    if gap is None:
        said.append(
            "the clock of the log does not tell the time between steps, which elapsed times leave "
            "out: d_0 is too small by it (give a longer log whose lines have the time of day)"
        )
    else:
        said.append(
            f"elapsed times leave out the time between steps, {gap.share:.0%} of the run: by the "
            f"clock of the log it is {1e3 * gap.per_step:.2g} ms and {1e3 * gap.per_request:.2g} "
            "ms per request of the batch, which the law contains"
        )
        if gap.share > MANY_GAPS:
            said.append(
                "most of what a step costs is outside of its elapsed time (asynchronous "
                "scheduling?): trust a result of the client more"
            )
    if drafts(log):
        said.append("most steps have drafts: the law is per token and not per request")
    elif again := float((log.generation_tokens - log.decodes).sum()):
        share = again / max(float(rows.prefill_tokens.sum()), 1.0)
        said.append(
            f"{share:.0%} of the prefill was computed again after a preemption; it counts as "
            "prefill"
        )
    if rows.kv_tokens is not None:
        if block_size is None and not rows.kv_is_share:
            said.append(
                "the share of KV in use counts whole blocks: KV per batch is too large by half a "
                "block per request; give --block-size"
            )
        if log.hit_rate is None or log.hit_rate > 0.05:
            said.append(
                "the share of KV in use counts a block once that several requests read: where "
                "prompts share prefixes, KV per batch is too small and d_kv too large"
            )
    return tuple(said)


def _grown(counter: np.ndarray | None) -> float:
    """Return by how much a counter grew in the run; 0 without it."""
    return 0.0 if counter is None else float(counter[-1] - counter[0])
