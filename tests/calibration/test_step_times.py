"""Laws fitted to step times: truth recovered, measured levels held out, bad files refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.robust_fit import fit_relative
from calibration.step_times import Recipe, StepRows, fit_step_times, predict, read_step_times
from calibration.step_times.broken_lines import chosen_knots
from calibration.step_times.design import Design
from calibration.step_times.diagnostics import coefficients, identifiability
from calibration.step_times.holdout import held_out
from discrete import simulate
from serving import BatchTimeLaw, DecodeNode, RequestTable, WorkloadError

SHARED = Path(os.environ.get("FLUIDSERVE_SHARED", Path(__file__).parents[2] / ".." / "shared"))
KERNELS = SHARED / "data" / "steps" / "steps_kernelsum_vllm019.csv.gz"
LAW = BatchTimeLaw(d_0=0.012, d_decode=4e-5, d_kv=1.5e-7)


def grid(law, noise=0.0, seed=0):
    n, per = np.meshgrid([1, 2, 4, 8, 16, 32, 64, 128], [64, 256, 1024, 4096, 8192])
    n, context = n.ravel().astype(float), (n * per).ravel().astype(float)
    time = law.duration(context + n, n)
    time = time * (1 + noise * np.random.default_rng(seed).standard_normal(n.size))
    return StepRows.of(n, context, time)


def test_a_law_without_noise_is_recovered():
    fit = fit_step_times(grid(LAW), law="linear")
    for key in ("d_0", "d_decode", "d_kv"):
        assert getattr(fit.law, key) == pytest.approx(getattr(LAW, key), rel=1e-6)
    assert all(each.identified for each in fit.coefficients)


def test_simulated_batches_with_noise_give_what_is_identified_within_a_percent():
    rng = np.random.default_rng(3)
    size = 6000
    arrival = np.cumsum(rng.exponential(1 / np.where(np.arange(size) % 3000 < 1500, 5, 60)))
    table = RequestTable.validated(
        arrival, rng.choice([100, 4000], size), rng.integers(100, 400, size)
    )
    batches = simulate(table, DecodeNode(LAW, M_total=400_000, B=None)).batches
    n, tokens = batches["batch_size"].astype(float), batches["batch_tokens"]
    measured = batches["batch_duration"] * (1 + 0.05 * rng.standard_normal(n.size))
    fit = fit_step_times(StepRows.of(n, tokens - n, measured), law="linear", compare=False)
    known = {each.name: each for each in fit.coefficients if each.identified}
    assert "d_0" in known
    for name, each in known.items():
        assert each.value == pytest.approx(getattr(LAW, name), rel=0.01), name
    predicted = predict(fit.law, fit.rows)
    assert np.mean(np.abs(predicted / batches["batch_duration"] - 1)) < 0.01


def test_noise_takes_nothing_off_the_coefficients():
    """Errors over the measured time would: .4 % at 5 % of noise, 1.5 % at 10 %."""
    n, per = np.meshgrid([1, 8, 32, 128], [64, 1024, 8192])
    n = np.tile(n.ravel(), 2000).astype(float)
    context = n * np.tile(per.ravel(), 2000)
    noise = 1 + 0.1 * np.random.default_rng(7).standard_normal(n.size)
    A, time = np.column_stack([np.ones(n.size), n, context]), LAW.duration(context + n, n)
    c = fit_relative(A, time * noise).coefficients
    assert c[[0, 2]] == pytest.approx((LAW.d_0, LAW.d_kv), rel=4e-3)


@pytest.mark.parametrize("off", [0.0, 0.02], ids=["rows", "levels"])
@pytest.mark.parametrize("d_decode", [4e-5, 4e-6], ids=["known", "lost in noise"])
def test_intervals_hold_the_truth_as_often_as_they_say(off, d_decode):
    """Within 95 % +- 5 % of 200 fits; wrong ones of a coefficient at zero would hold it in 80 %."""
    law, rows = replace(LAW, d_decode=d_decode), grid(LAW)
    n, context = rows.requests, rows.context
    terms = {"d_0": np.ones(n.size), "d_decode": n, "d_kv": context}
    true, rng = law.duration(context + n, n), np.random.default_rng(11)
    held = np.zeros(3)
    for _ in range(200):
        by_level = off * rng.standard_normal(8)[np.log2(n).astype(int)]
        time = true * (1 + 0.02 * rng.standard_normal(n.size) + by_level)
        design = Design.of(time, terms)
        for k, each in enumerate(coefficients(design, design.fit(), n, identifiability(design))):
            held[k] += each.low <= getattr(law, each.name) <= each.high
    assert held.min() >= 180


def test_a_few_wild_steps_do_not_move_the_law_and_are_named():
    rows = grid(LAW, noise=0.01)
    time = rows.time.copy()
    time[[5, 17]] *= 8
    fit = fit_step_times(StepRows.of(rows.requests, rows.context, time), law="linear")
    assert fit.law.d_0 == pytest.approx(LAW.d_0, rel=0.02)
    assert {each.row for each in fit.outliers[:2]} == {6, 18}


def test_a_concave_law_gets_a_table():
    law = BatchTimeLaw.tabulated([(1, 0.005), (16, 0.042), (128, 0.046)], 6e-8)
    fit = fit_step_times(grid(law))
    assert fit.recipe.decode == "tabulated"
    assert [x for x, _ in fit.law.d_decode_table or ()] == [1, 16, 128]
    assert np.abs(predict(fit.law, fit.rows) / fit.rows.time - 1).mean() < 0.01


def test_between_two_measured_sizes_a_table_is_straight():
    """A bend chosen early between 4 and 16 stayed when later ones had made it idle."""
    sizes = [(1, 0.0044), (2, 0.0089), (4, 0.0137), (16, 0.0419), (128, 0.0424), (256, 0.044)]
    law = BatchTimeLaw.tabulated(sizes, 6.6e-8)
    n, per = np.meshgrid([1, 2, 4, 16, 32, 64, 128, 256], [16, 64, 256, 1024, 4096])
    n, context = n.ravel().astype(float), (n * per).ravel().astype(float)
    noise = 1 + 0.005 * np.random.default_rng(0).standard_normal(n.size)
    fit = fit_step_times(StepRows.of(n, context, law.duration(context + n, n) * noise))
    assert fit.recipe.decode == "tabulated"
    assert not [x for x, _ in fit.law.d_decode_table or () if 4 < x < 16]
    assert fit.law.duration(800, 8) == pytest.approx(law.duration(800, 8), rel=0.02)


def test_stairs_of_a_tile_and_kv_that_costs_more_beyond_the_cache_are_found():
    law = BatchTimeLaw(
        d_prefill_table=((16, 0.011), (128, 0.012), (144, 0.018), (512, 0.020), (1024, 0.040)),
        d_0=0.012, d_decode=4e-5, d_kv=1.5e-7, d_mixed_decode=3e-5,
        d_mixed_kv_table=((0, 0.0), (2.5e5, 0.05), (1e6, 0.35)),
    )  # fmt: skip
    rng = np.random.default_rng(2)
    prefill = np.where(rng.random(3000) < 0.2, 0, rng.integers(16, 900, 3000))
    n = rng.integers(1, 129, 3000).astype(float)
    context = np.round(n * rng.choice([64, 512, 2048, 8192], 3000))
    mixed = law.mixed_duration(n, context, prefill, prefill * (prefill + 1) / 2)
    time = np.where(prefill == 0, law.duration(context + n, n), mixed)
    fit = fit_step_times(StepRows.of(n, context, time, prefill_tokens=prefill), law="linear")
    assert fit.recipe.prefill == "tabulated" and fit.law.d_mixed_kv_table is not None
    stairs = [x for x, _ in fit.law.d_prefill_table or ()]
    assert 128.0 in stairs and 144.0 in stairs
    assert np.abs(predict(fit.law, fit.rows) / time - 1).mean() < 0.01


def test_the_slope_that_goes_on_was_seen_over_half_of_the_range():
    x = np.repeat([16.0, 128, 512, 1024, 1152], 4)
    y = np.array([1.0, 2, 4, 8, 12])[np.repeat(np.arange(5), 4)]  # a stair at the very end
    knots = chosen_knots(x, np.empty((x.size, 0)), y, most=16, tile=128)
    assert knots[-1] == 1152 and knots[-2] <= 1152 / 2


def test_collinear_columns_are_said_and_predictions_hold():
    n = np.tile(np.arange(1.0, 65.0), 3)
    time = LAW.duration(n * 501, n) * (1 + 0.01 * np.random.default_rng(1).standard_normal(n.size))
    fit = fit_step_times(StepRows.of(n, n * 500, time), law="linear")
    loose = {each.name for each in fit.coefficients if not each.identified}
    assert loose == {"d_decode", "d_kv"}
    assert any("not identified" in each for each in fit.warnings)
    assert np.abs(predict(fit.law, fit.rows) / LAW.duration(n * 501, n) - 1).max() < 0.01


LLAMA = "meta-llama/Llama-3.1-8B"
HEADER = "decode_tokens,kv_tokens,step_time_ms\n"
GOOD = "".join(
    f"{n},{n * per},{1e3 * LAW.duration(n * (per + 1), n):.6f}\n"
    for n in (1, 2, 4, 8, 16) for per in (64, 512, 4096)
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        (HEADER, "no rows below the header"),
        (HEADER + GOOD[: GOOD.index("\n") + 1], "too few"),
        (HEADER + GOOD + "4,100,-3\n", "row 16, column 'step_time_ms', value -3.0"),
        (HEADER + GOOD + "4,-100,3\n", "row 16, column 'kv_tokens', value -100.0"),
        (HEADER + GOOD + "4,100,fast\n", "row 16, column 'step_time_ms', value 'fast'"),
        (HEADER.replace("_ms", "_us") + GOOD, "not plausible; is the column in ms"),
        (HEADER + "".join(f"8,{k},15.{k}\n" for k in range(10, 30)), "column 'decode_tokens'"),
        (HEADER + "".join(f"{k},500,15.{k}\n" for k in range(10, 30)), "column 'kv_tokens'"),
        (HEADER + "".join(f"{k},{k * k},15\n" for k in range(10, 30)), "column 'step time'"),
        (HEADER + GOOD + "4,2000,0.0125\n", "is it in another unit?"),
        ("kv_tokens,step_time_ms\n1,2\n", "no column 'decode_tokens'"),
        ("decode_tokens,x\n1,2\n", "no column of step times"),
    ],
)
def test_a_bad_file_is_refused_in_a_line(tmp_path, text, words):
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(WorkloadError) as caught:
        fit_step_times(read_step_times(path), law="linear", compare=False)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_the_headers_of_other_projects_are_understood(tmp_path):
    own, theirs = tmp_path / "own.csv", tmp_path / "theirs.csv"
    rows = "".join(f"{64 * (k % 3)},{k},{12 + 0.1 * k}\n" for k in range(1, 12))
    own.write_text("prefill_tokens,decode_tokens,step_time_ms\n" + rows)
    for head in ("num_context_tokens,num_decode_tokens,latency_ms",
                 "num_prefill_tokens,num_decode_tokens,latency_ms"):  # fmt: skip
        theirs.write_text(f"{head}\n\n{rows}")
        one, other = read_step_times(own), read_step_times(theirs)
        for name in ("prefill_tokens", "requests", "time"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    theirs.write_text("num_context_tokens,num_decode_tokens,latency_ms\n\n1,2,13\n-1,2,13\n")
    with pytest.raises(WorkloadError, match=r"csv:4, row 2, column 'num_context_tokens'"):
        read_step_times(theirs)


def test_a_machine_without_a_column_is_a_name_one_with_a_column_a_choice(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("model,decode_tokens,step_time_ms\na,1,12\nb,2,13\n")
    rows = read_step_times(path, hardware="H100", model="B", tp=2)
    assert dict(rows.about) == {"file": str(path), "hardware": "H100", "model": "b", "tp": "2"}
    assert rows.time == pytest.approx([0.013]) and rows.dropped == {"other machines": 1}
    with pytest.raises(WorkloadError, match="no rows of model c"):
        read_step_times(path, hardware="H100", model="c")


@pytest.mark.skipif(not KERNELS.exists(), reason="the shared measurements are not here")
@pytest.mark.parametrize(
    ("machine", "decode", "inner", "outer"),
    [
        ({"hardware": "RTX4090"}, "linear", 0.015, 0.025),
        ({"hardware": "RTXPRO6000", "model": LLAMA, "tp": 1}, "linear", 0.015, 0.025),
        ({"model": "Qwen/Qwen3-32B", "tp": 1}, "linear", 0.015, 0.015),
        ({"model": "Qwen/Qwen3-30B-A3B-Instruct-2507"}, "tabulated", 0.05, 0.05),
    ],
)  # fmt: skip
def test_measured_decode_batches_are_predicted_at_levels_held_out(machine, decode, inner, outer):
    rows = read_step_times(KERNELS, **machine)
    lines = held_out(rows, Recipe(decode), ("decode",))
    by_size = {each.split: each.mape for each in lines if each.levels_of == "batch size"}
    assert by_size["interpolating"] <= inner and by_size["extrapolating"] <= outer


@pytest.mark.slow
@pytest.mark.skipif(not KERNELS.exists(), reason="the shared measurements are not here")
@pytest.mark.parametrize("hardware", ["RTX4090", "RTXPRO6000"])
def test_measured_mixed_batches_are_predicted_at_levels_held_out(hardware):
    rows = read_step_times(KERNELS, hardware=hardware, model=LLAMA, tp=1)
    lines = held_out(rows, Recipe("linear", "tabulated"), ("mixed",))
    inner = {each.levels_of: each.mape for each in lines if each.split == "interpolating"}
    assert inner["batch size"] <= 0.06 and inner["context per request"] <= 0.06
