"""The log of iterations gives the law, with the time between steps that it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from chunked_prefill_server import serve

from calibration.server_runs import calibrate_run, read_server_log
from serving import WorkloadError

LAW = np.array([0.0111, 4e-5, 1.2e-4, 9.07e-8])
GAP = np.array([8e-4, 9e-5])
CAPACITY, BLOCK = 400_000, 16
RUNS = Path(os.environ.get("FLUIDSERVE_SHARED", Path(__file__).parents[3] / "shared"))
CPU = RUNS / "data" / "runs" / "vllm032_cpu"


def served(count=500, noise=0.03, seed=0):
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1, count) * np.where(np.arange(count) // 25 % 2, 0.4, 0.08)
    return serve(np.cumsum(gaps), rng.integers(10, 900, count), rng.integers(20, 200, count), LAW,
                 noise=noise, seed=seed)  # fmt: skip


def line(index, end, prefill, decode, generation, elapsed, usage):
    clock = 86_390 + int(end)  # runs into the next day
    clock = f"{clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
    return (
        f"(APIServer pid=7) INFO 11-28 {clock} [loggers.py:199] Engine 000: Iteration({index}): "
        f"{int(prefill > 0)} context requests, {prefill} context tokens, {decode} generation "
        f"requests, {generation} generation tokens, iteration elapsed time: {1e3 * elapsed:.2f} "
        f"ms, GPU KV cache usage: {100 * usage:.4f}%"
    )


def text(run, clock=True):
    """Return the log of a server whose time between steps is GAP, part of its batch times."""
    b = run.batches
    elapsed = b["duration"] - GAP[0] - GAP[1] * (b["decode"] + (b["prefill"] > 0))
    usage = (b["held"] + b["running"] * (BLOCK - 1) / 2) / CAPACITY
    lines = [
        line(10_165 + at, *(int(b[name][at]) if name != "end" else b[name][at]
             for name in ("end", "prefill", "decode", "decode")), elapsed[at], usage[at])
        for at in range(b["end"].size)
    ]  # fmt: skip
    lines.insert(3, "INFO 11-28 23:59:50 [loggers.py:259] Engine 000: Avg prompt throughput: 1")
    whole = "\n".join(["INFO starting", *lines]) + "\n"
    return whole if clock else whole.replace(" 23:59:", " ").replace(" 00:0", " ")


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
