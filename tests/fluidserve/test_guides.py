"""The guides tell the truth: their Python runs, their commands and links exist."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fluidserve.cli import COMMANDS, cli
from fluidserve.text import number

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


def blocks(root, guide, language):
    text = (root / guide).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize("guide", GUIDES)
def test_python_in_a_guide_prints_what_it_says(root, guide):
    known = {}  # what a block defines, the next ones use
    for block in blocks(root, guide, "python"):
        test = doctest.DocTestParser().get_doctest(block, known, guide, guide, 0)
        assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
        known = test.globs


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_in_a_guide_exist_with_their_options(root, guide):
    for block in blocks(root, guide, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["bash"]:
                assert (root / words[1]).is_file()
            if words[:1] != ["fluidserve"]:
                continue
            assert words[1] in COMMANDS
            has_more = hasattr(cli.get_command(click.Context(cli), words[1]), "commands")
            shown = CliRunner().invoke(cli, [*words[1 : 3 if has_more else 2], "--help"]).stdout
            for option in (word for word in words[2:] if word.startswith("--")):
                assert re.search(rf"{re.escape(option)}\b", shown), (line, option)


def test_the_example_of_a_policy_gives_what_its_guide_says(root, tmp_path, monkeypatch):
    (code,) = blocks(root, "docs/policies.md", "python")
    (tmp_path / "policies.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks(root, "docs/policies.md", "bash")
    for line in commands.splitlines():
        quick = ["--no-events", "--no-verbose"] if "simulate" in line else []
        done = CliRunner().invoke(cli, [*shlex.split(line)[1:], *quick])
        assert done.exit_code == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    text = (root / "docs/policies.md").read_text(encoding="utf-8")
    for row, mean, p99 in zip(
        ("`FCFS`", "`SJF`", "`policies.py:short_first`"),
        metrics["mean_e2el"]["values"], metrics["p99_e2el"]["values"], strict=True,
    ):  # fmt: skip
        assert f"| {row} | {number(mean)} | {number(p99)} |" in text


def test_the_table_of_the_guide_on_routing_is_what_its_command_prints(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (root / "docs/routing.md").read_text(encoding="utf-8")
    line = blocks(root, "docs/routing.md", "bash")[0]
    quick = ["--no-verbose", "--workers", "1", "--table"]
    done = CliRunner().invoke(cli, [*shlex.split(line)[1:], *quick])
    assert done.exit_code == 0, done.stderr
    rows = done.stdout.partition("load 0.9")[2].splitlines()[1:]
    assert len(rows) == 5
    for row in rows:
        policy, *cells = re.split(r"\s{2,}", row)
        assert f"| `{policy}` | {' | '.join(cells)} |" in text, row


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(root, guide):
    text = (root / guide).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((root / guide).parent / target).exists(), target


def test_names_in_the_glossary_exist(root):
    text = (root / "docs/glossary.md").read_text(encoding="utf-8")
    rooms = r"fs|serving|fluid|ode|workload|studies"
    names = re.findall(rf"`({rooms})\.(\w+(?:\.\w+)*)", text)
    assert len(names) > 30
    for room, path in names:
        found = importlib.import_module("fluidserve" if room == "fs" else room)
        for part in path.split("."):
            if not hasattr(found, part):
                found = importlib.import_module(f"{found.__name__}.{part}")
            else:
                found = getattr(found, part)
