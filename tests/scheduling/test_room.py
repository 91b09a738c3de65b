"""The map of the room names every file in it."""

import re
from pathlib import Path

import pytest

import scheduling

FILES = sorted(path.stem for path in Path(scheduling.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("name", [each for each in FILES if each != "__init__"])
def test_a_file_is_on_the_map(name):
    assert re.search(rf"\b{name}\b", scheduling.__doc__ or "")
