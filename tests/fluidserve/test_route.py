"""``fluidserve route``: policies side by side, on the same requests."""

from __future__ import annotations

import csv
import json

import pytest

BASE = (
    "route", "--num-requests", 150, "--replicas", 3, "--policies", "jsq,random", "--loads", 0.8,
    "--seeds", 2, "--workers", 1, "--no-verbose",
)  # fmt: skip
OWN = {
    "replicas": ("--replicas", 4),
    "slower": ("--slower", "1:2"),
    "fleet": ("--fleet", "one.yaml:1,two.yaml:2"),
    "policies": ("--policies", "jsq,least-kv"),
    "against": ("--against", "random"),
    "loads": ("--loads", "0.8,0.9"),
    "seeds": ("--seeds", 3),
    "signal_period": ("--signal-period", "never"),
    "signal_delay": ("--signal-delay", 30),
    "decision_time": ("--decision-time", 2),
    "slos": ("--slo", "mean_ttft<3"),
    "goodput": ("--goodput", "ttft:3"),
    "num_requests": ("--num-requests", 160),
    "seed": ("--seed", 7),
    "scenario": ("--scenario", "heavy"),
    "M_total": ("--M-total", 500),
}
"""What each option of the command is given to see that it matters."""


def without(line, flag):
    at = line.index(flag) if flag in line else len(line)
    return (*line[:at], *line[at + 2 :])


def told(run, *line, out="o"):
    done = run(*line, "--out", out)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    found.pop("output_dir")
    return found


@pytest.fixture
def folder(run, tmp_path):
    (tmp_path / "one.yaml").write_text("M_total: 6000\nd_0: 1.0\nB: 2000\n")
    (tmp_path / "two.yaml").write_text("M_total: 9000\nd_0: 2.0\nB: 2000\n")
    (tmp_path / "believed.csv").write_text(
        "arrival_time,prefill_length,decode_length,predicted_decode_length\n"
        + "".join(f"{k},20,{10 + k % 9},{19 - k % 9}\n" for k in range(60))
    )
    (tmp_path / "mine.py").write_text(
        "def by_length(view, request):\n"
        "    return int((request.predicted_decode_length or 0) > 14)\n"
    )
    return tmp_path


def test_every_option_matters(run, folder):
    before = told(run, *BASE)
    for name, given in OWN.items():
        base = BASE
        for flag in ("--replicas",) if name == "fleet" else (given[0],):
            base = without(base, flag)
        assert told(run, *base, *given, out=name) != before, name


FAULTS = {
    "--lost-reports": ("lost", 0.1),
    "--doubled-reports": ("duplicate", 0.1),
    "--reordered-reports": ("late", 0.1),
}
"""What each fault is counted as, and a share of it."""


def test_what_happens_to_reports_matters_to_who_follows_them_and_is_counted(run, folder):
    line = (*without(BASE, "--policies"), "--policies", "jsq,predicted-ttft")
    whole = told(run, *line)
    (clean,) = whole["reports"]
    assert clean["policy"] == "predicted-ttft" and clean["applied"] > 500
    assert not any(clean[name] for name, _ in FAULTS.values())
    for flag, (name, share) in FAULTS.items():
        found = told(run, *line, flag, share, out=name)
        (counts,) = found["reports"]
        assert counts[name] == pytest.approx(share * clean["applied"], rel=0.5), flag
        others = {each for each, _ in FAULTS.values()} - {name}
        # of a trace whose turn came too late the next one may come last, and nobody misses it
        assert all(counts[each] <= 6 for each in others), flag
        assert counts["drift"] >= clean["drift"] or name == "duplicate"
        assert found["faults"][flag[2:].replace("-", "_")] == share
        before = {row["policy"]: row["mean_ttft"] for row in whole["policies"]}
        after = {row["policy"]: row["mean_ttft"] for row in found["policies"]}
        assert after["jsq"] == before["jsq"]  # it follows no reports, and counts are told anew
        # a report that comes twice changes nothing but its count
        assert (after == before) == (name == "duplicate")
    table = run(*line, "--lost-reports", 0.1, "--out", "t", "--table").stdout
    assert "reports at 0.8" in table and max(map(len, table.splitlines())) <= 80


