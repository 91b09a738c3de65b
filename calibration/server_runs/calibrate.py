"""A server's log gives a batch-time law, with figures that say how far to trust the law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.chunks import between_chunks
from calibration.server_runs.drift import Drift, drift
from calibration.server_runs.fitted import Fitted
from calibration.server_runs.intervals import with_model_error
from calibration.server_runs.iteration_fit import fit_iterations
from calibration.server_runs.iteration_rows import Gap
from calibration.server_runs.iterations import IterationLog
from calibration.server_runs.law import COEFFICIENTS, Coefficients, LawFit, fit_law
from calibration.server_runs.metric_rows import every_second, rows_of_metrics
from calibration.server_runs.metrics import MetricsLog
from calibration.server_runs.notes import (
    note_of_paused,
    notes_of,
    notes_of_metrics,
    notes_of_requests,
)
from calibration.server_runs.offsets import Estimate, frontend_offset, kv_capacity, replayed_offset
from calibration.server_runs.phase_checks import fit_without_pauses, refuse_two_units
from calibration.server_runs.phase_rows import rows_of_phases
from calibration.server_runs.read import ServerLog
from calibration.server_runs.reconstruction import Replay
from calibration.server_runs.replay_fit import fit_by_replay
from calibration.server_runs.request_rows import rows_of_requests, tells_tokens
from calibration.server_runs.requests import RequestLog
from calibration.server_runs.token_rows import STEPS_PER_ROW
from serving import DEFAULT_KIND, BatchTimeLaw, ConfigError, FluidServeError, Kind, WorkloadError
from serving.arguments import checked

TRAINED = 0.7
"""Share of the run, from its start, that the law behind the held-out error is fitted to."""

BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""Values of ``max_num_batched_tokens`` [tokens] that the search for an unknown one tries."""

PASSES = 3
"""Number of repeated fits of a log without token times.

Each places the batches by the fit before."""

SHORTEST_BATCH, LONGEST_BATCH = 1e-4, 3.0
"""Bounds [s] of the median batch time that a server can have."""

BETTER = 0.97
"""Largest error of a token budget, over the error of the best before it, that the search takes."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The law of the earlier part of a run makes this error on the later part.

    Parameters
    ----------
    rows, batches
        Number of held-out rows and of their batches.
    mape, bias
        Mean absolute, and median signed, relative error of the predicted batch time.
    """

    rows: int
    batches: int
    mape: float
    bias: float


@dataclass(frozen=True, slots=True, eq=False)
class RunCalibration:
    """A calibration holds the law of a server, and figures that say how far to trust the law.

    Parameters
    ----------
    kind
        ``requests with token times``, ``requests``, ``metrics``, ``iterations`` or ``windows``.
    rows
        Mean batch times that the law was fitted to.
    law
        The fit of all of them, times in seconds.
    mape
        Mean absolute relative error of the fit on the rows that it was fitted to.
    held_out, drift
        Error on the later part, and how the law moves in a sliding window; None where the run is
        too short to say.
    kv_capacity, frontend_offset
        [tokens] and [s]; None where the log does not show them.
    token_budget
        ``max_num_batched_tokens``, given or (``budget_inferred``) the one that fits best; None
        where it makes no difference.
    notes
        Cautions for the user of the law, in sentences.
    dropped
        Number of requests that were left out, by reason.
    gap
        Time between steps, which the law contains, where the file tells it apart.
    reconstructed
        Share of the tokens that a replay gave in the step in which the client saw them; None
        without such a replay.
    of_everyone
        Whether the KV of a batch is that of everyone in it, chunks of prompts included, as engines
        that compute prompts count it.
    """

    kind: str
    rows: BatchRows
    law: LawFit
    mape: float
    held_out: HeldOut | None
    drift: Drift | None
    kv_capacity: Estimate | None
    frontend_offset: Estimate | None
    token_budget: int | None
    budget_inferred: bool
    notes: tuple[str, ...]
    dropped: Mapping[str, int]
    gap: Gap | None = None
    reconstructed: float | None = None
    of_everyone: bool = False

    @property
    def beyond_law(self) -> float:
        """Return the share by which the batches took longer in sum than the law says.

        The law is that of a usual batch. Now and then a server stalls, and such times lengthen the
        run and its mean latencies, which the law alone does not.
        """
        weight = self.rows.steps
        whole = float(weight @ self.law.predict(self.rows))
        return float(weight @ self.rows.step_time) / whole - 1

    def coefficients(self) -> dict[str, dict[str, Any]]:
        """Return value, 95 % interval and identification of each; None for what is not told."""
        found: dict[str, dict[str, Any]] = {}
        columns = zip(COEFFICIENTS, self.law.value, self.law.half_width, strict=True)
        for name, value, half in columns:
            per_cache = self.rows.kv_is_share and name == "d_kv"
            known = np.isfinite(value)
            found["d_kv_times_capacity" if per_cache else name] = {
                "value": float(value) if known else None,
                "low": float(max(value - half, 0.0)) if np.isfinite(half) else None,
                "high": float(value + half) if np.isfinite(half) else None,
                "identified": self.law.identified(name),
            }
        return found

    def law_keys(self, kind: Kind = DEFAULT_KIND) -> dict[str, Any]:
        """Return the configuration keys of the law, to six digits, in seconds.

        Parameters
        ----------
        kind
            Kind of engine: it says which coefficients its batches spend, and which an instance
            carries unspent.
        """
        return kind.law_values(self.batch_time())

    def batch_time(self) -> BatchTimeLaw:
        """Return the law [s], to six digits, with the largest batch that the run had."""
        known: dict[str, Any] = {
            key: float(f"{value:.6g}") for key, value in self.law.known()._asdict().items()
        }
        most = float(f"{self.rows.decode_tokens.max():.4g}")
        return BatchTimeLaw(**known, measured_requests=most or None)


