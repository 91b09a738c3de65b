"""The parameters that a solve is differentiated by, and how each enters the equations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluid import LAW_PARAMETERS, LengthClasses, decode_moves
from ode.eulerian.problem import EulerianProblem

ARRIVALS = "arrivals"
"""Arrivals over what the profile expects, 1 where the solve is differentiated."""


TINY = 1e-30
"""Imaginary step; its square is lost to rounding, so that no difference is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class LengthPath:
    """Hazards and prefills by class and stage, and how they move with the mean decode length.

    All lengths move in proportion, see :func:`fluid.decode_moves`: per token of the mean
    ``P(D >= i)`` grows by those who get from i - 1 to i.

    Parameters
    ----------
    hazard, prefill : shape (J, I + 1)
        With one stage beyond the longest, which nobody reaches.
    hazard_slope, prefill_slope : shape (J, I + 1)
        Derivatives by the mean decode length.
    """

    hazard: NDArray[np.float64]
    prefill: NDArray[np.float64]
    hazard_slope: NDArray[np.float64]
    prefill_slope: NDArray[np.float64]

    @classmethod
    def of(cls, classes: LengthClasses) -> LengthPath:
        """Return the path that starts at ``classes``."""
        hazard = np.pad(classes.hazard, ((0, 0), (0, 1)), constant_values=1.0)
        reached = classes.survival  # P(D >= i), i = 1..I + 1; the last is 0
        alive = reached > 0
        safe = np.where(alive, reached, 1.0)
        ended = reached * hazard
        tokens = reached * np.pad(classes.prefill, ((0, 0), (0, 1)))
        held = tokens - _next(tokens)  # E[p; D = i]
        share = classes.share[:, None]
        gains, losses = decode_moves(np.arange(1, reached.shape[1] + 1), share * ended)
        reached_slope = (_previous(gains) + losses) / share
        prompt = np.where(ended > 0, held / np.where(ended > 0, ended, 1.0), 0.0)
        tokens_slope = (_previous(gains * prompt) + losses * prompt) / share
        ended_slope = reached_slope - _next(reached_slope)
        # the stage that only the longest reach, with their prefill
        prefill = np.where(alive, tokens / safe, 0.0)
        beyond = ~alive & (_previous(reached) > 0)
        rows, columns = np.nonzero(beyond)
        prefill[rows, columns] = prefill[rows, columns - 1]
        return cls(
            hazard=hazard,
            prefill=prefill,
            hazard_slope=np.where(alive, (ended_slope - hazard * reached_slope) / safe, 0.0),
            prefill_slope=np.where(alive, (tokens_slope - prefill * reached_slope) / safe, 0.0),
        )


def _previous(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each stage's predecessor has; 0 at the first."""
    return np.pad(x, ((0, 0), (1, 0)))[:, :-1]


def _next(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each stage's successor has; 0 at the last."""
    return np.pad(x, ((0, 0), (0, 1)))[:, 1:]


def with_a_spare_stage(problem: EulerianProblem, path: LengthPath) -> EulerianProblem:
    """Return ``problem`` on the stages of ``path``: one more, in which nobody is."""

    def wider(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.pad(x, ((0, 0), (0, 1)))

    values = problem.values | {"q": path.hazard, "p": path.prefill}
    return replace(
        problem,
        values=problem.model.constants(values),
        X=wider(problem.X),
        pool=problem.pool if problem.model.pool == "R" else wider(problem.pool),
    )


def values_and_slopes(
    problem: EulerianProblem, path: LengthPath, at: dict[str, float], names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the equations need, and its derivative by each of ``names``, stacked first.

    Constants are polynomials in the parameters, so that an imaginary step is exact.
    """
    model = problem.model
    fixed = {item.code: problem.values.get(item.code) for item in model.equations.parameters}

    def of(new: dict[str, Any]) -> dict[str, Any]:
        longer = new["mean_decode"] - at["mean_decode"]
        memory = new["M_total"]
        values = fixed | {name: new[name] for name in LAW_PARAMETERS}
        values |= {
            "M": memory,
            "B": new["B"] if at["B"] < at["M_total"] else memory,
            "kappa": new["admission_threshold"],
            "q": path.hazard + longer * path.hazard_slope,
            "p": path.prefill
            + longer * path.prefill_slope
            + (new["mean_prefill"] - at["mean_prefill"]),
        }
        arrivals = {ARRIVALS: new["arrival_rate"] / at["arrival_rate"]}
        del values["arrival_rate"]
        constants = {key: np.asarray(x) for key, x in model.constants(values).items()}
        return constants | arrivals

    values = {key: np.asarray(x, float) for key, x in of(at).items()}
    moved = [of(at | {name: at[name] + TINY * 1j}) for name in names]
    slopes = {
        key: np.stack([np.broadcast_to(np.imag(each[key]) / TINY, x.shape) for each in moved])
        for key, x in values.items()
    }
    return values, slopes