def test_lengths_are_told_where_that_is_asked(run, folder):
    line = (
        "route", "--requests", "believed.csv", "--policies", "mine.py:by_length", "--loads", 0.8,
        "--seeds", 1, "--replicas", 2, "--workers", 1, "--no-verbose",
    )  # fmt: skip
    assert told(run, *line) != told(run, *line, "--predicted-lengths")


def test_what_is_printed_is_what_is_in_the_folder(run, folder):
    found = told(run, *BASE, "--goodput", "ttft:5")
    assert json.loads((folder / "o" / "summary.json").read_text()) == found
    with open(folder / "o" / "routing_runs.csv") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 4
    for row in found["policies"]:
        mine = [float(each["mean_ttft"]) for each in runs if each["policy"] == row["policy"]]
        assert row["mean_ttft"] == pytest.approx(sum(mine) / 2)
    jsq, chance = (
        next(row for row in found["policies"] if row["policy"] == name)
        for name in ("jsq", "random")
    )
    assert jsq["mean_ttft_change"] == 0 and jsq["mean_ttft_regret"] == 0
    assert chance["mean_ttft_change"] == pytest.approx(chance["mean_ttft"] / jsq["mean_ttft"] - 1)
    assert chance["mean_ttft_regret"] == pytest.approx(chance["mean_ttft_change"])
    picture = folder / "o" / "routing.png"
    assert picture.stat().st_size > 10_000
    picture.unlink()
    assert run("plot", "o").exit_code == 0
    assert picture.exists()
    table = run(*BASE, "--out", "p", "--table", "--slo", "p99_ttft<20")
    assert table.exit_code == 0, table.stderr
    assert "load 0.8" in table.stdout and "largest load with" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80


def test_the_answer_is_the_same_whoever_ran_it(run, folder):
    found = told(run, *BASE)
    assert told(run, *without(BASE, "--workers"), "--workers", 2, out="two") == found
    for name in ("routing.csv", "routing_runs.csv", "summary.json"):
        assert (folder / "o" / name).read_bytes() == (folder / "two" / name).read_bytes()


def interrupted_at(run, monkeypatch):
    """Let the run of that number of an experiment be interrupted; return the runs asked for."""
    import scheduling.experiment as experiment

    row_of, calls = experiment.row_of, []

    def stops(routing, point):
        calls.append(point)
        if len(calls) == run:
            raise KeyboardInterrupt
        return row_of(routing, point)

    monkeypatch.setattr(experiment, "row_of", stops)
    return calls


def test_an_interrupted_run_goes_on_where_it_was(run, folder, monkeypatch):
    whole, calls = told(run, *BASE), interrupted_at(3, monkeypatch)
    done = run(*BASE, "--out", "part")
    assert done.exit_code == 130 and "2 of 4 runs are kept" in done.stderr
    assert not (folder / "part").exists() and (folder / "part.journal").exists()
    other = run(*without(BASE, "--seeds"), "--seeds", 3, "--out", "part")
    assert other.exit_code == 2 and "another sweep" in other.stderr
    assert told(run, *BASE, out="part") == whole
    assert len(calls) == 5
    assert not (folder / "part.journal").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("--lost-reports", 0.1), ("--lost-reports", 0.2)),
        (("--lost-reports", 0.1), ("--doubled-reports", 0.1)),
        (("--doubled-reports", 0.1), ("--reordered-reports", 0.1)),
        (("--reordered-reports", 0.1), ()),
        ((), ("--signal-delay", 1)),
        ((), ("--M-total", 9000)),
    ],
)
def test_a_journal_of_other_faults_or_fleets_is_refused(run, folder, monkeypatch, before, after):
    line = (*without(BASE, "--policies"), "--policies", "regression")
    calls = interrupted_at(2, monkeypatch)
    assert run(*line, *before, "--out", "part").exit_code == 130
    kept = (folder / "part.journal").read_bytes()
    other = run(*line, *after, "--out", "part")
    assert other.exit_code == 2 and "another sweep" in other.stderr
    assert (folder / "part.journal").read_bytes() == kept and len(calls) == 2
    assert told(run, *line, *before, out="part") == told(run, *line, *before, out="whole")
    assert len(calls) == 2 + 1 + 2  # one run was kept