@checked()
def calibrate_run(
    log: ServerLog,
    *,
    kv_capacity_tokens: float | None = None,
    block_size: int | None = None,
    token_budget: int | None = None,
    steps_per_row: int = STEPS_PER_ROW,
    remote_prefill: bool = False,
    windows: int = 8,
    path: str | Path | None = None,
    replay: Replay | None = None,
) -> RunCalibration:
    """Fit the batch-time law of a server to the log of a run.

    Parameters
    ----------
    log
        As :func:`read_server_log` returns it.
    kv_capacity_tokens : [tokens]
        KV cache of the server, where its metrics give only the share in use.
    block_size : [tokens]
        Tokens of a KV block, where a log of iterations gives the share in use.
    token_budget : [tokens]
        ``max_num_batched_tokens`` of the server; of a request log with token times it is found as
        the one under which the batches fit best.
    steps_per_row
        Batches that one row averages, of such a log.
    remote_prefill
        The server is a decode node: prompts come with their KV.
    windows
        Half-overlapping windows in which the law is fitted again for the drift.
    path
        Name of the file that the log comes from, for messages.
    replay
        An engine that decides like the server, for the log of a client: it tells what the client
        does not see (prefix hits, preemptions, chunks). See :func:`studies.replay.replay_of`.

    Raises
    ------
    WorkloadError
        If the log is too short, its times are not plausible, or no law describes it.
    """
    counts = {
        "kv_capacity": kv_capacity_tokens, "block_size": block_size, "steps_per_row": steps_per_row,
        "max_num_batched_tokens": token_budget, "windows": windows,
    }  # fmt: skip
    for key, value in counts.items():
        if value is not None and not 1 <= value < 2**53:
            raise ConfigError(key, value, "a number >= 1")
    try:
        if isinstance(log, RequestLog):
            found = _fit_requests(log, token_budget, steps_per_row, remote_prefill, replay)
        elif isinstance(log, MetricsLog):
            found = _fit_metrics(log, kv_capacity_tokens, remote_prefill)
        elif isinstance(log, IterationLog):
            found = fit_iterations(log, kv_capacity_tokens, block_size)
        else:
            found = Fitted("windows", log, fit_law(log))
        _check_plausible(found.rows)
    except WorkloadError as wrong:
        raise WorkloadError(
            wrong.reason, path=path if wrong.path is None else wrong.path, row=wrong.row,
            column=wrong.column, value=wrong.value,
        ) from None  # fmt: skip
    except FluidServeError as wrong:
        raise WorkloadError(str(wrong), path=path) from None
    rows, law = found.rows, with_model_error(found.law, found.rows, found.others, found.left_out)
    offset = None
    if isinstance(log, RequestLog) and replay is not None:
        offset = replayed_offset(log, law, replay(log.arrival, found.engine_law()).first_token)
    elif isinstance(log, RequestLog):
        offset = frontend_offset(
            log, law, token_budget=found.token_budget, remote_prefill=remote_prefill
        )
    dropped = {} if isinstance(log, BatchRows) else dict(log.dropped)
    moved = drift(rows, law, windows)
    return RunCalibration(
        kind=found.kind,
        rows=rows,
        law=law,
        mape=_mape(law, rows),
        held_out=_held_out(rows),
        drift=moved,
        kv_capacity=_given(kv_capacity_tokens) or found.kv_capacity,
        frontend_offset=offset,
        token_budget=found.token_budget,
        budget_inferred=found.token_budget is not None and token_budget is None,
        notes=(*found.notes, *notes_of(rows, law, moved, remote_prefill=remote_prefill)),
        dropped={**dropped, **rows.dropped},
        gap=found.gap,
        reconstructed=found.reconstructed,
        of_everyone=found.of_everyone,
    )


