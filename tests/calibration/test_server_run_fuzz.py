"""Files that nobody meant: ``calibrate run`` reads them or refuses them in one line.

``FLUIDSERVE_FUZZ=10000`` tries that many; a run of the tests tries a few hundred.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from chunked_prefill_server import serve
from mutants import mutants, read_or_refused
from server_files import every_kind

from calibration.server_runs import calibrate_run, read_server_log

LAW = (0.0111, 4e-5, 6e-5, 9.07e-8)


@pytest.fixture(scope="module")
def files():
    rng = np.random.default_rng(0)
    arrival = np.cumsum(rng.exponential(0.5, 36))
    served = serve(arrival, rng.integers(5, 300, 36), rng.integers(30, 130, 36), LAW, noise=0.02)
    return [text.encode() for text in every_kind(served, 50_000).values()]


def fit(path):
    text = path.read_bytes()
    scraped = b"vllm:" in text  # of other files the options are refused
    options: dict[str, Any] = {"skip_gaps": True} if scraped and len(text) % 2 else {}
    if scraped and b"# TYPE" in text:  # scrapes as they come, without a clock
        options["interval"] = 1.0
    log = read_server_log(path, **options)
    found = calibrate_run(log, path=path)
    assert np.isfinite(found.law.value[0])
    assert found.coefficients()


def test_the_files_themselves_are_read_and_fitted(files, tmp_path):
    path = tmp_path / "run"
    assert read_or_refused(files, path, fit) == (len(files), 0)


def test_a_damaged_file_is_read_or_refused_in_one_line(files, tmp_path):
    read, refused = read_or_refused(mutants(files, 120, 1), tmp_path / "run", fit)
    assert read > 15 and refused > 15


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused_in_one_line(files, tmp_path):
    count = int(os.environ.get("FLUIDSERVE_FUZZ", "250"))
    read, refused = read_or_refused(mutants(files, count, 2), tmp_path / "run", fit)
    assert min(read, refused) > count / 10
