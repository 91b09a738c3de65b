"""The derivation notebook runs from top to bottom; its own assertions are the test."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
def test_derivation_runs(capsys):
    pytest.importorskip("IPython")
    runpy.run_path(str(NOTEBOOKS / "derivation.py"))
    printed = capsys.readouterr().out
    assert "flow list - one batch = 0" in printed
    assert "tau dU/dt = beta*(M - U)" in printed


def test_paired_notebook_has_the_same_code():
    notebook = json.loads((NOTEBOOKS / "derivation.ipynb").read_text(encoding="utf-8"))
    script = (NOTEBOOKS / "derivation.py").read_text(encoding="utf-8")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    for cell in cells:
        assert "".join(cell["source"]) in script
