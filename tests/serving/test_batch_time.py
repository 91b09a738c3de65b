"""Tables of the batch-time law: against NumPy's interpolation, JAX, scaling, bad rows."""

from __future__ import annotations

import numpy as np
import pytest

from serving import BatchTimeLaw, ConfigError

ROWS = ((1, 0.1), (4, 0.4), (16, 0.5))
LAW = BatchTimeLaw.tabulated(ROWS, 1e-3, d_0=0.2)


def test_a_table_is_interpolated_and_its_last_slope_goes_on():
    n = np.array([0.5, 1, 2.5, 4, 10, 16, 28])
    expected = np.append(np.interp(n[:-1], *np.transpose(ROWS)), 0.6)
    np.testing.assert_allclose(LAW.table_time(n), expected)
    np.testing.assert_allclose(LAW.duration(n * 11, n), 0.2 + expected + 1e-3 * 10 * n)


def test_jax_arrays_and_scaling_agree():
    import jax.numpy as jnp

    n = np.array([0.5, 3.0, 20.0])
    np.testing.assert_allclose(LAW.duration(jnp.asarray(5 * n), jnp.asarray(n)),
                               LAW.duration(5 * n, n), rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(LAW.scaled(7).duration(35 * n, 7 * n), LAW.duration(5 * n, n))
    np.testing.assert_allclose(LAW.in_unit(1e3).duration(5 * n, n), 1e3 * LAW.duration(5 * n, n))


def test_a_batch_with_prefill_has_tables_of_its_own():
    law = BatchTimeLaw(
        d_0=9.0, d_decode=9.0, d_kv=9.0, d_prefill_attention=1e-6, d_prefill_context=1e-4,
        d_prefill_table=((16, 2.0), (128, 3.0), (144, 4.0)), d_mixed_decode=0.01,
        d_mixed_kv_table=((0, 0.0), (1000, 1.0), (2000, 3.0)),
    )  # fmt: skip
    computed, read = 2.0 + 84 / 112, 1.0 + 2 * 0.5  # 100 tokens, 1500 of KV
    expected = computed + read + 0.2 + 80 * 40.5 * 1e-6 + 50 * 1e-4
    mixed = (20, 1500, 80, 80 * 40.5, 50)
    assert law.mixed_duration(*mixed) == pytest.approx(expected, rel=1e-12)
    many = law.scaled(3).mixed_duration(*(3 * each for each in mixed))
    assert many == pytest.approx(expected, rel=1e-12)
    assert law.in_unit(1e3).mixed_duration(*mixed) == pytest.approx(1e3 * expected, rel=1e-12)


@pytest.mark.parametrize("rows", [[], "12", [[1, 2, 3]], [[2, 1], [1, 2]], [[1, 2], [2, 1]],
                                  [[-1, 0]], [[1, float("nan")]], [[1, True]]])  # fmt: skip
def test_a_bad_table_is_refused(rows):
    with pytest.raises(ConfigError, match="d_decode_table"):
        BatchTimeLaw.tabulated(rows)
