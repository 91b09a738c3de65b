"""The command line from the outside: help, results, files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from fluidserve.cli import COMMANDS, cli
from fluidserve.folders import FILES
from ode import METHODS
from serving import LATENCIES, OUTPUTS

SMALL = ("--types", "(20,20,1)", "--M-total", 400, "--B", "none", "--num-requests", 40)
HEAVY_MODULES = ("numpy", "pandas", "jax", "sympy", "matplotlib", "scipy", "numba", "pydantic")
RUN_FILES = {
    "batch_snapshots.csv", "request_traces.csv", "events.csv", "memory_events.csv",
    "summary.txt", "summary.json", "config_used.yaml", "meta.json", "requests.csv",
}  # fmt: skip


def strict_json(text):
    """Parse JSON that holds no NaN or infinity."""

    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_help_imports_nothing_heavy_and_is_quick():
    code = (
        "import sys; from fluidserve.cli import cli\n"
        "try: cli.main(['--help'], prog_name='fluidserve')\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY_MODULES!r} if name in sys.modules])"
    )
    took = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        took.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)
    assert min(took) < 1.0  # 0.05 s where nothing else runs; a tester's machine may be busy


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run, name):
    done = run(name, "--help")
    assert done.exit_code == 0 and "Usage" in done.stdout


def test_without_a_command_there_is_help(run):
    done = run()
    assert done.exit_code == 0 and "Commands" in done.stdout


def test_dash_and_underscore_are_the_same_in_every_option():
    from click.testing import CliRunner

    for option in ("--M-total", "--M_total"):
        done = CliRunner().invoke(cli, ["solve", "--methods", option, "5"])
        assert done.exit_code == 0, done.stderr


def test_generate_writes_requests_and_says_what_they_are(run, tmp_path):
    done = run("generate", "--num-requests", 30, "--load", 0.5, "--seed", 3)
    told = strict_json(done.stdout)
    assert told["workload"]["load"] == pytest.approx(0.5)
    assert told["workload"]["requests"] == 30
    first = (tmp_path / "requests.csv").read_bytes()
    assert first.splitlines()[0] == b"arrival_time,prefill_length,decode_length"
    run("generate", "--num_requests", 30, "--load", 0.5, "--seed", 3, "--output", "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == first


def test_load_stretches_a_file(run, tmp_path):
    run("generate", "--num-requests", 50)
    done = run("generate", "--requests", "requests.csv", "--load", 0.25, "--output", "slow.csv")
    assert strict_json(done.stdout)["workload"]["load"] == pytest.approx(0.25)
    before = np.loadtxt(tmp_path / "requests.csv", delimiter=",", skiprows=1)
    after = np.loadtxt(tmp_path / "slow.csv", delimiter=",", skiprows=1)
    assert np.array_equal(before[:, 1:], after[:, 1:])
    assert after[0, 0] == 0  # a file counts from its first arrival
    ratio = after[1:, 0] / (before[1:, 0] - before[0, 0])
    assert np.allclose(ratio, ratio[0], rtol=1e-12) and ratio[0] > 1


def test_scale_multiplies_the_node_and_the_rate(run):
    given = ("--num-requests", 200, "--arrival-rate", 0.1)
    small = strict_json(run("generate", *given).stdout)["workload"]
    done = run("simulate", *given, "--scale", 10, "--out", "x", "--no-verbose")
    large = strict_json(done.stdout)
    assert large["instance"]["M_total"] == 100_000 and large["instance"]["B"] == 20_000
    assert large["instance"]["d_1"] == pytest.approx(1e-4)
    ratio = large["workload"]["mean_arrival_rate"] / small["mean_arrival_rate"]
    assert ratio == pytest.approx(10)
    assert large["workload"]["requests"] == 200


def test_simulate_writes_every_file_of_a_run(run, tmp_path):
    done = run("simulate", *SMALL, "--seed", 1)
    told = strict_json(done.stdout)
    folder = tmp_path / told["output_dir"]
    assert folder.parent == tmp_path / "data" / "experiments"
    assert folder.name.startswith("experiment_")
    assert set(bytes_of(folder)) == RUN_FILES
    assert told["metrics"]["completed"] == 40 and told["finished"]
    saved = strict_json((folder / "summary.json").read_text())
    assert saved == {k: v for k, v in told.items() if k not in ("seconds", "output_dir")}
    assert strict_json((folder / "meta.json").read_text())["seed"] == 1


def test_the_same_seed_gives_the_same_bytes_in_every_file_but_meta(run, tmp_path):
    for out in ("a", "b"):
        assert run("simulate", *SMALL, "--out", out).exit_code == 0
    a, b = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "b")
    assert a.pop("meta.json") != b.pop("meta.json")
    assert a == b


RECORDS = ("batch_snapshots.csv", "request_traces.csv", "events.csv", "memory_events.csv")
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,20,30\n"
    "2023-11-16 18:15:47.6805900,25,0\n"
    "2023-11-16 18:15:48.6805900,30,900\n"
    "2023-11-16 18:15:49.6805900,35,10\n"
)


@pytest.mark.parametrize(
    "line",
    [
        ("simulate", *SMALL, "--mode", "sacrifice", "--d-swap", 0.01),
        ("simulate", *SMALL, "--scale", 2, "--seed", 7, "--victim-policy", "random"),
        ("simulate", "--scenario", "bursty", "--load", 1.1, "--L-filter", 35, "--scale", 3),
        ("simulate", "--trace", "azure.csv", "--time-unit", "ms", "--scale", 2, "--load", 0.9),
        ("simulate", *SMALL, "--inject", "azure.csv", "--inject-at", 11, "--M-total", 1000),
        ("compare", *SMALL, "--scale", 2, "--replications", 2, "--methods", "lagrangian"),
    ],
    ids=lambda line: " ".join(map(str, line[:1] + line[-4:])),
)
def test_what_was_written_runs_the_same_again(run, tmp_path, monkeypatch, line):
    (tmp_path / "azure.csv").write_text(AZURE)
    done = run(*line, "--no-verbose", "--out", "a", *["--no-pictures"][: line[0] == "compare"])
    assert done.exit_code == 0, done.stderr
    (tmp_path / "moved").mkdir()
    (tmp_path / "a").rename(tmp_path / "moved" / "a")
    monkeypatch.chdir(tmp_path / "moved")
    done = run("simulate", "--config", "a/config_used.yaml", "--out", "b")
    assert done.exit_code == 0, done.stderr
    for name in (*RECORDS, "requests.csv", "config_used.yaml"):
        before, after = (tmp_path / "moved" / folder / name for folder in "ab")
        assert before.read_bytes() == after.read_bytes(), name


def test_a_solved_file_is_solved_the_same_again(run, tmp_path):
    (tmp_path / "azure.csv").write_text(AZURE)
    run("solve", "--trace", "azure.csv", "--scale", 4, "--load", 0.7, "--out", "a")
    done = run("solve", "--config", "a/config_used.yaml", "--out", "b")
    assert done.exit_code == 0, done.stderr
    for name in ("trajectory.csv", "requests.csv", "config_used.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_run_saved_at_a_batch_and_resumed_is_the_run(run, tmp_path):
    run("simulate", *SMALL, "--out", "whole")
    run("simulate", *SMALL, "--out", "first", "--save-state", "s.npz", "--at-batch", 20)
    done = run("simulate", "--resume", "s.npz", "--out", "resumed")
    assert done.exit_code == 0, done.stderr
    for name in ("batch_snapshots.csv", "request_traces.csv", "events.csv", "memory_events.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "resumed" / name
        ).read_bytes()


def test_a_load_change_from_a_saved_state(run, tmp_path):
    run("simulate", *SMALL, "--until", 15, "--save-state", "s.npz", "--out", "first")
    run("generate", "--types", "(5,5,2)", "--num-requests", 7, "--output", "new.csv")
    done = run("simulate", "--resume", "s.npz", "--inject", "new.csv", "--inject-at", 20)
    told = strict_json(done.stdout)
    rows = np.genfromtxt(
        tmp_path / told["output_dir"] / "request_traces.csv", delimiter=",", names=True
    )
    assert (rows["prefill_length"] == 5).sum() == 7
    assert rows["arrival_time"][rows["prefill_length"] == 5].min() >= 20
    assert rows["arrival_time"][rows["prefill_length"] == 20].max() < 20


@pytest.mark.parametrize(("unit", "factor"), [("none", 1), ("s", 1), ("ms", 1000)])
def test_an_injected_trace_comes_through_the_door_of_files(run, tmp_path, unit, factor):
    (tmp_path / "azure.csv").write_text(AZURE)
    late = 50_000
    run("generate", "--num-requests", 3, "--output", "r.csv")
    instance = ("--time-unit", unit, "--L-filter", 100, "--no-verbose")
    told = strict_json(run("simulate", *instance, "--trace", "azure.csv", "--out", "s").stdout)
    done = run(
        "simulate", *instance, "--requests", "r.csv", "--inject", "azure.csv",
        "--inject-at", late, "--out", "i",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "dropped 1 rows: zero tokens" in done.stderr and "above L_filter" in done.stderr
    rows = np.genfromtxt(tmp_path / "i" / "request_traces.csv", delimiter=",", names=True)
    assert rows["arrival_time"][3:] == pytest.approx([late, late + 3 * factor])
    assert rows["prefill_length"][3:].tolist() == [20, 35]
    workload = strict_json(done.stdout)["workload"]
    assert workload["requests"] == 5 and workload["horizon"] == late + 3 * factor
    assert workload["injected"]["dropped"] == told["workload"]["dropped"]


def test_a_state_filters_only_what_is_injected(run):
    run("simulate", *SMALL, "--until", 5, "--save-state", "s.npz", "--out", "first")
    done = run("simulate", "--resume", "s.npz", "--L-filter", 5)
    assert done.exit_code == 2 and "--L-filter" in done.stderr and "--inject" in done.stderr


@pytest.mark.parametrize("command", ["simulate", "solve"])
@pytest.mark.parametrize("name", LATENCIES)
def test_goodput_of_every_latency(run, command, name):
    who = ("--method", "lagrangian") if command == "solve" else ()
    done = run(command, *SMALL, *who, "--no-verbose", "--goodput", f"{name}:1e6")
    if name == "itl":
        assert done.exit_code == 2 and "ttft, tpot, e2el, queue_delay" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    else:
        metrics = strict_json(done.stdout)["metrics"]
        assert metrics["request_goodput"] == pytest.approx(metrics["request_throughput"])


def test_a_run_of_no_time_has_no_goodput(run):
    done = run("simulate", *SMALL, "--until", 0, "--goodput", "ttft:2", "--no-verbose")
    assert done.exit_code == 0, done.stderr
    assert strict_json(done.stdout)["metrics"]["request_goodput"] is None


def test_solve_writes_its_trajectory(run, tmp_path):
    goodput = ("--goodput", "ttft:5", "--goodput", "e2el:80")
    done = run("solve", "--method", "lagrangian", *SMALL, "--out", "s", *goodput)
    told = strict_json(done.stdout)
    assert told["method"] == "lagrangian" and told["status"] == "done"
    assert told["metrics"]["request_goodput"] > 0
    table = np.genfromtxt(tmp_path / "s" / "trajectory.csv", delimiter=",", names=True)
    assert set(OUTPUTS) <= set(table.dtype.names)
    assert np.isfinite(table["waiting"]).all()


def test_a_method_is_named_with_dashes_or_underscores(run):
    for name in ("eulerian-scipy", "eulerian_scipy"):
        done = run("solve", *SMALL[:-1], 5, "--method", name)
        assert strict_json(done.stdout)["method"] == "eulerian_scipy"
    done = run(
        "compare", *SMALL[:-1], 5, "--methods", "eulerian-scipy,lagrangian,eulerian_scipy",
        "--replications", 2, "--no-pictures",
    )  # fmt: skip
    assert list(strict_json(done.stdout)["methods"]) == ["eulerian_scipy", "lagrangian"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("solving")]
    assert lines == ["solving Eulerian (SciPy) ...", "solving Lagrangian ..."]


def test_compare_prints_scores_and_writes_a_report(run, tmp_path):
    options = ("--replications", 8, "--methods", "lagrangian", "--out", "c")
    done = run("compare", *SMALL, "--load", 0.9, *options)
    assert done.exit_code == 0, done.stderr
    told = strict_json(done.stdout)
    method = told["methods"]["lagrangian"]
    outputs = {"waiting", "running", "swapped", "in_system", "completed"}
    assert set(method["nrmse"]) == set(method["noise_floor"]) == outputs
    assert method["seconds"] > 0 and told["discrete"]["seconds"] > 0
    assert set(method["metrics"]) == set(told["discrete"]["metrics"])
    names = set(bytes_of(tmp_path / "c"))
    pictures = {"system_dynamics.png", "request_timeline.png", "fluid_vs_discrete.png"}
    assert RUN_FILES | pictures | {"comparison.csv", "report.html"} == names
    page = (tmp_path / "c" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "Lagrangian" in page
    assert "seconds" not in (tmp_path / "c" / "summary.json").read_text().replace("_seconds", "")


def test_compare_on_a_file_begins_with_the_file_itself(run, tmp_path):
    run("generate", *SMALL, "--output", "r.csv")
    run("simulate", *SMALL[2:6], "--requests", "r.csv", "--out", "s")
    options = ("--replications", 3, "--methods", "lagrangian", "--no-pictures", "--out", "c")
    done = run("compare", *SMALL[2:6], "--requests", "r.csv", *options)
    assert done.exit_code == 0, done.stderr
    for name in ("request_traces.csv", "batch_snapshots.csv"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    assert not list((tmp_path / "c").glob("*.png"))


def test_compare_on_arrivals_that_are_all_at_time_0_goes_to_the_last_completion(run, tmp_path):
    table = "arrival_time,prefill_length,decode_length\n0,20,30\n"
    for rows in (table, table + "0,10,5\n"):
        (tmp_path / "r.csv").write_text(rows)
        options = ("--replications", 2, "--methods", "all", "--out", "c", "--no-verbose")
        done = run("compare", "--requests", "r.csv", *options)
        assert done.exit_code == 0, done.stderr
        told = strict_json(done.stdout)
        last = np.genfromtxt(tmp_path / "c" / "request_traces.csv", delimiter=",", names=True)
        assert told["horizon"] == last["completion_time"].max() > 0
        assert "last completion" in told["horizon_is"]
        assert told["methods"]["lagrangian"]["nrmse"]["in_system"] < 0.1
        assert (tmp_path / "c" / "fluid_vs_discrete.png").exists()


def test_plot_draws_what_compare_drew(run, tmp_path):
    run("compare", *SMALL, "--replications", 4, "--methods", "lagrangian", "--out", "c")
    before = bytes_of(tmp_path / "c")
    for name in ("system_dynamics.png", "fluid_vs_discrete.png"):
        (tmp_path / "c" / name).unlink()
    done = run("plot", "c")
    assert "report.html" in strict_json(done.stdout)["written"]
    assert bytes_of(tmp_path / "c") == before


def test_a_folder_used_again_holds_one_experiment(run, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    # which files there are is looked at, not what is drawn
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"a picture"))
    few = ("--num-requests", 20, "--load", 0.5, "--out")
    lines = (
        ("compare", "--replications", 2, "--workers", 1, "--methods", "lagrangian", *few),
        ("simulate", *few),
        ("solve", "--method", "lagrangian", *few),
    )
    for line in lines:
        for out in ("mix", f"alone_{line[0]}"):
            assert run(*line, out).exit_code == 0
            assert run("plot", out).exit_code == 0
        left = {path.name for path in (tmp_path / "mix").iterdir()}
        assert left == {path.name for path in (tmp_path / out).iterdir()} <= FILES


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        (("--load", 2.5), "warning: load 2.5 of capacity: queues grow as long as it lasts\n"),
        (("--load", 2, "--profile", "steps(0:1,5:0.9)"), "warning: mean load 1."),
        (("--load", 1), ""),
        (("--load", 0.5), ""),
    ],
)
@pytest.mark.parametrize("command", ["simulate", "solve"])
def test_more_than_a_node_can_serve_is_noted_beside_the_result(run, command, workload, said):
    who = ("--method", "lagrangian") if command == "solve" else ()
    done = run(command, "--horizon", 30, *workload, *who)
    assert done.exit_code == 0 and strict_json(done.stdout)["workload"]["load"] > 0
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == bool(said)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_a_node_too_slow_to_have_a_capacity(run):
    """A time whose square is no number any more is refused before any work."""
    done = run("solve", "--num-requests", 3, "--d-0", "1e308")
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert "--d-0 1e308" in done.stderr and "<= 1e+100" in done.stderr


@pytest.mark.parametrize("style", ["text", "latex", "python"])
@pytest.mark.parametrize("mode", ["swapping", "sacrifice"])
def test_equations(run, mode, style):
    done = run("equations", "--mode", mode, "--format", style)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout) > 300


@pytest.mark.parametrize("style", ["text", "latex", "python"])
@pytest.mark.parametrize(
    ("engine", "kind"), [("vllm_v1", "beside decodes"), ("vllm_v0", "in steps of their own")]
)
def test_equations_of_a_server(run, engine, kind, style):
    done = run("equations", "--engine", engine, "--format", style)
    assert done.exit_code == 0, done.stderr
    assert kind in done.stdout and "a server that computes its own prompts" in done.stdout


@pytest.mark.slow
def test_bench_measures(run, monkeypatch):
    import fluidserve.jobs.bench as bench

    # once, after the one that compiles: how long anything takes is not looked at
    once = partial(bench.best_of, least=1, most=1)
    monkeypatch.setattr(bench, "best_of", lambda job, budget, **_: once(job, budget))
    done = run("bench", "--quick")
    told = strict_json(done.stdout)
    assert all(case["requests_per_second"] > 13_370 for case in told["engine"])
    assert all(case["batches_per_second"] > 0 for case in told["engine"])
    assert set(told) == {"machine", "engine", "fluid_vs_discrete", "methods"}
    assert [row["n"] for row in told["fluid_vs_discrete"]] == [1, 10, 100]
    assert set(told["methods"]) == set(METHODS)


def test_module_and_script_are_one():
    done = subprocess.run(
        [sys.executable, "-m", "fluidserve", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("fluidserve ") and done.returncode == 0
