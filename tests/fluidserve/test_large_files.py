"""Large request tables and trajectories: the bytes of the plain way, in pieces; a bound said."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

import fluidserve.results as results
from fluidserve.cli import cli
from serving import RequestMix, RequestTable, Trajectory, csv_text
from workload import write_requests


def table(size: int) -> RequestTable:
    rng = np.random.default_rng(size)
    return RequestTable.validated(
        np.cumsum(rng.exponential(size=size)),
        rng.integers(1, 900, size),
        rng.integers(1, 90, size),
        priority=rng.integers(-2, 3, size),
    )


@pytest.mark.parametrize("name", ["requests.csv", "requests.csv.gz"])
@pytest.mark.parametrize("size", [1, 6, 7, 8, 30])
def test_pieces_are_the_plain_text(tmp_path, monkeypatch, size, name):
    monkeypatch.setattr(csv_text, "ROWS_AT_ONCE", 7)
    requests = table(size)
    write_requests(requests, tmp_path / name)
    shown = [requests.arrival_time, requests.prefill_length, requests.decode_length]
    head = "arrival_time,prefill_length,decode_length"
    if requests.priority.any():
        shown.append(requests.priority)
        head += ",priority"
    rows = [
        ",".join(repr(value) for value in row)
        for row in zip(*(c.tolist() for c in shown), strict=True)
    ]
    plain = "\n".join([head, *rows, ""]).encode()
    found = (tmp_path / name).read_bytes()
    assert found == (gzip.compress(plain, mtime=0) if name.endswith("gz") else plain)


def trajectory(size: int) -> Trajectory:
    t = np.linspace(0.0, 1.0, size) ** 2
    return Trajectory(t, {"waiting": np.sin(t), "running": t / 3})


@pytest.mark.parametrize("size", [1, 9, 10, 11, 20, 21, 95])
def test_a_long_trajectory_is_written_in_part_and_says_so(tmp_path, monkeypatch, size):
    monkeypatch.setattr(results, "MOST_TIMES", 10)
    whole = trajectory(size)
    thin, said = results.thin_trajectory(whole)
    assert thin.time.size <= 11
    assert (thin.time[0], thin.time[-1]) == (whole.time[0], whole.time[-1])
    assert np.isin(thin.time, whole.time).all() and (np.diff(thin.time) > 0).all()
    assert np.array_equal(thin("running", thin.time), whole("running", thin.time))
    assert bool(said) == (thin.time.size < size)
    monkeypatch.setattr(csv_text, "ROWS_AT_ONCE", 4)
    results.write_trajectory(tmp_path / "t.csv", thin)
    again = results.read_trajectory(tmp_path / "t.csv")
    assert np.array_equal(again.time, thin.time)
    assert all(np.array_equal(again.outputs[k], v) for k, v in thin.outputs.items())


def test_solve_warns_of_a_trajectory_in_part(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "MOST_TIMES", 50)
    run = ["solve", "--method", "lagrangian", "--load", "0.5", "--horizon", "3000", "--json"]
    run += ["--out", str(tmp_path / "run")]
    cli(run, standalone_mode=False)
    said = json.loads(capsys.readouterr().out)["warnings"]
    assert any("trajectory.csv holds" in line for line in said)
    assert len((tmp_path / "run" / "trajectory.csv").read_text().splitlines()) <= 52


def test_the_means_of_a_mix_are_those_of_its_atoms():
    rng = np.random.default_rng(4)
    p, d = rng.integers(1, 50, 500), rng.integers(1, 50, 500)
    mix = RequestMix.from_lengths(p, d)
    assert mix.mean_prefill == pytest.approx(p.mean())
    assert mix.mean_decode == pytest.approx(d.mean())
    assert mix.work == pytest.approx(
        np.mean([sum(a + k for k in range(1, b + 1)) for a, b in zip(p, d, strict=True)])
    )
