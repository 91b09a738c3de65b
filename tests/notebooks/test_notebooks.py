"""Every notebook runs from top to bottom, and its two forms hold the same code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        "derivation",
        "fluid_limit",
        "fluid_vs_discrete",
        "full_memory",
        "one_node",
        "online_predictor",
        "phase_diagram",
        "vllm_server",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_paired_notebook_has_the_same_cells(path):
    jupytext = pytest.importorskip("jupytext")
    script, notebook = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    cells = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (script, notebook)]
    assert cells[0] == cells[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setitem(os.environ, "FLUIDSERVE_QUICK", "1")
    notebook = jupytext.read(path)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(
        cwd=str(path.parent)
    )
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(ran) > 4
    assert all(cell.execution_count for cell in ran)
