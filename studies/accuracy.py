"""How close the fluid model is: a grid of cases that stress it, and how errors fall with size.

Size n means n times the arrivals, memory and budget, and per-token times divided by n, so that
the fluid limit stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import MODES, NRMSE_OUTPUTS, DecodeNode, RequestTable
from studies.comparison import Comparison, Replications, Told, compare
from studies.question import Question
from workload import LengthDistribution, RequestClass, Steps, describe, mix_of

HORIZON = 3000.0
LOADS = {
    "constant": Steps((0.0,), (0.8,)),
    "step": Steps((0.0, HORIZON / 3, 2 * HORIZON / 3), (0.5, 1.5, 0.5)),
    "burst": Steps((0.0, HORIZON / 5), (2.5, 0.2)),
}
"""Arrivals over time as multiples of the capacity lambda_M."""

SYNCHRONISED_PREFILL = 20
SYNCHRONISED_DECODE = {
    "bimodal": LengthDistribution.empirical([50, 150]),
    "uniform": LengthDistribution.uniform(50, 150),
}
SYNCHRONISED_REQUESTS = 1500
SYNCHRONISED_DURATION = 10.0
SYNCHRONISED_HORIZON = 15_000.0

NOISE_FLOOR = 0.0025
"""In ``in_system``: what is asked of the replications before a score is believed."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One workload on one instance.

    Parameters
    ----------
    name
        Profile, budget and mode.
    n
        Size.
    question
        What is compared.
    """

    name: str
    n: int
    question: Question


@dataclass(frozen=True, slots=True, eq=False)
class CaseScore:
    """What a case was measured at.

    Parameters
    ----------
    case, comparison
        What was compared and how.
    completed_error
        Largest difference of cumulative completions over their final value, by method.
    """

    case: Case
    comparison: Comparison
    completed_error: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return one row of the table."""
        comparison = self.comparison
        return {
            "case": self.case.name,
            "n": self.case.n,
            "horizon": self.case.question.horizon,
            "replications": comparison.discrete.replications,
            "noise_floor": dict(comparison.noise_floor),
            "single_run_noise": comparison.single_run_noise,
            "discrete_seconds": comparison.discrete.seconds,
            "evictions_first_run": comparison.discrete.run.metrics().evictions,
            "methods": {
                name: {
                    "nrmse": dict(each.nrmse),
                    "completed_error": self.completed_error[name],
                    "seconds": each.seconds,
                }
                for name, each in comparison.methods.items()
            },
        }


def load_case(profile: str, n: int, *, unlimited: bool = False, mode: str = "swapping") -> Case:
    """Return the normal mix under one of :data:`LOADS` on the default node at size ``n``."""
    instance = DecodeNode(B=None if unlimited else 2000, mode=mode).scaled(n)
    workload = describe("normal", rate_shape=LOADS[profile])
    question = Question(workload, instance, horizon=HORIZON).at_load(1.0)
    return Case(_name(profile, unlimited, mode), n, question)


def synchronised_case(
    lengths: str, n: int, *, unlimited: bool = True, mode: str = "swapping", seed: int = 42
) -> Case:
    """Return 1,500 n requests within 10 time units, whose growth evicts, at size ``n``.

    Arrival times are evenly spaced; lengths are a draw from one of :data:`SYNCHRONISED_DECODE`,
    dealt out anew in each replication.
    """
    count = SYNCHRONISED_REQUESTS * n
    decode = SYNCHRONISED_DECODE[lengths]
    prefill = LengthDistribution.deterministic(SYNCHRONISED_PREFILL)
    mix = mix_of([RequestClass(lengths, 1.0, prefill, decode)])
    # Quantiles rather than a draw: the lengths then are the distribution itself at every size.
    share = (np.arange(count) + 0.5) / count
    row = np.searchsorted(np.cumsum(mix.probability), share)
    table = RequestTable.validated(
        share * SYNCHRONISED_DURATION, mix.prefill[row], mix.decode[row]
    ).with_lengths_permuted(np.random.default_rng(seed))
    instance = DecodeNode(B=None if unlimited else 2000, mode=mode).scaled(n)
    name = _name(f"synchronised {lengths}", unlimited, mode)
    return Case(name, n, Question(table, instance, horizon=SYNCHRONISED_HORIZON))