def test_the_capacity_is_where_the_objective_stops_being_met(run, folder):
    found = told(run, *BASE, "--slo", "mean_e2el<80")
    for each in found["capacity"]:
        assert each["slo"] == "mean_e2el<80"
        assert each["rate"] == pytest.approx(each["load"] * found["fleet_capacity"])
        rates = {}
        for factor in (1.0, 1.02):
            line = without(without(BASE, "--loads"), "--policies")
            rows = told(run, *line, "--policies", each["policy"], "--loads", each["load"] * factor)
            rates[factor] = rows["policies"][0]["mean_e2el"]
        assert rates[1.0] < 80 <= rates[1.02]


def test_a_fleet_of_files_may_hold_any_kinds(run, folder):
    (folder / "server.yaml").write_text(
        "engine: vllm_v1\ntime_unit: s\nd_0: 0.01\nd_prefill: 1.0e-4\nd_decode: 1.0e-4\n"
        "d_kv: 1.0e-6\nnum_gpu_blocks: 900\nmax_num_batched_tokens: 512\nmax_num_seqs: 64\n"
    )
    (folder / "fed.yaml").write_text("time_unit: s\nM_total: 9000\nB: 2000\nd_0: 0.02\nd_1: 1e-5\n")
    line = without(BASE, "--replicas")
    found = told(
        run, *line, "--fleet", "server.yaml:2,fed.yaml:1", "--config", "fed.yaml", "--slo",
        "p99_ttft_ms<300",
    )  # fmt: skip
    assert found["fleet"].count(" x ") == 2 and found["time_unit"] == "s"
    assert all(each["load"] > 0.02 for each in found["capacity"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--load 0.5", "--loads does"),
        ("--arrival-rate 3", "--loads does"),
        ("--fleet one.yaml:2 --replicas 4", "give one"),
        ("--fleet one.yaml:2 --slower 1:2", "give one"),
        ("--fleet one.yaml", "FILE:N"),
        ("--fleet nowhere.yaml:2", "nowhere.yaml"),
        ("--replicas 0", "--replicas 0"),
        ("--slower 9:2", "N from 1 to 8"),
        ("--slower 1:0", "N:FACTOR"),
        ("--policies jsq,jsq", "each policy once"),
        ("--policies jsq,jsk", "jsk"),
        ("--against least-kv --policies jsq", "--against"),
        ("--loads 0.5,0.5", "different numbers"),
        ("--seeds 0", "--seeds 0"),
        ("--signal-period -1", "or never"),
        ("--signal-delay -1", "a finite time >= 0"),
        ("--decision-time -1", "--decision-time"),
        ("--lost-reports 2", "--lost-reports 2.0: not allowed; allowed: a share from 0 to 1"),
        ("--lost-reports .5 --doubled-reports .6 --policies regression", "together at most 1"),
        ("--doubled-reports .1 --policies jsq", "reaches only who follows reports"),
        ("--reordered-reports .1 --policies regression --signal-period never", "no reports"),
        ("--slo nonsense", "--slo"),
        ("--slo p99_itl<1", "ITL"),
        ("--workers 0", "workers"),
        ("--turns 3 --think-time 1 --sessions 4 --closed-loop", "--loads does"),
    ],
)
def test_what_is_wrong_is_one_line(run, folder, line, words):
    before = set(folder.rglob("*"))
    done = run("route", *line.split(), "--num-requests", 50)
    assert done.exit_code == 2 and not done.stdout
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert set(folder.rglob("*")) == before
