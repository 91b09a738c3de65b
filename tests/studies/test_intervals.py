"""What is learnt of errors: intervals hold what they promise, whatever the engine's noise is."""

import math

import numpy as np
import pytest

from ode.error_model.basis import Basis
from ode.error_model.capacity import capacity_error
from ode.error_model.model import LEAST_SIZE, Expected
from serving import DecodeNode, RequestMix
from studies.campaign.fit import FEWEST, Cases, beyond_noise, fit, merge
from studies.campaign.judge import Verdict
from studies.campaign.likelihood import most_likely, size_and_bias
from studies.campaign.truth import GROUPS, SURELY

BASIS = Basis(lambda features: {"one": 1.0, **features}, ("scatter",), ("load", "idle"))
LOG_SIZE, BIAS = (-4.0, 2.0, 0.0, 0.0), (0.0, 0.0, 0.5, 0.0)
"""How errors of the synthetic campaign are spread: by the terms of :data:`BASIS`."""

FRESH = 20_000


def campaign(count, noisy, *, seed=0, held_out=False):
    """Return cases whose engine was run in groups, and the errors that it would say without noise.

    ``noisy`` is the noise of the engine over the errors of the method, by order of magnitude.
    """
    rng = np.random.default_rng(seed)
    terms = np.column_stack([np.ones(count), *rng.random((3, count))])
    size, bias = size_and_bias(terms, np.array(LOG_SIZE), np.array(BIAS))
    true = bias + size * rng.standard_t(4, count)
    scale = noisy * np.exp(rng.uniform(-5, -3, count)) * math.sqrt(GROUPS)
    groups = rng.normal(size=(count, GROUPS)) * scale[:, None]
    noise = groups.std(axis=1, ddof=1) / math.sqrt(GROUPS)
    cases = Cases(
        BASIS, terms, true + groups.mean(axis=1), noise, rng.integers(0, 3, count),
        np.arange(count), np.full(count, held_out),
    )  # fmt: skip
    return cases, true


def interval(entry, cases):
    """Return bias and half-width of cases."""
    size, bias = (
        np.array([entry[part].get(name, 0.0) for name in BASIS.names])
        for part in ("log_size", "bias")
    )
    unit, middle = size_and_bias(cases.terms, size, bias)
    return middle, unit * np.array(entry["factor"])[cases.size]


@pytest.mark.parametrize("noisy", [0.1, 1.0, 2.0])
def test_an_interval_holds_the_engine_without_its_noise_as_often_as_it_promises(noisy):
    """Of 3,000 cases a factor is known to 1 %; noise as large as the errors must not widen it."""
    entry = fit(campaign(3000, noisy)[0])
    fresh, true = campaign(FRESH, noisy, seed=1)
    bias, half = interval(entry, fresh)
    held = np.mean(np.abs(true - bias) <= half)
    assert held == pytest.approx(0.9, abs=2 * math.sqrt(0.09 / 3000) + 0.01)


def test_judges_and_fits_count_the_noise_alike():
    """A verdict covers where the half-width is at least what the fit says is needed."""
    rest, noise = np.array([0.1, 0.1, 0.01]), np.array([0.02, 0.05, 0.01])
    needed = beyond_noise(rest, noise)
    assert needed[0] == pytest.approx(math.sqrt(0.1**2 - (SURELY * 0.02) ** 2))
    assert needed[2] == 0
    for deviation, of, least in zip(rest, noise, needed, strict=True):
        for half, covered in ((least * 1.001 + 1e-9, True), (least * 0.999 - 1e-9, False)):
            if half <= 0:
                continue
            verdict = Verdict(
                "decode_node", "steady", "stationary", "mean_ttft", 0, {}, deviation, of,
                Expected(0.0, half), "high",
            )  # fmt: skip
            assert bool(verdict.covered) is covered


def test_the_fit_finds_the_errors_below_the_noise():
    """Sizes and bias as they were drawn; a term that means nothing is left out."""
    cases, _ = campaign(6000, 1.0)
    growing = np.array([False, True, False, False])
    size, bias = most_likely(cases.terms, cases.error, cases.noise, growing)
    assert size[:2] == pytest.approx(LOG_SIZE[:2], abs=0.15)
    assert bias[2] == pytest.approx(BIAS[2], abs=0.15)
    assert size[3] == 0


def test_a_term_that_may_only_widen_never_narrows():
    """Where errors shrink with scatter, the size stays as it is."""
    cases, _ = campaign(2000, 0.1)
    turned = cases.terms.copy()
    turned[:, 1] = 1 - turned[:, 1]
    free = most_likely(turned, cases.error, cases.noise, np.zeros(4, bool))[0]
    held = most_likely(turned, cases.error, cases.noise, np.array([False, True, False, False]))[0]
    assert free[1] < -1
    assert held[1] == 0


def test_sizes_have_factors_of_their_own_where_enough_cases_tell():
    cases, _ = campaign(3000, 0.1)
    worse = np.where(cases.size == 2, 2.0, 1.0)
    bias = size_and_bias(cases.terms, np.array(LOG_SIZE), np.array(BIAS))[1]
    wider = Cases(
        BASIS, cases.terms, bias + worse * (cases.error - bias), cases.noise, cases.size,
        cases.number, cases.held_out,
    )  # fmt: skip
    small, middle, large = fit(wider)["factor"]
    assert small == pytest.approx(middle, rel=0.15)
    assert large / small == pytest.approx(2.0, rel=0.2)


def test_what_is_held_out_teaches_nothing_and_few_cases_too():
    assert fit(campaign(2000, 0.1, held_out=True)[0]) is None
    assert fit(campaign(FEWEST - 1, 0.1)[0]) is None
    assert fit(campaign(FEWEST, 0.1)[0])["cases"] == FEWEST


@pytest.mark.parametrize("decode", [20, 60, 200])
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_no_error_is_said_to_be_smaller_than_the_engine_of_a_campaign_could_tell(decode, mode):
    mix = RequestMix.from_lengths([50.0], [decode])
    node = DecodeNode(B=None, M_total=30_000, mode=mode)
    for of in ("capacity", "queued"):
        low, high = capacity_error(mix, node, of).between(1.0)
        assert math.log(high / low) / 2 > math.exp(LEAST_SIZE)


def test_what_rows_say_nothing_of_stays_as_it_is_and_is_named():
    known = {"vllm_v1": {"queued": {"throughput": {"cases": 7}}, "stationary": {"p99_ttft": {}}}}
    found = {("vllm_v1", "stationary", "p99_ttft"): {"cases": 200, "seeds": [11]}}
    assert merge(known, found) == ["vllm_v1 queued throughput"]
    assert known["vllm_v1"] == {
        "queued": {"throughput": {"cases": 7}},
        "stationary": {"p99_ttft": {"cases": 200, "seeds": [11]}},
    }
