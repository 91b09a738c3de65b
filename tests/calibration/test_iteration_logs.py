"""The log of iterations gives the law, with the time between steps that it leaves out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from iteration_log import BLOCK, CAPACITY, GAP, LAW, line, served, text

from calibration import fit_step_times, read_step_times
from calibration.server_runs import calibrate_run, read_server_log
from serving import WorkloadError

RUNS = Path(os.environ.get("FLUIDSERVE_SHARED", Path(__file__).parents[3] / "shared"))
CPU = RUNS / "data" / "runs" / "vllm032_cpu"


def fitted(tmp_path, content, **options):
    path = tmp_path / "server.log"
    path.write_text(content)
    return calibrate_run(read_server_log(path), path=path, **options)


def test_the_law_contains_the_time_between_steps(tmp_path):
    run = served(seed=1)
    found = fitted(tmp_path, text(run), kv_capacity_tokens=CAPACITY, block_size=BLOCK)
    assert found.kind == "iterations"
    assert found.gap is not None
    assert abs(found.gap.per_step - GAP[0]) <= found.gap.error_per_step < 4e-4
    assert abs(found.gap.per_request - GAP[1]) <= found.gap.error_per_request < 5e-5
    assert (np.abs(found.law.value - LAW) <= found.law.half_width).all()
    assert found.law.value[:2] == pytest.approx(LAW[:2], rel=0.05)
    plain = found.law.value[0] - found.gap.per_step  # without the gap the law would be too small
    assert plain < 0.95 * LAW[0]


def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path):
    """95 % of the 6 x 4 intervals; chance leaves 83 % or more."""
    held = []
    for seed in range(6):
        content = text(served(count=300, seed=seed))
        found = fitted(tmp_path, content, kv_capacity_tokens=CAPACITY, block_size=BLOCK)
        held.append(np.abs(found.law.value - LAW) <= found.law.half_width)
    assert np.mean(held) >= 0.83


def test_without_a_clock_the_log_says_what_it_leaves_out(tmp_path):
    found = fitted(tmp_path, text(served(), clock=False), kv_capacity_tokens=CAPACITY)
    assert found.gap is None
    assert any("clock of the log does not tell" in note for note in found.notes)
    assert any("give --block-size" in note for note in found.notes)
    assert found.law.value[0] == pytest.approx(LAW[0] - GAP[0], rel=0.05)


def test_what_is_computed_again_is_prefill_and_drafts_are_not(tmp_path):
    run = served(count=120, noise=0)
    lines = text(run).splitlines()
    at = next(i for i, each in enumerate(lines) if ", 2 generation requests" in each)
    lines[at] = lines[at].replace(", 2 generation tokens", ", 302 generation tokens")
    plain = fitted(tmp_path, text(run), kv_capacity_tokens=CAPACITY)
    again = fitted(tmp_path, "\n".join(lines), kv_capacity_tokens=CAPACITY)
    assert again.rows.prefill_tokens.sum() == plain.rows.prefill_tokens.sum() + 300
    assert again.rows.decode_tokens.sum() == plain.rows.decode_tokens.sum()
    assert any("computed again after a preemption" in note for note in again.notes)
    b = run.batches
    drafted = "\n".join(
        line(i, b["end"][i], int(b["prefill"][i]), int(b["decode"][i]), 3 * int(b["decode"][i]),
             b["duration"][i], 0.1)
        for i in range(b["end"].size)
    )  # fmt: skip
    found = fitted(tmp_path, drafted, kv_capacity_tokens=CAPACITY)
    assert found.rows.prefill_tokens.sum() == b["prefill"].sum()
    assert any("drafts" in note for note in found.notes)


def test_a_log_says_its_capacity_and_its_engine(tmp_path):
    content = "INFO 1-1 [kv_cache_utils.py:1] GPU KV cache size: 400,000 tokens, \n" + text(
        served()
    )
    found = fitted(tmp_path, content)
    assert found.kv_capacity is not None
    assert found.kv_capacity.value == CAPACITY
    assert not found.rows.kv_is_share
    assert fitted(tmp_path, text(served())).rows.kv_is_share
    two = content.splitlines()
    two[10] = two[10].replace("Engine 000", "Engine 001")
    (tmp_path / "two").write_text("\n".join(two))
    with pytest.raises(WorkloadError, match=r"two: iterations of 2 engines.*--engine \(0, 1\)"):
        read_server_log(tmp_path / "two")
    assert len(read_server_log(tmp_path / "two", engine="1")) == 1
    with pytest.raises(WorkloadError, match="no iteration of engine 7; the log has 0, 1"):
        read_server_log(tmp_path / "two", engine="7")


def test_a_log_of_two_starts_is_refused(tmp_path):
    content = text(served(count=40))
    with pytest.raises(WorkloadError, match=r"row \d+.*iterations do not rise"):
        fitted(tmp_path, content + content)


def test_steps_of_a_log_give_a_law_of_any_form(tmp_path):
    (tmp_path / "log").write_text(text(served(seed=1)))
    rows = read_step_times(tmp_path / "log", kv_capacity=CAPACITY, block_size=BLOCK, model="m")
    assert rows.about["model"] == "m"
    fit = fit_step_times(rows, law="linear", compare=False)
    found = [fit.law.d_0, fit.law.d_decode, fit.law.d_kv]
    assert found == pytest.approx(LAW[[0, 2, 3]], rel=0.12)
    assert fit.law.d_0 == pytest.approx(LAW[0], rel=0.01)
    bare = read_step_times(tmp_path / "log")
    assert not bare.has_context
    (tmp_path / "csv").write_text("step_time_ms,decode_tokens\n11,1\n")
    with pytest.raises(WorkloadError, match=r"csv: --block-size is for a log of iterations"):
        read_step_times(tmp_path / "csv", block_size=16)


def forward(requests, time):
    keys = ("query_len", "kv_len", "num_draft_tokens")
    named = [dict(zip(keys, each, strict=True)) for each in requests]
    ranks = [{"num_tokens": 1, "kv_blocks": 1, "latency_us": {"median": time}}]
    return {"case": "c", "requests": named, "median_us": time, "ranks": ranks}


def test_a_forward_benchmark_gives_steps(tmp_path):
    """Decodes behind a prefix, a whole prompt, two chunks behind prefixes, a verified draft."""
    cases = [
        forward([(1, 101, 0), (1, 51, 0)], 9_000.0),
        forward([(300, 300, 0)], 12_000.0),
        forward([(100, 500, 0), (20, 30, 0), (1, 7, 0)], 11_000.0),
        forward([(3, 90, 2)], 9_500.0),
    ]
    (tmp_path / "f").write_text(json.dumps(cases))
    rows = read_step_times(tmp_path / "f")
    assert rows.prefill_tokens.tolist() == [0, 300, 120, 0]
    assert rows.requests.tolist() == [2, 0, 1, 3]
    assert rows.context.tolist() == [150, 0, 6, 87]
    assert rows.prefill_context.tolist() == [0, 0, 410, 0]
    pairs = [sum(held + 1 + j for j in range(n)) for n, held in ((300, 0), (100, 400), (20, 10))]
    assert rows.attention.tolist() == [0, pairs[0], pairs[1] + pairs[2], 0]
    assert rows.time.tolist() == [0.009, 0.012, 0.011, 0.0095]
    for wrong, words in (
        ({"case": "c"}, "no result of vllm bench forward"),
        ([forward([(5, 4, 0)], 9.0)], r"row 1.*1 <= query_len <= kv_len"),
        ([forward([(1, 2, 0)], 0.0)], "median_us"),
        ([{"case": "c", "requests": 3, "median_us": 1}], "a list of requests"),
    ):
        (tmp_path / "w").write_text(json.dumps(wrong))
        with pytest.raises(WorkloadError, match=words):
            read_step_times(tmp_path / "w")


@pytest.fixture
def cpu() -> Path:
    if not CPU.is_dir():
        pytest.skip("no shared data: set FLUIDSERVE_SHARED")
    return CPU


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("light", "bench.json"), ("near", "bench.json metrics.txt"), ("closed", "bench.json"),
     ("overload", "bench.json metrics.txt"), ("prefix", "metrics.txt")],
)  # fmt: skip
def test_log_result_and_scrape_of_a_real_server_agree(cpu, name, kinds):
    """A coefficient may take what another lacks, so that the whole run is compared as well.

    Left out are the scrape of the run in which half of the intervals are idle, that of the run with
    one number of requests throughout, and the client of the run with a shared prefix, which does
    not see what is computed.
    """
    log, *others = (
        calibrate_run(
            read_server_log(cpu / f"{name}.{end}.gz"), token_budget=512, kv_capacity_tokens=8160,
            block_size=32,
        )
        for end in ("iterations.txt", *kinds.split())
    )  # fmt: skip
    assert log.gap is not None
    assert 0.05 < log.gap.share < 0.12
    for other in others:
        apart = np.abs(np.nan_to_num(log.law.value - other.law.value))
        each = (log.law.half_width, other.law.half_width)
        assert (apart <= sum(np.where(np.isfinite(half), half, 0) for half in each)).all()
        run = [(1 + f.beyond_law) * f.law.predict(log.rows).sum() for f in (log, other)]
        assert run[1] / run[0] == pytest.approx(1, abs=0.045)


def test_a_scrape_of_a_server_that_is_often_idle_says_so(cpu):
    """Its batches come out 18 % too long: intervals are idle between two scrapes."""
    said = {
        name: calibrate_run(read_server_log(cpu / f"{name}.metrics.txt.gz")).notes
        for name in ("light", "near")
    }
    idle = {
        name: any("may hold idle times" in each for each in notes) for name, notes in said.items()
    }
    assert idle == {"light": True, "near": False}
