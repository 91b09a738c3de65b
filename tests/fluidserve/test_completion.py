"""Shells complete commands, options and values; names of commands import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import BashComplete

from fluidserve.cli import COMMANDS, cli
from fluidserve.completion import SHELLS, VARIABLE


def completions(*words):
    """Return what the last word of a line is completed to."""
    *before, last = words
    shell = BashComplete(cli, {}, "fluidserve", VARIABLE)
    return [item.value for item in shell.get_completions(list(before), last)]


def test_commands_are_completed_without_importing_them():
    code = (
        "import sys\nfrom click.shell_completion import BashComplete\n"
        "from fluidserve.cli import cli\n"
        "found = BashComplete(cli, {}, 'fluidserve', 'X').get_completions([], '')\n"
        "assert not {'numpy', 'serving', 'fluidserve.options'} & set(sys.modules)\n"
        "print(*(item.value for item in found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(COMMANDS) == set(done.stdout.split())
    assert completions("sim") == ["simulate"]
    assert completions("profiles", "") == ["list", "show"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("simulate", "--mo"), {"--model", "--mode"}),
        (("simulate", "--mode", ""), {"swapping", "sacrifice"}),
        (("simulate", "--engine", "dec"), {"decode_node"}),
        (("simulate", "--scenario", ""), {"normal", "heavy", "bursty"}),
        (
            ("solve", "--model", "llama-3.1"),
            {"meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"},
        ),
        (("profiles", "show", "--hardware", "h1"), {"H100"}),
        (("solve", "--method", "node"), {"node_work"}),
        (("compare", "--methods", "lagrangian,eulerian_s"), {"lagrangian,eulerian_scipy"}),
        (("tune", "max"), {"max-rate"}),
        (("tune", "max-rate,adm"), {"max-rate,admission-threshold"}),
        (("simulate", "--format", "azu"), {"azure"}),
        (("completion", ""), set(SHELLS)),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_options_and_values_are_completed(words, expected):
    found = set(completions(*words))
    assert found >= expected
    if words[-1]:
        assert len(found) < 6


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "--trace", "tra"),
        ("calibrate", "steps", "st"),
        ("plot", "d"),
        ("solve", "--out", "d"),
    ],
)
def test_files_and_folders_are_left_to_the_shell(words):
    shell = BashComplete(cli, {}, "fluidserve", VARIABLE)
    (item,) = shell.get_completions(list(words[:-1]), words[-1])
    assert item.type == ("dir" if words[0] in ("plot", "solve") else "file")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_asks_for_completions(run, shell):
    done = run("completion", shell)
    assert done.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in done.stdout and "fluidserve" in done.stdout
