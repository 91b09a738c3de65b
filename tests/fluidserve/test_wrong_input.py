"""Wrong input ends with one line on stderr, status 2 and nothing written."""

from __future__ import annotations

import os

import pytest

TRACE = "arrival_time,prefill_length,decode_length\n"
FILES = {
    "good.csv": TRACE + "0.5,20,30\n1.5,10,5\n",
    "negative.csv": TRACE + "0.5,20,30\n1.5,-10,5\n",
    "big.csv": TRACE + "0.5,20,30\n1.5,9990,11\n",
    "nan.csv": TRACE + "0.5,20,30\nnan,10,5\n",
    "text.csv": TRACE + "0.5,20,many\n",
    "header.csv": "a,b\n1,2\n",
    "empty.csv": "",
    "one_time.csv": TRACE + "0,20,30\n0,10,5\n",
    "long.csv": TRACE + "0.5,20,1000000000000\n",
    "unknown.yaml": "M_totl: 5\n",
    "bad.yaml": "M_total: -5\n",
    "vllm.yaml": "engine: vllm_v0\n",
    "file": "",
    "not_a_state.npz": "x",
}

WRONG = [
    ("simulate --requests nope.csv", ["nope.csv", "No such file"]),
    ("simulate --trace nope.csv", ["nope.csv"]),
    ("simulate --config nope.yaml", ["nope.yaml", "No such file"]),
    ("simulate --config unknown.yaml", ["unknown.yaml", "M_totl", "did you mean 'M_total'"]),
    ("simulate --config bad.yaml", ["M_total", "-5", ">= 1"]),
    ("simulate --config vllm.yaml", ["vllm_v0", "d_prefill", "toy"]),
    ("simulate --engine vllm_v1", ["vllm_v1", "d_prefill", "toy"]),
    ("simulate --decision-log d.csv", ["--decision-log", "decode_node has no such option"]),
    ("simulate --strict", ["strict", "decode_node has no such key, vllm_v1 and vllm_v0 have"]),
    ("simulate --requests negative.csv", ["negative.csv", "row 2", "prefill_length", "-10"]),
    ("simulate --requests big.csv", ["big.csv", "row 2", "10001", "M_total = 10000"]),
    ("simulate --requests good.csv --M-total 40", ["row 1", "50", "M_total = 40"]),
    ("simulate --requests nan.csv", ["nan.csv", "row 2", "arrival_time", "nan"]),
    ("simulate --requests text.csv", ["text.csv", "row 1", "decode_length", "many"]),
    ("simulate --trace header.csv", ["header.csv"]),
    ("simulate --trace empty.csv", ["empty.csv"]),
    ("simulate --trace good.csv --format nonsense", ["format", "nonsense"]),
    ("simulate --trace good.csv --limit 0", ["--limit", "0"]),
    ("simulate --trace good.csv --rate-scale nan", ["--rate-scale", "nan"]),
    ("simulate --trace good.csv --requests good.csv", ["--requests", "--trace"]),
    ("simulate --trace good.csv --scenario heavy", ["--scenario", "file"]),
    ("simulate --trace good.csv --num-requests 5", ["--num-requests", "file"]),
    ("simulate --limit 3", ["--limit", "--requests or --trace"]),
    ("simulate --requests one_time.csv --load 0.5", ["one_time.csv", "one time", "--load"]),
    ("simulate --arrival-rate nan", ["--arrival-rate", "nan", "finite"]),
    ("simulate --arrival-rate -1", ["--arrival-rate", "-1", "> 0"]),
    ("simulate --load 0.5 --arrival-rate 2", ["--load", "--arrival-rate", "one of them"]),
    ("solve --trace good.csv --load 0.5 --rate-scale 2", ["--load", "--rate-scale"]),
    ("simulate --M-total 99999999999999999999", ["--M-total", "<= 9007199254740992"]),
    ("simulate --B 99999999999999999999", ["--B", "<= 9007199254740992, or null"]),
    ("simulate --scale 1000000000000", ["scale", "<= 1000000"]),
    ("simulate --requests good.csv --scale 1000000000000", ["scale", "<= 1000000"]),
    ("solve --M-total 9007199254740992 --scale 2", ["--M-total", "<= 9007199254740992"]),
    ("simulate --types (5,1000000000000,1) --M-total 10000000000000", ["types", "<= 100000000"]),
    (f"simulate --types ({10**30},5,1)", ["types", "<= 100000000"]),
    ("simulate --requests long.csv --M-total 10000000000000", ["decode_length", "<= 100000000"]),
    ("solve --requests long.csv --M-total 10000000000000", ["decode_length", "<= 100000000"]),
    ("simulate --num-requests 1000000000000", ["--num-requests", "<= 1000000000"]),
    ("simulate --horizon 1e12", ["1.06363e+11 requests", "<= 1000000000"]),
    (f"simulate --at-batch {10**30} --save-state s.npz", ["--at-batch", "a batch >= 0"]),
    ("simulate --load nan", ["load", "nan", "> 0"]),
    ("simulate --load -2", ["load", "-2", "> 0"]),
    ("simulate --scale 0", ["scale", "0", "> 0"]),
    ("simulate --scale 1.5", ["--scale", "1.5"]),
    ("simulate --num-requests 0", ["--num-requests", "0", ">= 1"]),
    ("simulate --num-requests 5 --horizon 9", ["--horizon", "--num-requests"]),
    ("simulate --horizon inf", ["--horizon", "inf"]),
    ("simulate --burstiness 0", ["--burstiness", "0"]),
    ("simulate --scenario heavy --types (5,5,1)", ["--scenario", "--types", "give one"]),
    ("solve --lengths good.csv --scenario bursty", ["--scenario", "--lengths", "give one"]),
    ("simulate --scenario calm", ["--scenario calm", "normal | heavy | bursty"]),
    ("simulate --types 5,5,5", ["--types", "5,5,5"]),
    ("simulate --types (5,5,nan)", ["--types", "nan"]),
    ("simulate --types (9990,20,1)", ["10010", "M_total = 10000"]),
    ("simulate --profile steps(0:nan)", ["--rate-shape", "nan"]),
    ("simulate --rate-shape wave", ["--rate-shape", "wave", "sine"]),
    ("simulate --seed -1", ["--seed -1", ">= 0"]),
    ("simulate --d-1 nan", ["--d-1 nan", "finite"]),
    ("simulate --d-1 1 --d-kv 1", ["--d-kv 1", "d_1", "not both"]),
    ("simulate --mode swap", ["--mode swap:", "swapping | sacrifice", "did you mean 'swapping'"]),
    ("simulate --queue-policy nope.py:order", ["nope.py"]),
    ("simulate --until nan", ["--until", "nan"]),
    ("simulate --goodput ttft", ["--goodput", "ttft", "LATENCY:THRESHOLD"]),
    ("simulate --goodput ttft_ms:5", ["ttft_ms:5", "time unit"]),
    ("simulate --resume nope.npz", ["nope.npz"]),
    ("simulate --resume not_a_state.npz", ["not_a_state.npz"]),
    ("simulate --resume not_a_state.npz --B 5", ["--B", "state"]),
    ("simulate --inject-at 5", ["--inject-at", "--inject"]),
    ("simulate --inject good.csv --inject-at inf", ["--inject-at", "inf", "finite"]),
    ("simulate --inject good.csv --inject-at -1", ["--inject-at -1.0", "not before the present"]),
    ("simulate --inject big.csv", ["big.csv", "row 2", "10001", "M_total = 10000"]),
    ("simulate --at-batch 5", ["--at-batch", "--save-state"]),
    ("simulate --no-verbose --at-batch 100000 --save-state s.npz", ["--at-batch", "ended after"]),
    ("simulate --out file", ["file", "not a folder"]),
    ("simulate --out file/x", ["file"]),
    ("simulate --nonsense 1", ["--nonsense"]),
    ("simulate --limit", ["--limit"]),
    ("generate --output nowhere/r.csv", ["nowhere/r.csv"]),
    ("trace convert header.csv out.csv", ["header.csv"]),
    ("trace convert good.csv nowhere/out.csv", ["nowhere/out.csv"]),
    ("trace nonsense", ["nonsense"]),
    ("solve --method euler", ["euler", "lagrangian", "eulerian_jax"]),
    ("solve --method lagrangian --victim-policy random", ["random", "victim"]),
    ("solve --method lagrangian --queue-policy SJF", ["SJF", "queue", " --approximate to"]),
    ("solve --step 2 --method eulerian_jax", ["--step 2.0", "<= 1"]),
    ("solve --step 1 --method lagrangian", ["--step", "eulerian_jax", "lagrangian"]),
    ("solve --batches-per-step 2 --method eulerian_jax", ["--batches-per-step", "lagrangian"]),
    ("solve --method lagrangian --d-0 0 --d-1 0", ["lagrangian", "d_0 > 0"]),
    ("solve --initial-waiting -1", ["--initial-waiting -1.0", ">= 0"]),
    ("solve --batches-per-step 900", ["--batches-per-step 900", "1 to"]),
    ("compare --replications 0", ["--replications", "0"]),
    ("compare --methods euler", ["euler", "lagrangian"]),
    ("compare --workers 0", ["--workers", "0"]),
    ("bench --methods foo", ["'foo'", "lagrangian, eulerian_jax"]),
    ("bench --methods lagrangian,foo", ["'foo'", "lagrangian, eulerian_jax"]),
    ("solve --method lagrangian,eulerian-jax", ["not one method"]),
    ("plot nowhere", ["nowhere", "No such file"]),
    ("plot .", ["not an experiment folder"]),
    ("equations --mode swap", ["swap", "swapping"]),
    ("equations --engine vllm_v1 --mode swapping", ["--mode", "swapping", "vllm_v1"]),
    ("nonsense", ["nonsense"]),
    ("simulat", ["simulat", "did you mean 'simulate'"]),
    ("profiles lst", ["lst", "did you mean 'list'"]),
    ("solve --laod 1", ["--laod", "--load"]),
    ("solve --method lagrang", ["lagrang", "did you mean 'lagrangian'"]),
    ("compare --methods eulerian-jx", ["eulerian_jx", "did you mean 'eulerian_jax'"]),
    ("simulate --scenario norml", ["--scenario norml", "did you mean 'normal'"]),
    ("simulate --engine decode_nod", ["--engine decode_nod", "decode_node"]),
    ("simulate --queue-policy SFJ", ["--queue-policy SFJ", "did you mean 'SJF'"]),
    ("tune max-rat", ["KNOB max-rat", "did you mean 'max-rate'"]),
    ("tune replica --requests none.csv", ["KNOB replica", "did you mean 'replicas'"]),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def left(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_input(run, folder, line, words):
    done = run(*line.split())
    assert done.exit_code == 2, (done.exit_code, done.stderr, done.exception)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert ".yaml" in line or "config key" not in done.stderr  # a flag is called a flag
    assert left(folder) == sorted(FILES)


@pytest.mark.parametrize(
    ("error", "words"),
    [(MemoryError("8 TiB"), "memory for it: 8 TiB"), (OverflowError("int"), "too large: int")],
)
def test_what_the_machine_cannot_hold_is_one_line(run, folder, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("workload.Workload.sample", fail)
    done = run("simulate", "--num-requests", 3)
    assert done.exit_code == 2 and words in done.stderr
    assert len(done.stderr.splitlines()) == 1 and left(folder) == sorted(FILES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(run, folder):
    (folder / "locked").mkdir(mode=0o500)
    for out in ("locked", "locked/x"):
        done = run("simulate", "--num-requests", 3, "--out", out)
        assert done.exit_code == 2 and "ermission denied" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_made(run, folder):
    done = run("simulate", "--num-requests", 3, "--out", "/proc/nowhere/x")
    assert done.exit_code == 2 and "/proc/nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert left(folder) == sorted(FILES)


def test_a_failure_leaves_an_existing_folder_as_it_was(run, folder):
    assert run("simulate", "--num-requests", 3, "--out", "kept").exit_code == 0
    before = {path.name: path.read_bytes() for path in (folder / "kept").iterdir()}
    assert run("simulate", "--requests", "big.csv", "--out", "kept").exit_code == 2
    assert {path.name: path.read_bytes() for path in (folder / "kept").iterdir()} == before