def accuracy_cases(n: int) -> Iterator[Case]:
    """Yield every load and synchronised burst, budget and mode at size ``n``."""
    for mode in MODES:
        for unlimited in (False, True):
            for profile in LOADS:
                yield load_case(profile, n, unlimited=unlimited, mode=mode)
            for lengths in SYNCHRONISED_DECODE:
                yield synchronised_case(lengths, n, unlimited=unlimited, mode=mode)


def score(
    case: Case,
    methods: Sequence[str] = ("lagrangian",),
    *,
    noise_floor: float = NOISE_FLOOR,
    most: int = 16_384,
    told: Told | None = None,
) -> CaseScore:
    """Compare until the noise floor of ``in_system`` is at most ``noise_floor``.

    Parameters
    ----------
    case
        What to compare.
    methods
        Fluid methods.
    noise_floor
        Replications go on until it is reached, or ``most`` of them are done.
    most
        Limit of replications.
    told
        As of :func:`studies.compare`.
    """
    at = NRMSE_OUTPUTS.index("in_system")

    def wanted(mean: NDArray[np.float64], sd: NDArray[np.float64]) -> float:
        single_run_noise = np.sqrt(np.mean(sd[at] ** 2)) / mean[at].mean()
        return float((single_run_noise / noise_floor) ** 2)

    replications = Replications(most, outputs=NRMSE_OUTPUTS, wanted=wanted)
    comparison = compare(case.question, methods, replications, metrics=False, told=told)
    mean = comparison.discrete.mean.outputs["completed"]
    errors = {
        name: float(np.abs(each.sampled.outputs["completed"] - mean).max() / mean[-1])
        for name, each in comparison.methods.items()
    }
    return CaseScore(case, comparison, errors)


@dataclass(frozen=True, slots=True)
class SizePoint:
    """Errors at one size.

    Parameters
    ----------
    n, replications
        Size and how many replications.
    e2el_bias
        Fluid mean end-to-end latency over the discrete one, minus 1.
    e2el_bias_error
        Its standard error.
    noise
        RMS spread of one replication's ``in_system`` over its time-mean.
    """

    n: int
    replications: int
    e2el_bias: float
    e2el_bias_error: float
    noise: float


def finite_size(
    sizes: Sequence[int] = (1, 3, 10, 30, 100),
    *,
    profile: str = "constant",
    replications: Callable[[int], int] = lambda n: max(64, 4000 // n),
    method: str = "lagrangian",
) -> list[SizePoint]:
    """Return bias and noise of the fluid limit at each size, B = 2000 n."""
    return [_size_point(load_case(profile, n), replications(n), method) for n in sizes]


def _size_point(case: Case, replications: int, method: str) -> SizePoint:
    found = compare(case.question, (method,), Replications(replications, outputs=NRMSE_OUTPUTS))
    result, ensemble = found.methods[method], found.discrete
    assert result.metrics is not None
    requests = found.question.profile.total
    expected = np.array([requests, requests * found.question.mix.work])
    total = np.nan_to_num(ensemble.replication_means["e2el"]) * ensemble.offered[:, 0]
    mean, error = controlled_mean(total, ensemble.offered, expected)
    fluid = result.metrics.latencies["e2el"].mean * requests
    return SizePoint(
        n=case.n,
        replications=ensemble.replications,
        e2el_bias=fluid / mean - 1,
        e2el_bias_error=error / mean,
        noise=found.single_run_noise,
    )


def controlled_mean(
    values: NDArray[np.float64], controls: NDArray[np.float64], expected: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the mean of ``values`` and its standard error, noise of the controls taken off.

    Parameters
    ----------
    values : shape (R,)
        One per replication.
    controls : shape (R, C)
        Quantities of the same replications whose expectation is known.
    expected : shape (C,)
        That expectation.
    """
    spread = np.maximum(controls.std(axis=0), 1e-300)
    away = (controls - expected) / spread
    design = np.column_stack([np.ones(values.size), away])
    fit, *_ = np.linalg.lstsq(design, values, rcond=None)
    freedom = max(1, values.size - design.shape[1])
    residual = float(np.sum((values - design @ fit) ** 2) / freedom)
    covariance = np.linalg.pinv(design.T @ design)
    return float(fit[0]), float(np.sqrt(residual * covariance[0, 0]))


def slope(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """Return the exponent of a power law fitted to |errors| over sizes."""
    return float(np.polyfit(np.log(sizes), np.log(np.abs(errors)), 1)[0])


def _name(profile: str, unlimited: bool, mode: str) -> str:
    return f"{profile}, B {'unlimited' if unlimited else '2000n'}, {mode}"
