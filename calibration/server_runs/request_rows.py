"""A request log tells batches, by token times or by first and last tokens."""

from __future__ import annotations

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.chunks import BUNDLED, bundled_share
from calibration.server_runs.law import Coefficients
from calibration.server_runs.phase_rows import rows_of_phases
from calibration.server_runs.requests import RequestLog
from calibration.server_runs.token_rows import STEPS_PER_ROW, rows_of_tokens


def rows_of_requests(
    log: RequestLog,
    *,
    steps_per_row: int = STEPS_PER_ROW,
    token_budget: float | None = None,
    remote_prefill: bool = False,
    law: Coefficients | None = None,
) -> BatchRows:
    """Return the batches of a request log: mean content and mean duration.

    Parameters
    ----------
    log
        With inter-token times the rows are ``steps_per_row`` batches each and tile the time in
        which anything decodes. Without, a row is the whole decode phase of a request.
    steps_per_row
        Batches that one row averages, of a log with inter-token times.
    token_budget : [tokens]
        ``max_num_batched_tokens`` of the server: prompts longer than it take several batches, up
        to the one that ends with their first token. Without it a prompt is computed in one.
    remote_prefill
        Prompts come with their KV (a decode node): their first token is decoded like the others.
    law
        Coefficients of an earlier fit, for logs without inter-token times; see
        :func:`calibration.server_runs.phase_rows.rows_of_phases`.
    """
    if not tells_tokens(log, steps_per_row) or log.inter_token is None:
        return rows_of_phases(
            log, remote_prefill=remote_prefill, token_budget=token_budget, law=law
        )
    return rows_of_tokens(
        log,
        log.inter_token,
        steps_per_row=steps_per_row,
        token_budget=token_budget,
        remote_prefill=remote_prefill,
    )


def tells_tokens(log: RequestLog, steps_per_row: int = STEPS_PER_ROW) -> bool:
    """Return whether the times of a log's chunks are the times of its tokens."""
    if log.inter_token is None or max(each.size for each in log.inter_token) < steps_per_row:
        return False
    return bundled_share(log) <= BUNDLED
