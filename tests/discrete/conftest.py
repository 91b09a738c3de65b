"""Modules of this folder, for tests that are not a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference():
    """Return the class of the plain-Python engine."""
    path = Path(__file__).parent / "reference.py"
    spec = importlib.util.spec_from_file_location("decode_node_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DecodeNodeReference
