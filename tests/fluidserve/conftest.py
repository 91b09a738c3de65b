from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside a checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("FLUIDSERVE_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("no shared data: set FLUIDSERVE_SHARED")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command line in an empty folder: ``run("solve", "--load", 1)`` -> click's result."""
    from click.testing import CliRunner

    from fluidserve.cli import cli

    monkeypatch.chdir(tmp_path)

    def invoke(*args):
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    return invoke
