"""Scores by what a predictor says would happen to the request. The lowest wins.

A prediction that fails, in whatever way, scores worst, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scheduling.listening import Answers
from scheduling.messages import Prediction, RequestMeta
from scheduling.signals import View
from serving import FluidServeError

RISK = 0.1
"""Largest chance to miss what a request was promised with which an instance still fits it."""

DECODING, OTHERS = 0.3, 2.0
"""What a unit of decode time counts beside one of TTFT, and one of others beside its own. Chosen on
eight decode nodes of which four take twice as long, at load .9."""

NO_FIT = 1e9
"""Above the time that is left on any instance that a request fits [time]."""


def _scores(
    view: View, request: RequestMeta, hint: str, numbers: Callable[[Answers], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the number of every prediction; not-a-number where there is none."""
    predictor = view.predictor
    if predictor is None:
        raise FluidServeError("this policy asks a predictor, and there is none")
    found = np.full(view.size, math.nan)
    asked: list[int | None] = [None] if view.among is None else list(view.among)
    for i in asked:
        place = slice(None) if i is None else slice(i, i + 1)
        try:
            found[place] = numbers(predictor.predict(i, request, view.time, hint))
        except Exception as error:  # whatever goes wrong in a predictor, the request goes somewhere
            view.predictions.note(found[place], error)
        else:
            view.predictions.note(found[place])
    return found


def predicted_ttft(view: View, request: RequestMeta) -> NDArray:
    """Predicted time to the first token."""
    return _scores(view, request, "ttft", lambda answers: answers.ttft)


def predicted_e2el(view: View, request: RequestMeta) -> NDArray:
    """Predicted time to the last token."""
    return _scores(view, request, "all", lambda answers: answers.e2el)


def predicted_cost(view: View, request: RequestMeta) -> NDArray:
    """Predicted TTFT, and what would be left for those who come right behind, if they did.

    An instance that serves the request at once may have no room for the next one then. What the
    request costs those who run is next to nothing beside that where batches are long.
    """
    return _scores(view, request, "behind", lambda answers: answers.ttft + answers.behind)


def predicted_total(view: View, request: RequestMeta) -> NDArray:
    """As :func:`predicted_cost`, and a share of the time that the request takes after that.

    That is what it decodes for itself, and twice what it makes all others decode longer: those who
    run now, and as many who come while it is there.
    """
    return _scores(
        view, request, "all",
        lambda answers: answers.ttft + answers.behind
        + DECODING * (answers.e2el - answers.ttft + OTHERS * answers.externality),
    )  # fmt: skip


def slo_headroom(view: View, request: RequestMeta) -> NDArray:
    """The tightest instance on which the request still gets what it was promised.

    Where it fits nowhere, the instance on which least is missing; a request that was promised
    nothing goes where its first token comes soonest.
    """
    if request.slo_ttft is None and request.slo_e2el is None:
        return predicted_ttft(view, request)

    def score(answer: Prediction) -> float:
        left = math.inf
        if request.slo_ttft is not None:
            left = min(left, request.slo_ttft - answer.ttft)
        if request.slo_e2el is not None:
            left = min(left, request.slo_e2el - _known(answer.e2el))
        is_risky = answer.slo_risk is not None and answer.slo_risk > RISK
        if answer.confidence == "failed":
            return math.nan
        return left if left >= 0 and not is_risky else NO_FIT - left

    return _scores(view, request, "all", lambda all_: np.array([score(each) for each in all_]))


def _known(value: float | None) -> float:
    return math.nan if value is None else value
