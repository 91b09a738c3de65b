"""Every command with bad values of every option that it takes: status 2, one line, no file."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from fluidserve.cli import COMMANDS, cli

NO_NUMBER = ("x", "nan", "", "1e999", "-inf", "1,5", "0x10", "\u00bd", "--", "-1")
NO_COUNT = (*NO_NUMBER, "1.5", "9" * 5000)
NO_FILE = (
    "nope.csv", "nowhere/x", "folder", "binary", "good.csv/x", "/dev/null", "/dev/zero", "",
    "x" * 5000, "\0",
)  # fmt: skip
NO_PLACE = ("good.csv/x", "/dev/null/x", "/proc/nope/x", "", "x" * 5000, "\0")
NO_NAME = ("", "nonsense", "1", "None", "a,b", "\u00e9", "x" * 5000, "\0")

COUNTS = {
    "--limit", "--L-filter", "--num-requests", "--scale", "--seed", "--tp", "--M-total", "--B",
    "--progress-interval", "--at-batch", "--batches-per-step", "--replications", "--workers",
    "--scan", "--run-length", "--max-run-length", "--max-num-batched-tokens", "--result",
    "--steps-per-row", "--windows", "--longest-gap", "--mean-decode", "--hash-block-size",
    "--turns", "--sessions", "--system-prompts", "--system-prompt-length", "--replicas", "--seeds",
    "--port", "--max-in-flight",
}  # fmt: skip
NUMBERS = {
    "--start", "--rate-scale", "--horizon", "--arrival-rate", "--burstiness", "--load",
    "--gpu-memory-utilization", "--admission-threshold", "--d-0", "--d-decode", "--d-kv",
    "--d-swap", "--d-prefill", "--d-prefill-attention", "--d-prefill-context", "--d-mixed-decode",
    "--measured-requests", "--d-1", "--until", "--inject-at", "--initial-waiting", "--step",
    "--tolerance", "--confidence", "--interval", "--kv-capacity", "--think-time",
    "--answer-token-time", "--within", "--budget", "--signal-period", "--signal-delay",
    "--decision-time", "--patience", "--snapshot-every", "--stale-after", "--lost-reports",
    "--doubled-reports", "--reordered-reports", "--gpu-price",
}  # fmt: skip
FILES = {
    "--requests", "--trace", "--lengths", "--config", "--resume", "--inject", "--token-file",
}  # fmt: skip
PLACES = {
    "--output", "--out", "--config-out", "--save-state", "--bench-json", "--llmd-report", "--state",
}  # fmt: skip
WRONG = {
    **dict.fromkeys(COUNTS, NO_COUNT), **dict.fromkeys(NUMBERS, NO_NUMBER),
    **dict.fromkeys(FILES, NO_FILE), **dict.fromkeys(PLACES, NO_PLACE),
    "run": NO_FILE,
    "source": NO_FILE, "file": NO_FILE, "folder": NO_FILE, "grid": NO_FILE, "output": NO_PLACE,
}  # fmt: skip
"""Values that are not allowed, by option or argument; of others they are :data:`NO_NAME`."""

ALLOWED = {
    ("--config", "/dev/null"): "a configuration that says nothing",
    ("--loads", "1"): "a load",
    ("--metric-percentiles", "1"): "a percentile",
    ("--d-decode-table", "None"): "null",
    ("--d-prefill-table", "None"): "null",
    ("--d-mixed-kv-table", "None"): "null",
}
ALREADY = {
    ("trace", "convert"): ["good.csv", "out.csv"],
    ("calibrate", "steps"): ["steps.csv"],
    ("calibrate", "run"): ["run.csv"],
    ("experiments", "details"): ["x"],
    ("experiments", "compare"): ["x", "y"],
    ("plot",): ["nowhere"],
    ("sweep",): ["grid.yaml"],
    ("tune",): ["max-rate", "--slo", "mean_ttft<5"],
    ("profiles", "show"): ["--model", "llama-3.1-8b", "--hardware", "H100"],
    ("completion",): ["bash"],
    ("validate",): ["run.csv"],
}
"""Arguments that a command needs before it looks at its options."""

PROFILE = ["--model", "llama-3.1-8b", "--hardware", "H100"]
BESIDE = {
    **dict.fromkeys(
        ("--format", "--columns", "--trace-time-unit", "--hash-block-size", "--limit", "--start",
         "--rate-scale"),
        ("--requests", "good.csv"),
    ),
    "--turns": ["--think-time", "1"],
    "--think-time": ["--turns", "2"],
    "--answer-token-time": ["--turns", "2", "--think-time", "1"],
    "--sessions": ["--turns", "2", "--think-time", "1"],
    "--system-prompts": ["--system-prompt-length", "9"],
    "--system-prompt-length": ["--system-prompts", "2"],
    "--tp": PROFILE, "--gpu-memory-utilization": PROFILE,
    "--snapshot-every": ["--state", "state.npz"],
    "--step": ["--method", "eulerian_jax"],
    "--at-batch": ["--save-state", "state.npz"],
    "--inject-at": ["--inject", "good.csv"],
    **dict.fromkeys(
        ("--percentile-metrics", "--metric-percentiles"),
        ("--bench-json", "b.json", "--time-unit", "s"),
    ),
}  # fmt: skip
"""Options without which another would be refused whatever its value."""

FILES_THERE = {
    "steps.csv": "hardware,model,tp,step_time_ms,decode_tokens,kv_tokens\n"
    + "".join(f"A,m,2,{5 + n / 10},{n},{100 * n}\n" for n in (3, 7, 14, 28, 56, 112) * 4),
    "run.csv": "arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens\n"
    + "".join(
        f"{k},{k + 0.1 + k % 3 / 50},{k + 2 + k % 7 / 3},{50 + k},{60 + k % 7 * 10}\n"
        for k in range(200)
    ),
    "good.csv": b"arrival_time,prefill_length,decode_length\n0.5,20,30\n1.5,10,5\n",
    "binary": bytes(range(256)) * 20,
    "grid.yaml": b"x: [1\n",
}


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
    words = [*path, *ALREADY.get(path, [])]
    names = {param.opts[0] for param in command.params}
    yield [*words, "--nonsense"]
    yield [*words, "--nonsense", "1"]
    yield [*words, "--help=1"]
    yield [*words, "-x"]
    yield [*words, "too", "many", "words", "\u00e9"]
    for param in command.params:
        if isinstance(param, click.Argument):
            for value in WRONG.get(param.name, NO_NAME):
                yield [*path, *_arguments(path, param.name, value)]
        elif param.is_flag:
            yield [*words, f"{param.opts[0]}=maybe"]
        else:
            beside = BESIDE.get(param.opts[0], [])
            beside = beside if beside and beside[0] in names else []
            yield [*words, *beside, param.opts[0]]  # its value is missing
            for value in WRONG.get(param.opts[0], NO_NAME):
                if (param.opts[0], value) not in ALLOWED:
                    yield [*words, *beside, param.opts[0], value]


def _arguments(path, name, value):
    if path == ("trace", "convert"):
        return [value, "out.csv"] if name == "source" else ["good.csv", value]
    return [value]


def test_the_sweep_is_over_every_command_and_wide():
    assert {path[0] for path in LEAVES} == set(COMMANDS)
    counts: dict[str, int] = {}
    for path, command in LEAVES.items():
        counts[path[0]] = counts.get(path[0], 0) + len(list(lines(path, command)))
    few = {"plot", "equations", "bench", "completion", "sweep", "phase-diagram", "profiles"}
    assert {name for name, count in counts.items() if count < 60} <= few, counts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES_THERE.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_bad_input_is_one_line_and_status_2(path, folder):
    before = {each.relative_to(folder) for each in folder.rglob("*")}
    faults = {}
    for line in lines(path, LEAVES[path]):
        done = CliRunner().invoke(cli, line)
        said = done.stderr.splitlines()
        clean = (
            done.exit_code == 2
            and not done.stdout
            and len(said) == 1
            and said[0].startswith("fluidserve: ")
            and len(said[0]) < 2100
        )
        left = {each.relative_to(folder) for each in folder.rglob("*")} - before
        if not clean or left:
            faults[" ".join(line)[-60:]] = (done.exit_code, left, done.stderr[:200], done.exception)
    assert not faults, f"{len(faults)}: {dict(list(faults.items())[:12])}"


@pytest.mark.parametrize(("flag", "value"), ALLOWED)
def test_what_the_sweep_leaves_out_is_allowed(flag, value, folder):
    if flag == "--loads":
        from fluidserve.commands.phase_diagram import _loads

        assert _loads(value) == (1.0,)
        return
    if flag == "--metric-percentiles":
        from fluidserve.exports.bench_serve import parse_percentiles

        assert parse_percentiles(value) == (1.0,)
        return
    done = CliRunner().invoke(cli, ["generate", "--num-requests", "2", flag, value])
    assert done.exit_code == 0, done.stderr


RATES = [
    ("generate --arrival-rate 5e-324", ["--arrival-rate", ">= 1e-250"]),
    ("simulate --load 1e-308", ["--load 1e-308", ">= 1e-250"]),
    ("solve --load 1e-308", ["--load 1e-308", ">= 1e-250"]),
    ("simulate --arrival-rate 1e-20", ["too late to time batches", "arrivals up to"]),
    ("solve --arrival-rate 1e-20", ["too late to time batches", "arrivals up to"]),
]


@pytest.mark.parametrize(("line", "words"), RATES, ids=[line for line, _ in RATES])
def test_a_rate_too_low_to_be_a_number_is_refused(line, words, folder):
    done = CliRunner().invoke(cli, line.split())
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


IGNORED = [
    ("calibrate run run.csv --engine 0", "--engine is for scraped metrics"),
    ("calibrate run run.csv --label pod=a", "--label is for scraped metrics"),
    ("calibrate run run.csv --interval 5", "--interval is for scraped metrics"),
    ("calibrate run run.csv --skip-gaps", "--skip-gaps is for scraped metrics"),
    ("calibrate steps steps.csv --kv-capacity 500", "--out"),
]


@pytest.mark.parametrize(("line", "words"), IGNORED, ids=[line for line, _ in IGNORED])
def test_an_option_that_the_file_has_no_use_for_is_refused(line, words, folder):
    done = CliRunner().invoke(cli, line.split())
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
