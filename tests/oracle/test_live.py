"""The engines against vLLM's own schedulers, on cases that are drawn and run here.

They run where ``FLUIDSERVE_ORACLE=1`` is set, after ``bash scripts/oracle.sh``. The gate does both
where a package registry is reached. ``benchmarks/oracle.py`` compares any number of cases.
"""

from __future__ import annotations

import os

import golden
import our_side
import pytest
from compare import difference
from families import COMPARED, make
from real_side import RealScheduler

CASES = 60
FIRST = 10_000
"""The benchmark starts at 0, so that these are other cases."""

EVERY = [(engine, version, f) for (engine, version), fs in COMPARED.items() for f in fs]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("FLUIDSERVE_ORACLE") != "1",
        reason="FLUIDSERVE_ORACLE=1 asks for the real schedulers; scripts/oracle.sh fetches them",
    ),
]


@pytest.mark.parametrize(("engine", "version", "family"), EVERY)
def test_decisions_are_those_of_vllm(engine, version, family):
    found = []
    with RealScheduler(engine, version) as real:
        for number in range(FIRST, FIRST + CASES):
            case = make(family, number, engine, version)
            found.append(difference(case.name, our_side.run(case), real.run(case)))
    assert [str(each) for each in found if each] == []


@pytest.mark.parametrize(("engine", "version"), list(COMPARED))
def test_golden_cases_are_what_vllm_decides(engine, version):
    with RealScheduler(engine, version) as real:
        for case, recorded in golden.read(engine, version):
            now = golden.without_times(real.run(case))
            assert now == recorded, case.name
