"""What a forecast from the present state of an instance is, whatever the model that makes it.

A forecaster marches a fluid model from a pattern of who runs, and leaves per step when it begins,
how long it takes and how far it reaches in the order of arrival. From that anybody can tell when
one more request gets its tokens, at the cost of a look-up; see :mod:`scheduling.tagged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from numpy.typing import NDArray

START, DURATION, REACH, DECIDED = range(4)
"""Rows of a forecast: begin and duration of each step [time], the largest number in the order of
arrival that takes part [requests], and when it is decided who does [time]."""

FORECAST_ROWS = 4
"""Rows of a forecast [rows]."""


@dataclass(frozen=True, slots=True)
class Marched:
    """What a march wrote into a forecast.

    Parameters
    ----------
    steps
        Steps written.
    number : [requests]
        Number in the order of arrival of the last who is there.
    first_per_prompt : [time/token]
        What a token of its own prompt adds to the step of a request's first token.
    fixed, per_prompt, per_token : [time], [time/token], [time/token]
        What a request adds to each of its batches: in any case, by its prompt, and by the tokens
        that it has decoded. Nothing where a budget fills the batches in any case.
    """

    steps: int
    number: float
    first_per_prompt: float
    fixed: float
    per_prompt: float
    per_token: float


class Forecaster(Protocol):
    """Marches one instance from its present state, as often as asked; its memory is its own.

    Attributes
    ----------
    batches
        Batches that a step covers.
    again
        Whether a request that is stopped computes its tokens anew.
    unit : [tokens]
        Prompt of one request in the order of arrival, where a longer prompt counts for more
        requests; 0 where each request counts as one.
    """

    batches: int
    again: bool
    unit: float

    def march(
        self,
        out: NDArray,
        running: NDArray,
        swapped: NDArray,
        waiting: NDArray,
        rate: float,
        tokens: float,
    ) -> Marched:
        """Write a forecast from time 0.

        Parameters
        ----------
        out : shape (FORECAST_ROWS, K)
            Filled as far as the march goes.
        running, swapped : shape (R, 4), shape (S, 4) [requests, tokens, tokens], []
            Histograms, see :class:`ode.InitialState`, and the class of lengths of each row.
        waiting : shape (W, 4)
            Who waits for a first token, of the same columns, in the order of arrival.
        rate : [requests/time]
            Expected arrivals from now on.
        tokens
            The march goes on until a request that arrives now has had so many batches, or K steps.

        Raises
        ------
        SolveError
            If requests are longer than any of the mix.
        """
        ...
