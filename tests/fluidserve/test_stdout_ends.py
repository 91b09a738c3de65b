"""A stdout that is closed, full or read by nobody: the command ends clean and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["completion bash", "profiles list", "equations --format text"]


def ended(line, shell):
    """Return how a command ended whose stdout a shell prepared."""
    command = f'"{sys.executable}" -m fluidserve {line}'
    root = Path(__file__).parents[2]
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; cd {root}; {command} {shell}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS[:2])
def test_a_reader_that_does_not_read(line):
    done = ended(line, "| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stdout():
    done = ended(COMMANDS[1], ">&-")
    assert done.returncode == 2 and done.stderr.startswith("fluidserve: stdout is closed")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device here")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_full_stdout(line):
    done = ended(line, "> /dev/full")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "the result cannot be printed: No space left on device" in done.stderr
