"""Every command with every bad value of every option that it takes: status 2, one line, no file."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from fluidserve.cli import COMMANDS, cli

NO_NUMBER = ("nan", "inf", "-1", "", "abc", "1e400", "0x10", "1:2", "--", "\u00bd")
NO_COUNT = (*NO_NUMBER, "1.5", "9" * 5000, "99999999999999999999", "-0.5", "1e3.5")
NO_FILE = ("nope.csv", "nowhere/nope.csv", "/proc/nope/x", ".", "x" * 5000)
NO_NAME = ("", "nonsense", "1", "None", "a,b", "\u00e9", "x" * 5000)
COUNTS = {
    "--limit", "--num-requests", "--scale", "--tp", "--replications", "--workers", "--M-total",
    "--B",
    "--L-filter", "--seed", "--progress-interval", "--run-length", "--max-run-length", "--scan",
    "--batches-per-step", "--steps-per-row", "--windows", "--max-num-batched-tokens",
    "--longest-gap",
}  # fmt: skip
NUMBERS = {
    "--rate-scale", "--horizon", "--arrival-rate", "--burstiness", "--load", "--d-0", "--d-decode",
    "--d-kv", "--d-swap", "--d-1", "--admission-threshold", "--gpu-memory-utilization", "--until",
    "--initial-waiting", "--tolerance", "--confidence", "--kv-capacity", "--mean-decode",
}  # fmt: skip
FILES = {"--requests", "--trace", "--config", "--lengths", "--resume", "--inject"}
NAMES = {
    "--scenario", "--types", "--rate-shape", "--format", "--mode", "--queue-policy",
    "--victim-policy", "--batch-priority", "--time-unit", "--engine", "--goodput", "--slo",
    "--bracket", "--loads", "--law", "--hardware",
}  # fmt: skip
VALUES = {
    **dict.fromkeys(COUNTS, NO_COUNT), **dict.fromkeys(NUMBERS, NO_NUMBER),
    **dict.fromkeys(FILES, NO_FILE), **dict.fromkeys(NAMES, NO_NAME),
}  # fmt: skip
FINE = {
    ("--start", "-1"), ("--M-total", "9" * 5000), ("--format", "1"), ("--law", ""),
    ("--hardware", "1"), ("--hardware", "None"), ("--engine", "1"), ("--kv-capacity", "-1"),
}  # fmt: skip
ARGUMENTS = {
    ("trace", "convert"): ["good.csv", "out.csv"],
    ("calibrate", "steps"): ["good.csv"],
    ("calibrate", "run"): ["good.csv"],
    ("experiments", "details"): ["x"],
    ("experiments", "compare"): ["x", "y"],
    ("plot",): ["nowhere"],
    ("sweep",): ["nope.yaml"],
    ("tune",): ["max-rate"],
    ("profiles", "show"): ["--model", "nonsense", "--hardware", "nonsense"],
    ("completion",): ["bash"],
}
SWEPT = ("generate", "solve", "analyze", "compare", "trace", "calibrate", "profiles", "equations")
"""Commands whose every option is swept: the others share the options and their checks."""

GOOD = "arrival_time,prefill_length,decode_length\n0.5,20,30\n1.5,10,5\n"


def leaves(command, path=()):
    """Yield the path of each command that is no group, and the command."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from leaves(command.get_command(click.Context(command), name), (*path, name))
    else:
        yield path, command


LEAVES = dict(leaves(cli))


def lines(path, command):
    """Yield command lines that are all wrong."""
    words = [*path, *ARGUMENTS.get(path, [])]
    yield [*words, "--nonsense"]
    yield [*words, "--nonsense", "1"]
    yield [*words, "too", "many", "words", "\u00e9"]
    for param in command.params:
        if not isinstance(param, click.Option) or param.is_flag:
            continue
        yield [*words, param.opts[0]]  # its value is missing
        for value in VALUES.get(param.opts[0], ()) if path[0] in SWEPT else ():
            if (param.opts[0], value) not in FINE:
                yield [*words, param.opts[0], value]


def test_the_sweep_is_over_every_command_and_wide():
    assert {path[0] for path in LEAVES} == set(COMMANDS)
    assert len({(flag, value) for flag, values in VALUES.items() for value in values}) >= 60
    wide = [path for path, command in LEAVES.items() if len(list(lines(path, command))) >= 60]
    assert {path[0] for path in wide} >= {"generate", "solve", "analyze", "compare"}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_bad_input_is_one_line_and_status_2(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text(GOOD)
    faults = {}
    for line in lines(path, LEAVES[path]):
        done = CliRunner().invoke(cli, line)
        said = done.stderr.splitlines()
        clean = done.exit_code == 2 and not done.stdout and len(said) == 1 and len(said[0]) < 3000
        left = [each.name for each in tmp_path.iterdir() if each.name != "good.csv"]
        if not clean or left:
            faults[" ".join(line)[-60:]] = (done.exit_code, left, done.stderr[:200], done.exception)
    assert not faults, f"{len(faults)}: {dict(list(faults.items())[:12])}"
