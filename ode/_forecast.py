"""What a forecast from the present state of an instance is, whatever the model that makes it.

A forecaster marches a fluid model from a pattern of who runs, and leaves per step when it begins,
how long it takes and how far it reaches in the order of arrival. From that anybody can tell when
one more request gets its tokens, at the cost of a look-up; see :mod:`scheduling.tagged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

START, DURATION, REACH, DECIDED = range(4)
"""Rows of a forecast: begin and duration of each step [time], the largest number in the order of
arrival for which it has room, whether or not so many are there [requests], and when it is decided
who takes part [time]."""

FORECAST_ROWS = 4
"""Rows of a forecast [rows]."""


PROMPT_KNOTS = 24
"""Prompts whose first step is priced [prompts]."""

NO_PROMPT = np.linspace(0.0, 1.0, PROMPT_KNOTS), np.zeros(PROMPT_KNOTS)
"""Prices of an instance that computes no prompts."""


@dataclass(frozen=True, slots=True)
class Marched:
    """What a march wrote into a forecast.

    Parameters
    ----------
    steps
        Steps written.
    number : [requests]
        Number in the order of arrival of the last who is there.
    prompts, first : shape (PROMPT_KNOTS,), shape (PROMPT_KNOTS,) [tokens], [time]
        What a prompt of so many tokens to compute adds to the step of the first token; ascending,
        from 0, straight between two and beyond the last.
    room, first_per_room : [tokens], [time]
        Prompt tokens that a step has room for, and what each further step costs a prompt.
    first_per_held, first_per_pair : [time/token], [time/token^2]
        What a further step costs besides by the tokens that were computed before, and by the
        product of these and of its own.
    fixed, per_prompt, per_token : [time], [time/token], [time/token]
        What a request adds to each of its batches: in any case, by its prompt, and by the tokens
        that it has decoded. Nothing where a budget fills the batches in any case.
    cost, cost_per_token : [time], [time/token]
        What it costs the others in each of its batches, whether it makes them longer or takes room
        in them: in any case, and by each token that it holds.
    executing : [requests]
        Others in a batch, who bear this cost.
    """

    steps: int
    number: float
    prompts: NDArray
    first: NDArray
    room: float
    first_per_room: float
    first_per_held: float
    first_per_pair: float
    fixed: float
    per_prompt: float
    per_token: float
    cost: float
    cost_per_token: float
    executing: float


@dataclass(frozen=True, slots=True)
class Present:
    """What is known of an instance when its last batch ended, which is time 0 of a forecast.

    Parameters
    ----------
    running, stopped, waiting : shape (R, 4), (S, 4), (W, 4) [requests, tokens, tokens], []
        Who has a first token and runs, who was evicted, and who waits for a first token, in the
        order of arrival. Columns: requests, tokens since the latest start, tokens ever, class of
        lengths.
    arriving : shape (A, 4)
        Who was sent since time 0, in the same columns.
    again : shape (S,) [tokens]
        What each of ``stopped`` computes again, where prompts are computed at all.
    prompts : shape (P,) [tokens]
        Prompts of those who wait and of those who were sent since, in the order of arrival; as many
        of the first as are known.
    computed : [tokens]
        What was computed of the first of them.
    queued : [requests]
        Who waits at time 0, as counted in the order of arrival (:attr:`Forecaster.unit`).
    late : [requests]
        The part of ``queued`` that came after the batch under way was decided.
    fresh : [requests]
        ``arriving``, counted alike.
    now : [time]
        The present; arrivals up to then are ``fresh``, later ones are expected.
    before : [time]
        How long before time 0 the batch under way was decided, where instances decide ahead.
    rate : [requests/time]
        Arrivals expected from now on.
    kv_used : [tokens]
        KV in use at time 0; None where nobody says.
    kv_begun : [tokens]
        The part of it that those hold whose prompts are being computed.
    """

    running: NDArray
    stopped: NDArray
    waiting: NDArray
    arriving: NDArray
    again: NDArray
    prompts: NDArray
    computed: float
    queued: float
    late: float
    fresh: float
    now: float
    before: float
    rate: float
    kv_used: float | None = None
    kv_begun: float = 0.0


FOREVER = 1e12
"""End of the arrivals of a forecast [time]: none is as long."""


class Forecaster(Protocol):
    """Marches one instance from its present state, as often as asked; its memory is its own.

    Attributes
    ----------
    batches
        Batches that a step covers.
    again
        Whether a request that is stopped computes its tokens anew.
    ahead
        Whether a batch is decided while the one before runs.
    unit : [tokens]
        Prompt of one request in the order of arrival, where a longer prompt counts for more
        requests; 0 where each request counts as one.
    mean_prompt : [tokens]
        Prompt of an expected request: one that arrives takes as many places in the order of
        arrival as its own prompt has room of it.
    """

    batches: int
    again: bool
    ahead: bool
    unit: float
    mean_prompt: float

    def march(self, out: NDArray, present: Present, tokens: float) -> Marched:
        """Write a forecast from time 0.

        Parameters
        ----------
        out : shape (FORECAST_ROWS, K)
            Filled as far as the march goes.
        present
            The state that it begins with.
        tokens
            The march goes on until a request that arrives now has had so many batches, or K steps.

        Raises
        ------
        SolveError
            If a batch takes no time, or nobody who waits can ever start.
        """
        ...