def _given(tokens: float | None) -> Estimate | None:
    """Return a capacity that the user states."""
    return None if tokens is None else Estimate(tokens, tokens, tokens, 0, source="--kv-capacity")


def _check_plausible(rows: BatchRows) -> None:
    """Refuse batch times that no server has."""
    step = float(np.median(rows.step_time))
    if not SHORTEST_BATCH <= step <= LONGEST_BATCH:
        raise WorkloadError(
            f"the median batch takes {step:.3g} s: not plausible (allowed: {SHORTEST_BATCH} to "
            f"{LONGEST_BATCH}); are its times in another unit?"
        )


def _fit_metrics(log: MetricsLog, capacity: float | None, remote_prefill: bool) -> Fitted:
    """Return the fit of the metrics of a server, and the one that scrapes half as often give."""
    shown = kv_capacity(log)
    if capacity is None and shown is not None:
        capacity = shown.value

    def rows(scrapes: MetricsLog) -> BatchRows:
        return rows_of_metrics(scrapes, kv_capacity=capacity, remote_prefill=remote_prefill)

    found = rows(log)
    try:
        others = (fit_law(rows(every_second(log))),)
    except FluidServeError:
        others = ()
    notes = notes_of_metrics(log, found, remote_prefill=remote_prefill)
    return Fitted("metrics", found, fit_law(found), others, kv_capacity=shown, notes=notes)


def _fit_requests(
    log: RequestLog, budget: int | None, steps_per_row: int, remote_prefill: bool,
    replay: Replay | None = None,
) -> Fitted:  # fmt: skip
    """Return the fit of the requests of a run, by token times where these tell the batches."""

    def phases(of: RequestLog, law: Coefficients | None = None) -> BatchRows:
        return rows_of_phases(of, remote_prefill=remote_prefill, token_budget=budget, law=law)

    refuse_two_units(log, phases)
    if replay is not None:
        start = _start(log, budget, steps_per_row, phases)
        return fit_by_replay(log, replay, start, budget=budget, steps_per_row=steps_per_row)
    notes = notes_of_requests(log, steps_per_row, remote_prefill=remote_prefill)
    if tells_tokens(log, steps_per_row):
        rows, budget = _rows_of_budget(log, budget, steps_per_row, remote_prefill)
        return Fitted(
            "requests with token times", rows, fit_law(rows), token_budget=budget, notes=notes
        )
    log = between_chunks(log)
    fit = fit_without_pauses(lambda law: phases(log, law), PASSES)
    total = len(fit.rows) + fit.paused
    if fit.paused:
        notes = (*notes, note_of_paused(fit.paused, total))
    return Fitted(
        "requests", fit.rows, fit.law, token_budget=budget, notes=notes,
        left_out=fit.paused / total,
    )  # fmt: skip


def _start(
    log: RequestLog, budget: int | None, steps_per_row: int, phases: Callable[..., BatchRows]
) -> Coefficients:
    """Return a law that is near enough for an engine to start with."""
    if tells_tokens(log, steps_per_row):
        rows, _ = _rows_of_budget(log, budget, steps_per_row, remote_prefill=False)
    else:
        rows = phases(log)
    return fit_law(rows).known()


def _rows_of_budget(
    log: RequestLog, budget: int | None, steps_per_row: int, remote_prefill: bool
) -> tuple[BatchRows, int | None]:
    """Return the rows under the given token budget, or under the budget that fits best."""

    def rows(tokens: int | None) -> BatchRows:
        return rows_of_requests(
            log, steps_per_row=steps_per_row, token_budget=tokens, remote_prefill=remote_prefill
        )

    plain = rows(budget)
    if budget is not None or remote_prefill:
        return plain, budget
    longest = log.prompt_tokens.max()
    best, chosen, error = plain, None, _mape(fit_law(plain), plain)
    for tokens in BUDGETS:
        if tokens > 2 * longest:
            break
        tried = rows(tokens)
        own = _mape(fit_law(tried), tried)
        if own < BETTER * error:
            best, chosen, error = tried, tokens, own
    return best, chosen


def _mape(law: LawFit, rows: BatchRows) -> float:
    """Return the mean absolute relative error of the batch times that ``law`` predicts."""
    return float(np.mean(np.abs(law.predict(rows) / rows.step_time - 1)))


def _held_out(rows: BatchRows) -> HeldOut | None:
    """Return the error on the later part of the run; None for a short run."""
    first = int(TRAINED * len(rows))
    if first < 12 or len(rows) - first < 4:
        return None
    at = np.arange(len(rows))
    law, later = fit_law(rows.where(at < first)), rows.where(at >= first)
    error = law.predict(later) / later.step_time - 1
    return HeldOut(
        rows=len(later),
        batches=int(later.steps.sum()),
        mape=float(np.mean(np.abs(error))),
        bias=float(np.median(error)),
    )
