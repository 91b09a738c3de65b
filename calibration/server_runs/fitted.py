"""What a log of one kind gives before anything is said of it."""

from __future__ import annotations

from dataclasses import dataclass

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.iteration_rows import Gap
from calibration.server_runs.law import LawFit
from calibration.server_runs.offsets import Estimate
from serving import BatchTimeLaw


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Rows, their law, and what only a log of this kind tells.

    Parameters
    ----------
    kind
        Words for the log and how it was taken.
    rows, law
        Rows and their fit.
    others
        Laws that differ only by an approximation that the fit makes.
    kv_capacity
        As the log states or shows it.
    token_budget
        ``max_num_batched_tokens``, given or found.
    notes
        Cautions, in sentences.
    left_out
        Share of the requests that were left out because they paused.
    gap
        Time between steps, where the log tells it apart.
    reconstructed
        Share of the tokens that a replay gave in the step in which the client saw them; None
        without such a replay.
    of_everyone
        Whether the KV of the rows is that of everyone in a batch, chunks of prompts included.
    """

    kind: str
    rows: BatchRows
    law: LawFit
    others: tuple[LawFit, ...] = ()
    kv_capacity: Estimate | None = None
    token_budget: int | None = None
    notes: tuple[str, ...] = ()
    left_out: float = 0.0
    gap: Gap | None = None
    reconstructed: float | None = None
    of_everyone: bool = False

    def engine_law(self) -> BatchTimeLaw:
        """Return the law [s] for an engine that computes prompts."""
        law = BatchTimeLaw(**self.law.known()._asdict())
        return law if self.of_everyone else law.for_whole_context()
