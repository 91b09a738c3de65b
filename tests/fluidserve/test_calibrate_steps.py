"""``calibrate steps``: a law of measured steps to use elsewhere, and files it cannot use."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from calibration import fit_step_times, read_step_times
from calibration.profiles import find
from fluidserve.config import instance_of, load_config
from fluidserve.plots import step_times
from serving import BatchTimeLaw

LAW = BatchTimeLaw(d_0=0.012, d_decode=4e-5, d_kv=1.5e-7)
HEAD = "hardware,decode_tokens,kv_tokens,step_time_ms\n"


def steps(card="A", factor=1.0, noise=0.05, repeats=20):
    """Return lines of measured batches, one per size, context and repetition."""
    rng = np.random.default_rng(1)
    sizes = [
        (n, n * per) for n in (1, 2, 4, 8, 16, 32, 64, 128) for per in (64, 512, 4096)
    ] * repeats  # fmt: skip
    times = [
        1e3 * factor * LAW.duration(kv + n, n) * (1 + noise * rng.standard_normal())
        for n, kv in sizes
    ]
    return "".join(f"{card},{n},{kv},{t:.6f}\n" for (n, kv), t in zip(sizes, times, strict=True))


@pytest.fixture
def measured(tmp_path):
    """Files of measured steps, and one of everything that cannot be fitted."""
    good = HEAD + steps(repeats=1)
    files = {
        "good.csv": good,
        "two_cards.csv": good + steps("B", 2.0, repeats=1),
        "seconds.csv": HEAD + steps(factor=1e-3, repeats=1),
        "one_slip.csv": good + "A,4,2000,0.0125\n",
        "constant.csv": HEAD + "".join(f"A,{n},500,15.{n}\n" for n in range(10, 30)),
        "negative.csv": good + "A,4,100,-3\n",
        "text.csv": good + "A,4,100,fast\n",
        "few.csv": HEAD + "A,1,64,12\nA,2,128,12.1\n",
        "header.csv": HEAD,
        "no_time.csv": "decode_tokens,kv_tokens\n1,2\n",
        "empty.csv": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_law_comes_back_and_goes_into_a_configuration(run, tmp_path):
    (tmp_path / "steps.csv").write_text(HEAD + steps() + steps("B", 2.0))
    done = run("calibrate", "steps", "steps.csv", "--hardware", "a", "--out", "law")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["time_unit"] == "s" and said["dropped"] == {"other machines": 480}
    assert said["recipe"] == {"decode": "linear", "prefill": "added", "kv": True}
    assert said["identifiability"]["not_identified"] == []
    three_deviations = {"d_0": 0.011, "d_decode": 0.09, "d_kv": 0.027}  # of 5 % noise, 480 steps
    for each in said["coefficients"]:
        true = getattr(LAW, each["name"])
        assert each["value"] == pytest.approx(true, rel=three_deviations[each["name"]])
        assert each["low"] < each["value"] < each["high"]
    lines = {
        (line["levels_of"], line["split"]): line["mape"]
        for line in said["quality"]["held_out"]
        if line["chosen"]
    }
    # three contexts per request leave too few to hold one out
    assert set(lines) == {("batch size", "interpolating"), ("batch size", "extrapolating")}
    assert all(0.03 < mape < 0.06 for mape in lines.values())
    without = [line for line in said["quality"]["held_out"] if "without KV" in line["recipe"]]
    assert without and min(line["mape"] for line in without) > 0.1
    assert 0.03 < said["quality"]["mape"]["decode"] < 0.06

    assert said["output_dir"] == "law"
    config = load_config(tmp_path / "law" / "config_used.yaml", {"M_total": 100_000})
    assert config.time_unit == "s" and config.B is None and config.measured_requests == 128
    law = instance_of(config).batch_time
    for name in ("d_0", "d_decode", "d_kv"):
        assert getattr(law, name) == said["law"][name]
    for picture in ("step_time_fit.png", "step_time_residuals.png"):
        pixels = np.asarray(Image.open(tmp_path / "law" / picture).convert("L"))
        assert min(pixels.shape) > 300 and (pixels < 200).mean() > 0.005
    summary = (tmp_path / "law" / "summary.txt").read_text()
    assert "d_kv" in summary and "nan" not in summary
    arguments = ("simulate", "--config", "law/config_used.yaml", "--num-requests", 50)
    refused = run(*arguments)
    assert refused.exit_code == 2
    for word in ("law/config_used.yaml", "M_total = 10000", "--M-total", "--model"):
        assert word in refused.stderr
    used = run(*arguments, "--M-total", 100_000)
    assert used.exit_code == 0, used.stderr
    assert "toy" not in used.stderr


def test_the_memory_that_a_law_runs_in_is_stated_or_estimated(run, tmp_path):
    (tmp_path / "steps.csv").write_text(HEAD.replace("hardware", "card") + steps())
    for flags, tokens, source in (
        (("--kv-capacity", 123_456), 123_456, "--kv-capacity"),
        (("--model", "llama3.1-8b", "--hardware", "H100-SXM"), None, "estimated for meta-llama/"),
    ):
        done = run("calibrate", "steps", "steps.csv", *flags, "--out", "law", "--no-compare")
        assert done.exit_code == 0, done.stderr
        assert source in (tmp_path / "law" / "config_used.yaml").read_text()
        config = load_config(tmp_path / "law" / "config_used.yaml")
        assert config.B is None and config.M_total == (
            tokens or find("llama3.1-8b", "H100").kv_capacity
        )
        used = run("simulate", "--config", "law/config_used.yaml", "--num-requests", 50)
        assert used.exit_code == 0, used.stderr
        shutil.rmtree(tmp_path / "law")


def test_a_law_with_a_table_goes_into_a_configuration(run, tmp_path):
    law = BatchTimeLaw.tabulated([(1, 0.005), (16, 0.042), (128, 0.046)], 6e-8)
    rows = "".join(
        f"A,{n},{n * per},{1e3 * law.duration(n * (per + 1), n):.6f}\n"
        for n in (1, 2, 4, 8, 16, 32, 64, 128)
        for per in (64, 256, 1024, 4096)
    )
    (tmp_path / "steps.csv").write_text(HEAD + rows)
    done = run("calibrate", "steps", "steps.csv", "--out", "law", "--no-compare")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["recipe"]["decode"] == "tabulated"
    file = tmp_path / "law" / "config_used.yaml"
    read = instance_of(load_config(file, {"M_total": 100_000})).batch_time
    for n in (1, 5, 16, 100):
        assert read.duration(n * 501, n) == pytest.approx(law.duration(n * 501, n), rel=1e-3)


def test_a_machine_that_no_column_names_is_named_by_the_flags(run, measured):
    done = run("calibrate", "steps", "good.csv", "--hardware", "a", "--tp", 2, "--out", "law",
               "--no-compare")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    about = json.loads(done.stdout)["about"]
    assert about["hardware"] == "A" and about["tp"] == "2"
    assert "A 2" in (measured / "law" / "config_used.yaml").read_text()


WRONG = [
    ("nope.csv", ["nope.csv", "No such file"]),
    ("empty.csv", ["empty.csv", "empty"]),
    ("header.csv", ["header.csv", "no rows"]),
    ("few.csv", ["few.csv", "2 decode-only rows", "12 are needed"]),
    ("no_time.csv", ["no column of step times", "step_time_ms"]),
    ("constant.csv", ["constant.csv", "'kv_tokens'", "500", "--no-kv"]),
    ("negative.csv", ["row 25", "'step_time_ms'", "-3"]),
    ("text.csv", ["row 25", "'step_time_ms'", "fast"]),
    ("seconds.csv", ["not plausible", "is the column in s?"]),
    ("one_slip.csv", ["row 25", "0.0125", "another unit"]),
    ("two_cards.csv", ["2 machines", "A; B"]),
    ("good.csv --hardware C", ["no rows of hardware C", "the file has A"]),
    ("good.csv --kv-capacity 0", ["--kv-capacity", "0"]),
    ("good.csv --law cubic", ["cubic", "auto | linear | tabulated"]),
    ("good.csv --longest-gap -1", ["--longest-gap", "-1"]),
    ("good.csv --out few.csv", ["few.csv"]),
]


@pytest.mark.parametrize(("line", "words"), WRONG)
def test_what_cannot_be_fitted_is_a_line_and_leaves_nothing(run, measured, line, words):
    before = sorted(measured.rglob("*"))
    args = line.split() if "--out" in line else [*line.split(), "--out", "law"]
    done = run("calibrate", "steps", *args)
    assert done.exit_code == 2
    assert done.stdout == ""
    said = [
        each
        for each in done.stderr.splitlines()
        if not each.endswith(" rows") and "warning" not in each
    ]
    assert len(said) == 1
    for word in words:
        assert word in said[0], said
    assert sorted(measured.rglob("*")) == before


def test_pictures_of_steps_without_kv_show_no_kv(tmp_path, monkeypatch):
    lines = "".join(f"{8 + 0.05 * n},{n}\n" for n in range(1, 129, 3))
    (tmp_path / "steps.csv").write_text("step_time_ms,decode_tokens\n" + lines)
    fit = fit_step_times(read_step_times(tmp_path / "steps.csv"))
    drawn = []

    @contextmanager
    def kept(path, width, height):
        drawn.append(Figure((width, height)))
        yield drawn[-1]

    monkeypatch.setattr(step_times, "figure", kept)
    step_times.step_time_fit(fit, "fit.png")
    step_times.step_time_residuals(fit, "residuals.png")
    of_fit, of_residuals = (each.axes for each in drawn)
    low, high = of_fit[0].get_ylim()
    assert sum(low <= tick <= high for tick in of_fit[0].get_yticks()) >= 3
    assert "context" not in drawn[0].legends[0].get_title().get_text()
    assert [axes.get_xlabel() for axes in of_residuals] == ["decoding requests"]
