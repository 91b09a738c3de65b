"""Interpolation of named outputs, and files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from serving import FileAccessError, FluidServeError, Trajectory
from serving.files import atomic_write
from serving.trajectory import output_key


def trajectory() -> Trajectory:
    return Trajectory(
        np.array([0.0, 1.0, 1.0, 3.0]),
        {"waiting": np.array([0.0, 2.0, 4.0, 0.0]), "memory": np.array([5.0, 6.0, 7.0, 8.0])},
        held=frozenset({"memory"}),
    )


def test_linear_outputs_interpolate_and_held_ones_keep_their_last_value():
    found = trajectory()
    assert found("waiting [requests]", [0.5, 2.0]) == pytest.approx([1.0, 2.0])
    assert found("waiting", [-9, 99]) == pytest.approx([0.0, 0.0])
    assert found("memory [tokens]", [-1, 0, 0.9, 1.0, 2.9, 3.0, 9.0]).tolist() == [
        5, 5, 5, 7, 7, 8, 8,
    ]  # fmt: skip


def test_sampled_holds_the_values_at_the_grid():
    grid = np.linspace(0, 3, 13)
    sampled = trajectory().sampled(grid)
    for name in ("waiting", "memory"):
        assert (sampled(name, grid) == trajectory()(name, grid)).all()


def test_unknown_outputs_and_wrong_units_name_those_that_exist():
    for name in ("queue", "waiting [tokens]", "waiting[requests]"):
        with pytest.raises(FluidServeError, match=r"there are: waiting \[requests\]"):
            output_key(name)
    with pytest.raises(FluidServeError, match="this trajectory has no 'running'"):
        trajectory()("running", 0.0)
    with pytest.raises(FluidServeError, match="one value per time"):
        Trajectory(np.zeros(3), {"waiting": np.zeros(2)})


@pytest.mark.parametrize(("mode", "content"), [("w", "é\n"), ("wb", b"\0\1")])
def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path, mode, content):
    path = tmp_path / "out"
    path.write_text("old")
    with atomic_write(path, mode) as file:
        file.write(content)
        assert path.read_text() == "old"
    assert path.read_bytes() == (content if mode == "wb" else content.encode())
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path, error):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out"]


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "out") as file:
            file.write("x")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    kept, link = tmp_path / "elsewhere" / "kept", tmp_path / "link"
    kept.write_text("old")
    link.symlink_to(kept)
    with atomic_write(link) as file:
        file.write("new")
    assert link.is_symlink() and kept.read_text() == "new"
    assert [each.name for each in kept.parent.iterdir()] == ["kept"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic_write(pipe) as file:
            file.write("whole")
        assert os.read(reader, 100) == b"whole" and pipe.is_fifo()
    finally:
        os.close(reader)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no descriptors by name here")
def test_an_open_file_goes_on(tmp_path):
    with open(tmp_path / "log", "a") as log:
        log.write("before ")
        log.flush()
        with atomic_write(f"/dev/fd/{log.fileno()}") as file:
            file.write("between ")
        log.write("after")
    assert (tmp_path / "log").read_text() == "before between after"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device here")
def test_a_full_device_is_an_error_and_still_a_device():
    with pytest.raises(FileAccessError, match="No space left"), atomic_write("/dev/full") as file:
        file.write("x")
    assert Path("/dev/full").is_char_device()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileAccessError, match=r"none.*cannot be written"):
        with atomic_write(tmp_path / "none" / "out"):
            pass


def test_rate_of_a_cycle_that_the_window_cuts():
    t = np.linspace(0, 100, 20_001)
    done = Trajectory(t, {"completed": 3 * t + np.sin(2 * np.pi * t / 7.3)})
    for end in (61.0, 90.1, 94.3):
        plain = float(done("completed", end) - done("completed", 20.0)) / (end - 20)
        cycles = (end - 20) / 7.3
        assert abs(done.rate("completed", 20.0, end) - 3) < 0.3 / cycles**3
        assert abs(plain - 3) > 5 * abs(done.rate("completed", 20.0, end) - 3)
    straight = Trajectory(np.array([0.0, 10.0]), {"completed": np.array([0.0, 20.0])})
    assert straight.rate("completed", 1.0, 9.0) == pytest.approx(2.0)
    with pytest.raises(FluidServeError, match="end after start"):
        straight.rate("completed", 5.0, 5.0)
