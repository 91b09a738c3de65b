"""The engines decide what vLLM's schedulers decided on the golden cases, column by column.

``python tests/oracle/golden.py`` records them anew.
"""

from __future__ import annotations

import golden
import our_side
import pytest
from compare import difference
from families import COMPARED

EVERY = [(engine, version, f) for (engine, version), fs in COMPARED.items() for f in fs]


@pytest.mark.parametrize(("engine", "version", "family"), EVERY)
def test_decisions_are_those_of_vllm(engine, version, family):
    differences = []
    for case, theirs in golden.read(engine, version):
        if case.name.startswith(f"{family}/"):
            differences.append(difference(case.name, our_side.run(case), theirs))
    besides = golden.BESIDES.get((engine, family), ())
    assert len(differences) == golden.CASES[family] + len(besides)
    found = [str(each) for each in differences if each]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("engine", "version"), list(COMPARED))
def test_golden_cases_show_what_they_are_for(engine, version):
    """Victims, waiting for ever, dropped requests and the like are each in some case."""
    seen = set().union(*(golden.shows(answer) for _, answer in golden.read(engine, version)))
    wanted = {"finished", "preempted", "several victims"}
    if engine == "vllm_v0":
        wanted |= {"swapped_out", "swapped_in", "ignored", "raised:RuntimeError"}
    else:
        wanted |= {"hits", "aborted", "stuck"}
    if "spec" in COMPARED[engine, version]:
        wanted |= {"drafts"}
    assert wanted <= seen
