"""Results are a table of 80 columns on a terminal and JSON elsewhere; a flag chooses."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from fluidserve.cli import cli
from fluidserve.front import SECTIONS, Command
from fluidserve.text import number

FEW = ("--load", 0.7, "--num-requests", 60, "--no-verbose")
PROFILE = ("--model", "Llama-3.1-8B", "--hardware", "RTX4090")


@pytest.fixture
def folder(run, tmp_path):
    """A folder with requests, step times and two experiments."""
    rows = ["step_time_ms,decode_tokens,kv_tokens"]
    rows += [
        f"{12 + 0.02 * n + 1e-4 * n * c},{n},{n * c}"
        for n in (1, 2, 4, 8, 16, 32)
        for c in (9, 99, 999)
    ]
    (tmp_path / "law.csv").write_text("\n".join(rows) + "\n")
    run("generate", "--num-requests", 9)
    for name, load in (("a", 0.5), ("b", 0.8)):
        more = ("--load", load, "--num-requests", 20, "--out", f"home/{name}")
        done = run("solve", "--method", "lagrangian", *more)
        assert done.exit_code == 0, done.stderr
    return tmp_path


def of_metrics(*keys):
    return lambda found: [found["workload"]["load"], *(found["metrics"][key] for key in keys)]


def of_comparison(found):
    whole = [found["discrete"], *found["methods"].values()]
    return [each["metrics"][key] for each in whole for key in ("mean_ttft", "p99_e2el")]


LINES = [
    (("generate", *FEW[:4]), lambda found: [found["workload"]["load"], 60]),
    (("trace", "convert", "requests.csv", "x.csv"), lambda found: [found["workload"]["requests"]]),
    (
        ("simulate", *FEW, "--goodput", "ttft:50"),
        of_metrics("mean_ttft", "p99_e2el", "request_goodput", "request_throughput"),
    ),
    (
        ("simulate", "--engine", "decode_node", *FEW, *PROFILE),
        of_metrics("mean_ttft_ms", "p99_e2el_ms", "completed"),
    ),
    (("solve", "--method", "lagrangian", *FEW), of_metrics("mean_ttft", "p95_tpot")),
    (
        ("solve", "--within", 0.5, *FEW, *PROFILE),
        of_metrics("mean_ttft_ms", "p50_queue_delay_ms"),
    ),
    (
        ("compare", *FEW, "--replications", 2, "--methods", "lagrangian,node_work",
         "--no-pictures"),
        of_comparison,
    ),
    (("analyze", "--load", 0.7, "--within", 0.5), of_metrics("mean_ttft", "p99_e2el")),
    (
        ("analyze", "--load", 1.3, "--horizon", 300, "--method", "model"),
        of_metrics("mean_ttft", "p99_e2el"),
    ),
    (
        ("analyze", "--load", 0.7, "--method", "model", *PROFILE),
        of_metrics("mean_ttft_ms", "p99_e2el_ms"),
    ),
    (("profiles", "list"), lambda found: []),
    (("profiles", "show", *PROFILE), lambda found: [found["law"]["d_0"], found["kv_capacity"]]),
    (
        ("experiments", "list", "--home", "home"),
        lambda found: [each[key] for each in found for key in ("load", "mean_ttft", "mean_e2el")],
    ),
    (("experiments", "stats", "--home", "home"), lambda found: [found["metrics"]["load"]["mean"]]),
    (("experiments", "details", "a", "--home", "home"), of_metrics("mean_ttft", "p99_e2el")),
    (
        ("experiments", "compare", "a", "b", "--home", "home"),
        lambda found: found["metrics"]["p99_e2el"]["values"],
    ),
    (("experiments", "export", "--home", "home"), lambda found: [found["columns"]]),
    (
        ("calibrate", "steps", "law.csv", "--no-compare"),
        lambda found: [each["value"] for each in found["coefficients"]],
    ),
    (("plot", "home/a"), lambda found: []),
]  # fmt: skip


def named(each):
    return " ".join(map(str, each[:3])) if isinstance(each, tuple) else ""


@pytest.mark.parametrize(("line", "numbers"), LINES, ids=named)
def test_a_table_fits_a_terminal_and_says_what_json_says(run, folder, line, numbers):
    found = json.loads(run(*line, "--json").stdout)
    done = run(*line, "--table")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert 1 <= len(lines) <= 45 and max(map(len, lines)) <= 80
    assert not any(mark in done.stdout for mark in ("{", "None", "nan", "warning:"))
    for value in numbers(found):
        assert number(value) in done.stdout, value


ON_A_TERMINAL = """
import pty, sys
sys.exit(pty.spawn([sys.executable, "-m", "fluidserve", *sys.argv[1:]]) >> 8)
"""


@pytest.mark.parametrize(
    ("flag", "is_json"), [((), False), (("--json",), True), (("--table",), False)]
)
def test_a_terminal_gets_a_table_unless_json_is_asked_for(tmp_path, flag, is_json):
    line = ["generate", "--num-requests", "5", *flag]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL, *line], cwd=tmp_path, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert ("{" in done.stdout) == is_json and "requests" in done.stdout


def test_a_pipe_gets_json_unless_a_table_is_asked_for(run):
    assert json.loads(run("generate", "--num-requests", 5).stdout)["workload"]["requests"] == 5
    for flag in ("--table", "--no-json"):
        assert run("generate", "--num-requests", 5, flag).stdout.startswith("requests")


def every_command(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))
        else:
            yield (*path, name), found


@pytest.mark.parametrize(("path", "command"), list(every_command(cli)), ids=named)
def test_every_command_has_sections_and_a_choice_of_output(run, path, command):
    assert isinstance(command, Command)
    shown = run(*path, "--help").stdout
    # a service answers its callers, and equations and completions are text anyhow
    assert ("--json" in shown) == (path[0] not in ("equations", "completion", "serve"))
    titles = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        title for title in (*(f"{each}:" for each in SECTIONS), "Options:") if title in titles
    ]


def test_an_answer_says_where_it_was_met_and_missed():
    from fluidserve.words import measured_words

    found = {"time_unit": "s", "measured": {"backlog_growth": -2.118e-22, "p99_ttft": 1.59,
                                            "mean_tpot_ms": None}}  # fmt: skip
    assert measured_words(found) == [
        "backlog growth 0.00 % of arrivals", "p99 ttft 1.59 s", "mean tpot - ms",
    ]  # fmt: skip
    found = {"time_unit": "none", "measured": {"backlog_growth": 0.0041}}
    assert measured_words(found) == ["backlog growth 0.41 % of arrivals"]


def test_a_long_warning_is_wrapped_on_a_terminal_only(monkeypatch, capsys):
    from fluidserve.progress import tell

    said = "warning: " + "some words about what was left out; " * 6
    tell(said)
    assert capsys.readouterr().err == said + "\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tell(said)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(len(line) <= 80 for line in lines)
    assert " ".join(" ".join(lines).split()) == said.strip()


def test_what_a_model_does_not_say_has_no_row_in_a_validation():
    from fluidserve.tables.validation import off, score_rows

    told = {"measured": 11.0, "predicted": 10.0, "error": -0.1}
    nothing = {"measured": 11.0, "predicted": float("nan"), "error": float("nan")}
    null = {"measured": 11.0, "predicted": None, "error": None}
    rows = score_rows({"tpot_ms": {"mean": told}, "itl_ms": {"mean": nothing, "p99": null}})
    assert rows == [["TPOT [ms] mean", "11", "10", "-10.0 %"]]
    assert off(float("nan")) == "-"
