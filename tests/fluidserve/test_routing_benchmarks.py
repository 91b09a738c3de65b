"""The benchmarks of routing: who chooses and who judges, and whose runs a journal may keep."""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scheduling import Faults, Signals
from serving import FluidServeError
from studies.sweeps import Journal
from studies.tuning import parse_slo

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
POLICIES = ("jsq", "jsq-capacity", "random")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    rows = (f"{20 + 31 * k % 170},{5 + 17 * k % 90}\n" for k in range(40))
    (tmp_path / "lengths.csv").write_text("prompt_tokens,output_tokens\n" + "".join(rows))
    return tmp_path


@pytest.fixture
def cells(folder, monkeypatch):
    """The study of cells, with few policies and small fleets."""
    module = importlib.import_module("routing_cells")
    monkeypatch.setattr(module, "HEURISTICS", POLICIES)
    monkeypatch.setattr(module, "PREDICTED", ("predicted-ttft", "predicted-e2el"))
    monkeypatch.setattr(module, "FLEETS", {"2 alike": (2, 0), "2, 1 slow": (2, 1)})
    return module


@pytest.fixture
def sync(folder, monkeypatch):
    """The study of reports, with few ways to hear."""
    module = importlib.import_module("sync_ablation")
    heard = {
        "every batch": (Signals(), Faults()),
        "never": (Signals(float("inf")), Faults()),
        "lost": (Signals(), Faults(lost=0.1)),
        "twice": (Signals(), Faults(doubled=0.1)),
        "out of order": (Signals(), Faults(reordered=0.1)),
    }
    monkeypatch.setattr(module, "HEARD", heard)
    monkeypatch.setattr(module, "REQUESTS", 80)
    return module


CELLS = ("--quick", "--requests", "30")
SYNC = ("--lengths", "lengths.csv", "--quick", "--fixed",
        "--policies", "jsq", "predicted-ttft")  # fmt: skip


def printed(capsys, study, words):
    """Return what a study prints, without the minutes that it took."""
    study.main(words)
    return re.sub(r"\d+ minutes", "minutes", capsys.readouterr().out)


def noting(monkeypatch, study, name, most=10**9):
    """Return the points that a study runs from now on; it stops before there are too many."""
    function, points = getattr(study, name), []

    def noted(shared, point):
        if len(points) == most:
            raise KeyboardInterrupt
        points.append(point)
        return function(shared, point)

    monkeypatch.setattr(study, name, noted)
    return points


@pytest.mark.parametrize(
    ("study", "name", "words", "stop"),
    [("cells", "row_in", CELLS, 20), ("sync", "point_in", SYNC, 3)],
)
def test_a_journal_resumes_to_the_same_table(
    request, monkeypatch, capsys, study, name, words, stop
):
    study = request.getfixturevalue(study)
    every = noting(monkeypatch, study, name)
    whole = printed(capsys, study, (*words, "--out", "whole"))
    points = list(every)
    with monkeypatch.context() as patch:
        noting(patch, study, name, stop)
        with pytest.raises(KeyboardInterrupt):
            study.main((*words, "--out", "part"))
    gc.collect()  # whoever stopped has left the journal to others
    kept = [json.loads(line) for line in Path("part.journal").read_text().splitlines()]
    done = {number for line in kept[1:] for number, _ in line["content"]}
    assert stop // 2 <= len(done) <= stop
    every.clear()
    assert printed(capsys, study, (*words, "--out", "part")) == whole
    assert every == [point for number, point in enumerate(points) if number not in done]
    every.clear()
    assert printed(capsys, study, (*words, "--out", "part")) == whole and not every
    one, other = (json.loads(Path(f"{out}.json").read_text()) for out in ("whole", "part"))
    assert without_times(one) == without_times(other)


def without_times(told):
    """Return what a study writes, without how long it took."""
    rows = told["runs"] if isinstance(told, dict) else told
    return [{key: value for key, value in row.items() if key != "cpu"} for row in rows]


def name_of(study, words):
    """Return the identity with which a study opens its journal."""

    class Opened(Exception):
        pass

    def opened(path, name, size):
        raise Opened(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "Journal", opened)
        with pytest.raises(Opened) as told:
            study.main((*words, "--out", "o"))
    return str(told.value)


