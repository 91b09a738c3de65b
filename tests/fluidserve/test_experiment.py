from __future__ import annotations

import json

import numpy as np
import pytest

from fluidserve.folders import experiment_folder, plain, to_json
from fluidserve.results import parse_goodput, read_trajectory, write_trajectory
from fluidserve.text import number
from serving import FileAccessError, FluidServeError, Trajectory


def test_a_folder_appears_whole(tmp_path):
    with experiment_folder(tmp_path / "deep" / "x") as (folder, final):
        (folder / "a").write_text("1")
        assert not final.exists()
    assert (tmp_path / "deep" / "x" / "a").read_text() == "1"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_folder_that_fails_leaves_nothing_not_even_its_parents(tmp_path, error):
    with pytest.raises(error), experiment_folder(tmp_path / "deep" / "er" / "x") as (folder, _):
        (folder / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_files_of_an_experiment_give_way_only_at_the_end(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "meta.json").write_text('{"fluidserve": "0"}')
    for name in ("summary.txt", "report.html", "kept"):
        (tmp_path / "x" / name).write_text("old")
    before = {path.name: path.read_text() for path in (tmp_path / "x").iterdir()}
    with pytest.raises(RuntimeError), experiment_folder(tmp_path / "x") as (folder, _):
        (folder / "summary.txt").write_text("new")
        raise RuntimeError
    assert {path.name: path.read_text() for path in (tmp_path / "x").iterdir()} == before
    with experiment_folder(tmp_path / "x") as (folder, _):
        (folder / "summary.txt").write_text("new")
    after = {path.name: path.read_text() for path in (tmp_path / "x").iterdir()}
    assert after == {"summary.txt": "new", "kept": "old"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("meta", [None, "no json", "3", '{"other": 1}'])
def test_a_folder_of_other_files_is_refused(tmp_path, meta):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "summary.json").write_text("mine")
    if meta is not None:
        (tmp_path / "x" / "meta.json").write_text(meta)
    with pytest.raises(FileAccessError, match="no experiment"), experiment_folder(tmp_path / "x"):
        raise AssertionError("not reached")
    assert (tmp_path / "x" / "summary.json").read_text() == "mine"


@pytest.mark.parametrize("hidden", [(), (".gitkeep",)])
def test_an_empty_folder_is_taken(tmp_path, hidden):
    (tmp_path / "x").mkdir()
    for name in hidden:
        (tmp_path / "x" / name).touch()
    with experiment_folder(tmp_path / "x") as (folder, _):
        (folder / "a").touch()
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"a", *hidden}


def test_an_operating_system_error_names_the_file(tmp_path):
    with pytest.raises(FileAccessError, match="gone"), experiment_folder(tmp_path / "x") as found:
        (found[0] / "gone" / "a").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_nan():
    value = {
        "nan": float("nan"), "inf": [float("inf")], "array": np.array([1.0, np.nan]),
        "whole": np.int64(3), "text": "x", "none": None, "flag": True, 1: (1, 2),
    }  # fmt: skip
    assert json.loads(to_json(value)) == {
        "nan": None, "inf": [None], "array": [1.0, None], "whole": 3, "text": "x", "none": None,
        "flag": True, "1": [1, 2],
    }  # fmt: skip
    assert plain(np.float64("nan")) is None


def test_a_trajectory_survives_its_file(tmp_path):
    rng = np.random.default_rng(1)
    time = np.sort(rng.random(50))
    before = Trajectory(time, {"waiting": rng.random(50) / 3, "completed": np.arange(50.0)})
    write_trajectory(tmp_path / "t.csv", before)
    after = read_trajectory(tmp_path / "t.csv")
    assert np.array_equal(before.time, after.time)
    for name, values in before.outputs.items():
        assert np.array_equal(values, after.outputs[name])


@pytest.mark.parametrize("text", ["", "time,waiting\n1,x\n", "waiting\n1\n", "time,waiting\n1\n"])
def test_a_file_that_is_no_trajectory(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FluidServeError, match=r"t\.csv"):
        read_trajectory(tmp_path / "t.csv")


def test_goodput_thresholds_are_in_the_unit_of_the_run():
    given = ("ttft:2", "e2el_ms<500")
    assert parse_goodput(given, "s", 20) == {"ttft": 2.0, "e2el": 0.5}
    assert parse_goodput(given, "ms", 20) == {"ttft": 2.0, "e2el": 500.0}
    assert parse_goodput((), "s", 20) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0"), (12345, "12,345"), (1234.56, "1,234.6"), (0.123456, "0.1235"),
        (3.0, "3"), (True, "True"), ("x", "x"), ([], "-"), (["a", "b"], "a, b"),
    ],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert number(value) == text


@pytest.mark.parametrize("command", ["simulate", "solve", "compare"])
def test_a_threshold_on_a_latency_that_nobody_has_is_refused(run, tmp_path, command):
    """Every request decodes one token: nobody has a TPOT to count."""
    failed = run(command, "--types", "(9,1,0.1)", "--num-requests", 20, "--goodput", "tpot:1",
                 "--out", "out")  # fmt: skip
    assert failed.exit_code == 2 and len(failed.stderr.splitlines()) == 1
    assert "--goodput 'tpot:1': tpot is not defined here" in failed.stderr
    assert not (tmp_path / "out").exists()
