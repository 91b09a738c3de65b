"""The rate of arrivals, with clocks that are not in order."""

from __future__ import annotations

import numpy as np
import pytest

from scheduling.arrival_rate import ArrivalRate


def rate_of(times):
    rate = ArrivalRate()
    for each in times:
        rate.note(float(each))
    return rate.value


def test_a_clock_that_was_set_back_or_was_ahead_once_is_not_believed_for_ever():
    draws = np.random.default_rng(1).exponential(0.1, 2000)
    times = 1e6 + np.cumsum(draws)
    plain = rate_of(times)
    assert plain == pytest.approx(10.0, rel=0.2)
    assert rate_of([*times, *(times - 5e5)]) == pytest.approx(plain, rel=0.02)
    assert rate_of([*times[:500], 1e15, *times[500:]]) == pytest.approx(plain, rel=0.02)


def test_requests_of_two_senders_out_of_order_count_as_in_order():
    times = np.cumsum(np.random.default_rng(2).exponential(0.1, 2000))
    mixed = times.reshape(-1, 20)[:, ::-1].ravel()  # each as late as two times the mean of a gap
    assert rate_of(mixed) == pytest.approx(rate_of(times), rel=0.15)