def test_a_journal_of_other_cells_is_refused(cells, folder, monkeypatch):
    mine = name_of(cells, CELLS)
    assert name_of(cells, CELLS) == mine
    assert name_of(cells, (*CELLS, "--workers", "2", "--all")) == mine
    for change in (("--loads", "0.8"), ("--requests", "31"), ("--lengths", "lengths.csv"),
                   ("--engine", "vllm_v1")):  # fmt: skip
        assert name_of(cells, (*CELLS, *change)) != mine, change
    lengths = (*CELLS, "--lengths", "lengths.csv")
    before = name_of(cells, lengths)
    (folder / "lengths.csv").write_text("prompt_tokens,output_tokens\n20,30\n")
    assert name_of(cells, lengths) != before
    for name, value in (
        ("SLOWER", 3.0),
        ("BURSTY", 2.0),
        ("FLEETS", {"2 alike": (3, 0), "2, 1 slow": (2, 1)}),
        ("HEURISTICS", POLICIES[::-1]),
        ("JUDGED", range(1, 6)),
        ("CHOSEN_FROM", range(99, 104)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(cells, name, value)
            assert name_of(cells, CELLS) != mine, name
    Journal("o.journal", mine, 9).close()
    with monkeypatch.context() as patch, pytest.raises(FluidServeError, match="another sweep"):
        patch.setattr(cells, "SLOWER", 3.0)
        cells.main((*CELLS, "--out", "o"))


@pytest.mark.parametrize(
    "other",
    [
        {"lost": (Signals(), Faults(lost=0.2))},
        {"twice": (Signals(), Faults(doubled=0.05))},
        {"out of order": (Signals(), Faults(reordered=0.2))},
        {"twice": (Signals(), Faults(reordered=0.1))},
        {"never": (Signals(2.0), Faults())},
        {"every batch": (Signals(delay=0.1), Faults())},
    ],
)
def test_a_journal_of_other_faults_is_refused(sync, monkeypatch, other):
    """The names of the ways to hear stay: what they mean is another."""
    mine = name_of(sync, SYNC)
    assert name_of(sync, SYNC) == mine
    Journal("o.journal", mine, 7).close()
    monkeypatch.setattr(sync, "HEARD", sync.HEARD | other)
    assert name_of(sync, SYNC) != mine
    with pytest.raises(FluidServeError, match="another sweep"):
        sync.main((*SYNC, "--out", "o"))


def test_a_journal_of_other_capacities_is_refused(sync, folder, monkeypatch):
    sought = tuple(word for word in SYNC if word != "--fixed")
    mine = name_of(sync, sought)
    assert name_of(sync, SYNC) != mine
    for name, value in (("SLO", "p99_ttft<2"), ("LOADS", (0.4, 1.2)), ("EXACT", 0.1),
                        ("INSTANCES", 3), ("FIXED", 0.8), ("REQUESTS", 90)):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(sync, name, value)
            assert name_of(sync, sought) != mine, name
    (folder / "lengths.csv").write_text("prompt_tokens,output_tokens\n20,30\n")
    assert name_of(sync, sought) != mine


def test_the_best_heuristic_is_chosen_on_seeds_that_judge_nobody(cells):
    """Chance favours one policy on the seeds that choose, another one on those that judge."""
    study = SimpleNamespace(cells={("2 alike", "Poisson"): None})
    points = cells.points_of(study, (0.9,), 3)
    judged = {seed for _, _, seed, _ in points if seed in cells.JUDGED}
    chosen_from = {seed for _, _, seed, _ in points} - judged
    assert len(judged) == len(chosen_from) == 3
    assert {policy for *_, seed, policy in points if seed in chosen_from} == set(POLICIES)
    ttft = {"jsq": (5.0, 9.0), "jsq-capacity": (4.0, 8.0), "random": (8.0, 2.0)}
    rows = [
        {"fleet": cell[0], "arrivals": cell[1], "load": load, "seed": seed, "policy": policy,
         "mean_ttft": ttft.get(policy, (3.0, 3.0))[seed in judged] + 0.1 * (seed % 3)}
        for cell, load, seed, policy in points
    ]  # fmt: skip
    runs_of = importlib.import_module("routing_tables").Runs
    about = {"seeds": sorted(judged), "chosen_from": sorted(chosen_from)}
    cell = ("2 alike", "Poisson", 0.9)
    runs = runs_of(rows, about)
    assert runs.best(cell, "mean_ttft") == "jsq-capacity"
    change, half = runs.change(cell, "predicted-ttft", "jsq-capacity", "mean_ttft")
    assert change == pytest.approx(3.1 / 8.1 - 1) and half == pytest.approx(0, abs=1e-12)
    wrong = runs_of(rows, about | {"chosen_from": sorted(judged)})
    assert wrong.best(cell, "mean_ttft") == "random"


def number_in(pattern, text):
    """Return the number that a pattern finds first."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:{15 + k // 600:02}:{k // 10 % 60:02}.{k % 10}00,{30 + 97 * k % 900},"
    f"{5 + 31 * k % 120}\n"
    for k in range(900)
)


@pytest.fixture
def replicas(folder):
    (folder / "trace.csv").write_text(TRACE)
    return importlib.import_module("replicas")


FLEETS = ("--trace", "trace.csv", "--slo", "p99_tpot_ms<25")


def test_every_fleet_is_run_to_confirm_an_answer(replicas, capsys, monkeypatch):
    assert replicas.main(FLEETS) == 0
    said = capsys.readouterr().out
    found = int(number_in(r"^jsq: (\d+) instances? with jsq meet", said))
    rows = re.findall(r"^\| (\d+) \| (yes|no) \|", said, re.MULTILINE)
    assert found > 1
    assert rows == [
        (f"{n}", "yes" if n >= found else "no") for n in range(1, found + 1 + replicas.FURTHER)
    ]
    search = replicas.least_replicas

    def one_more(sizing, **more):
        answer = search(sizing, **more)
        more["measure"](answer.value + 1, 0)
        size = replicas.sized(sizing, answer.value + 1, more["measure"])
        return replace(answer, value=answer.value + 1, sizes=(*answer.sizes, size))

    monkeypatch.setattr(replicas, "least_replicas", one_more)
    assert replicas.main(FLEETS) == 1
    assert f"least of all: {found};" in capsys.readouterr().out


def test_policies_stand_side_by_side_with_as_many_instances(replicas, capsys):
    given = ("--policies", "jsq,random,round-robin", "--at", "2")
    assert replicas.main((*FLEETS, *given)) == 0
    said = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in said.splitlines()
        if line.startswith("| `")
    ]
    assert [row[0] for row in rows] == ["`jsq`", "`random`", "`round-robin`"]
    for policy, row in zip(("jsq", "random", "round-robin"), rows, strict=True):
        answer = int(number_in(rf"^{policy}: (\d+) instance", said))
        assert row[1] == f"{answer}" and row[2] == ("yes" if answer <= 2 else "no")
    values = [float(row[3].partition(" ")[0]) for row in rows]
    assert rows[0][4] == "-"
    for row, value in zip(rows[1:], values[1:], strict=True):
        change = number_in(r"^([+-][\d.]+) ± [\d.]+ %$", row[4])
        assert change == pytest.approx(100 * (value / values[0] - 1), abs=0.2)
        assert number_in(r"± ([\d.]+)", row[4]) > 0


def test_a_difference_is_paired_by_blocks(replicas):
    """A policy that is 10 % slower in every block is surely so, however blocks differ."""
    slo = parse_slo("mean_ttft<1", "s")
    base = np.repeat(np.geomspace(0.1, 10, 20), 30)

    def fleets(values):
        found = SimpleNamespace(samples={2: SimpleNamespace(ttft=values)})
        found.row = lambda n, run: {"values": {str(slo): float(values.mean())}}
        return found

    first = fleets(base)
    assert replicas._change(slo, fleets(1.1 * base), first, 2) == "+10.0 ± 0.0 %"
    assert replicas._change(slo, first, first, 2) == "-"
    other = replicas._change(slo, fleets(1.1 * base[::-1]), first, 2)
    assert number_in(r"± ([\d.]+)", other) > 30


WRONG = [
    ("routing_cells.py", ("--loads", "nan"), "--loads: nan is not allowed"),
    ("routing_cells.py", ("--requests", "0"), "--requests: 0 is not allowed"),
    ("routing_cells.py", ("--lengths", "nowhere.csv", "--quick"), "nowhere.csv: cannot be read"),
    ("sync_ablation.py", ("--workers", "0"), "--workers: 0 is not allowed"),
    ("replicas.py", ("--trace", "nowhere.csv"), "nowhere.csv: cannot be read"),
    ("replicas.py", ("--trace", "x", "--at", "0"), "--at: 0 is not allowed"),
    ("predictor_accuracy.py", ("--forks", "0"), "--forks: 0 is not allowed"),
    ("serve_load.py", ("--seconds", "nan"), "--seconds: nan is not allowed"),
]


@pytest.mark.parametrize(("script", "words", "said"), WRONG)
def test_what_is_not_allowed_is_one_line_and_leaves_nothing(folder, script, words, said):
    out = ("--out", "made") if script in ("routing_cells.py", "sync_ablation.py") else ()
    before = sorted(folder.iterdir())
    root = str(BENCHMARKS.parent)
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *words, *out], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": root}, timeout=120,
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and not done.stdout, done.stderr
    assert last.startswith(f"{script}: ") and said in last and "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before
