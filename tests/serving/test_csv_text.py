"""The text of a CSV file is Python's own, number by number."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import csv_text
from serving.csv_text import csv_pieces


def plain(columns, nan):
    """Return the text as a plain loop writes it."""

    def word(value):
        return nan if isinstance(value, float) and math.isnan(value) else str(value)

    rows = zip(*(each.tolist() for each in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(map(word, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


KINDS = {
    "float": (st.floats(), np.float64),
    "whole": (st.integers(-(2**63), 2**63 - 1), np.int64),
    "small": (st.integers(0, 255), np.uint8),
    "truth": (st.booleans(), np.bool_),
    "words": (st.sampled_from(["arrive", "", "swap_out"]), np.str_),
}


@st.composite
def tables(draw):
    size = draw(st.integers(0, 9))
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6))
    columns = {}
    for i, kind in enumerate(kinds):
        values, dtype = KINDS[kind]
        drawn = draw(st.lists(values, min_size=size, max_size=size))
        columns[f"{kind}_{i}"] = np.array(drawn, dtype=dtype)
    return columns


@given(tables(), st.sampled_from(["NaN", "nan"]), st.integers(1, 4))
def test_every_number_is_written_as_python_writes_it(columns, nan, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_text, "ROWS_AT_ONCE", at_once)
        assert b"".join(csv_pieces(columns, nan)) == plain(columns, nan)


def test_numbers_of_every_size_read_back_as_themselves():
    rng = np.random.default_rng(3)
    values = rng.uniform(-1, 1, 20_000) * 10.0 ** rng.uniform(-320, 308, 20_000)
    edges = [0.0, -0.0, 1e-4, 9.999999999999999e-5, 1e16, 9999999999999998.0, 5e-324, math.inf]
    column = np.concatenate([values, edges])
    text = b"".join(csv_pieces({"x": column, "y": -column}))
    assert text == plain({"x": column, "y": -column}, "NaN")
