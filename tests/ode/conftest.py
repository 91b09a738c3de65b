from __future__ import annotations

import numpy as np
import pytest

from serving import RequestMix


def uniform_mix(classes: list[tuple[float, int, int, int, int]]) -> RequestMix:
    """Return classes of (probability, p_min, p_max, D_min, D_max), uniform and independent."""
    prefill, decode, weight, request_class = [], [], [], []
    for index, (share, p_min, p_max, d_min, d_max) in enumerate(classes):
        p, d = np.meshgrid(np.arange(p_min, p_max + 1), np.arange(d_min, d_max + 1))
        prefill.append(p.ravel())
        decode.append(d.ravel())
        weight.append(np.full(p.size, share / p.size))
        request_class.append(np.full(p.size, index))
    return RequestMix.from_lengths(
        *map(np.concatenate, (prefill, decode)),
        weight=np.concatenate(weight),
        request_class=np.concatenate(request_class),
    )


@pytest.fixture(scope="session")
def normal_mix() -> RequestMix:
    return uniform_mix([(0.8, 10, 60, 10, 40), (0.2, 150, 200, 80, 100)])
