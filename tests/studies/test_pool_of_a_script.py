"""Worker processes do not run the caller's script, so they cannot have its functions."""

from __future__ import annotations

import pytest

from serving import FluidServeError
from studies.pool import worker_pool


def twice(shared, task):
    return 2 * task


def test_a_function_of_the_script_that_runs_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(twice, "__module__", "__main__")
    with pytest.raises(FluidServeError, match="put it into a module"), worker_pool(twice, None, 2):
        pass
