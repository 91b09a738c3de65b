"""Pictures exist, say something, hold on degenerate input, and come out the same twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fluidserve.plots import (
    Curve,
    Timeline,
    factors,
    fluid_vs_discrete,
    pressure_spans,
    request_timeline,
    sample_rows,
    system_dynamics,
)
from fluidserve.plots.dynamics import while_batches
from fluidserve.plots.style import expected_band
from fluidserve.plots.trajectories import scores
from serving import (
    DEFAULT_KIND,
    NRMSE_OUTPUTS,
    OUTPUTS,
    DecodeNode,
    FileAccessError,
    RateProfile,
    Trajectory,
)

T = np.linspace(0.0, 100.0, 400)


def curve(name, phase=0.0, runs=1, swapped=True):
    wave = 50 + 40 * np.sin(T / 8 + phase)
    outputs = {output: wave + 0.0 for output in OUTPUTS}
    outputs["swapped"] = np.clip(wave - 80, 0, None) if swapped else 0 * T
    outputs["completed"] = 2 * T
    outputs["evicted"] = np.maximum.accumulate(outputs["swapped"])
    mean = Trajectory(T, outputs)

    def scaled(factor):
        return Trajectory(T, {name: factor * values for name, values in outputs.items()})

    if runs == 1:
        return Curve(name, mean)
    return Curve(name, mean, scaled(0.8), scaled(1.2), scaled(0.1), runs)


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"), float)


def colourful(path):
    """Return the share of pixels that are neither white nor grey."""
    image = pixels(path)
    return float((np.ptp(image, axis=2) > 40).mean())


def draw_dynamics(path, curves, **options):
    profile = RateProfile.steps([0, 40, 60], [1.0, 4.0, 0.5], 100.0)
    system_dynamics(curves, path, instance=DecodeNode(), profile=profile, **options)


def test_system_dynamics(tmp_path):
    both = [curve("discrete", runs=8), curve("lagrangian", 0.1)]
    draw_dynamics(tmp_path / "a.png", both, capacity=2.0)
    draw_dynamics(tmp_path / "b.png", both, capacity=2.0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    image = pixels(tmp_path / "a.png")
    assert min(image.shape[:2]) > 1000
    assert colourful(tmp_path / "a.png") > 0.004
    draw_dynamics(tmp_path / "c.png", both[:1], capacity=2.0)
    assert (pixels(tmp_path / "c.png") != image).any()


def test_nothing_ever_happens(tmp_path):
    zero = Trajectory(T, {output: 0 * T for output in OUTPUTS})
    draw_dynamics(tmp_path / "zero.png", [Curve("discrete", zero)])
    fluid_vs_discrete(
        Curve("discrete", zero), [Curve("lagrangian", zero)], tmp_path / "f.png",
        nrmse={"lagrangian": dict.fromkeys(NRMSE_OUTPUTS, float("nan"))},
        noise_floor=dict.fromkeys(NRMSE_OUTPUTS, None),
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"zero.png", "f.png"}


@pytest.mark.parametrize("methods", [1, 4])
def test_fluid_vs_discrete(tmp_path, methods):
    names = ("lagrangian", "eulerian_jax", "eulerian_diffrax", "eulerian_scipy")[:methods]
    scores = dict.fromkeys(NRMSE_OUTPUTS, 0.0123)
    fluid_vs_discrete(
        curve("discrete", runs=32), [curve(name, 0.05) for name in names], tmp_path / "f.png",
        nrmse=dict.fromkeys(names, scores), noise_floor=scores, time_unit="s",
    )  # fmt: skip
    assert colourful(tmp_path / "f.png") > 0.003


def told(low, high):
    """Return what JSON says of an error of the mean number in system."""
    return {"metrics": {"mean_in_system": {"expected": 0.0, "low": low, "high": high}}}


def test_an_interval_is_where_the_engine_is_and_not_the_error_itself():
    low, high = factors(told(-0.2, 0.25), "mean_in_system")
    assert (low, high) == (pytest.approx(1 / 1.25), pytest.approx(1 / 0.8))
    assert factors(told(-1.0, 9.0), "mean_in_system")[1] > 1e100
    for nothing in (None, {}, {"metrics": {}}):
        assert factors(nothing, "mean_in_system") is None


def test_the_number_in_system_alone_has_an_interval_and_a_wide_one_is_cut():
    from matplotlib.figure import Figure

    axes, handles = Figure().subplots(), {}
    sure = replace(curve("node_work"), off=(0.8, 1.1))
    for output in ("waiting", "running", "completed"):
        expected_band(axes, sure, output, T, handles)
    expected_band(axes, curve("node_work"), "in_system", T, handles)
    assert not handles and not axes.collections
    expected_band(axes, sure, "in_system", T, handles)
    (label,) = handles
    assert label == "90 % of answers like this one, node work"
    drawn = axes.collections[0].get_paths()[0].vertices
    line = sure.mean("in_system", T)
    assert drawn[:, 1].max() == pytest.approx(1.1 * line.max())
    assert drawn[:, 1].min() == pytest.approx(0.8 * line.min())
    expected_band(axes, replace(sure, off=(0.0, 1e300)), "in_system", T, handles)
    expected_band(axes, replace(sure, name="discrete"), "in_system", T, handles)
    assert list(handles)[1] == "90 % interval of this mean"
    assert axes.collections[1].get_paths()[0].vertices[:, 1].max() < 2 * line.max()


EVENTS = {
    "time": [0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 9.0],
    "event_type": [
        "arrive", "arrive", "admit", "admit", "swap_out", "swap_in", "complete", "sacrifice",
    ],
    "req_id": [0, 1, 0, 1, 1, 1, 0, 1],
}  # fmt: skip


KINDS_OF_EVENT = DEFAULT_KIND.events


def test_a_timeline_is_read_off_the_events():
    first, second = Timeline.from_events(EVENTS, [0, 1], 12.0, KINDS_OF_EVENT)
    assert first.spans == (("waiting", 0.0, 2.0), ("running", 2.0, 7.0))
    assert second.spans == (
        ("waiting", 1.0, 3.0),
        ("running", 3.0, 5.0),
        ("swapped", 5.0, 6.0),
        ("running", 6.0, 9.0),
        ("waiting", 9.0, 12.0),
    )
    assert (first.evictions, second.evictions) == ({}, {"S": 1, "R": 1})


def test_request_timeline(tmp_path):
    ways = Timeline.from_events(EVENTS, [0, 1], 12.0, KINDS_OF_EVENT)
    request_timeline(ways, tmp_path / "t.png", kinds=KINDS_OF_EVENT)
    assert colourful(tmp_path / "t.png") > 0.05


def test_a_sample_holds_evicted_requests_and_the_ends():
    evictions = np.zeros(1000, int)
    evictions[400:410] = 2
    rows = sample_rows(evictions, 30)
    assert rows == sorted(set(rows)) and len(rows) <= 30
    assert {0, 999} <= set(rows)
    assert sum(evictions[rows] > 0) >= 10
    assert sample_rows([0, 0], 30) == [0, 1]


def test_spans_of_memory_pressure():
    spans = pressure_spans(curve("discrete").mean, T)
    assert len(spans) == 2
    for start, stop in spans:
        middle = (start + stop) / 2
        assert curve("discrete").mean("swapped", middle) > 0
    assert pressure_spans(curve("discrete", swapped=False).mean, T) == []


def test_batch_duration_is_shown_only_while_there_are_batches():
    t = np.arange(8.0)
    mean = Trajectory(t, {"batch_duration": np.array([0, 0.2, 0.5, 1, 0, 1, 1, 0.0])})
    low = Trajectory(t, {"batch_duration": np.array([0, 0, 0, 1, 0, 1, 1, 0.0])})
    never = Trajectory(t, {"batch_duration": 0 * t})
    fine = np.linspace(0, 7, 71)
    shown = while_batches(Curve("lagrangian", mean), fine)
    assert shown[0] == pytest.approx(1) and shown[-1] == pytest.approx(6) and shown.size == 51
    assert while_batches(Curve("discrete", mean, low, mean, runs=8), t).tolist() == [3, 4, 5, 6]
    assert while_batches(Curve("discrete", mean, never, mean, runs=8), t)[0] == 1
    assert np.array_equal(while_batches(Curve("lagrangian", never), t), t)


def test_scores_name_their_methods_where_there_is_room():
    two = {"lagrangian": 0.009, "eulerian_jax": 0.025}
    assert scores(two, 0.007) == "NRMSE: Lagrangian 0.9 %, Eulerian (JAX) 2.5 %; noise 0.7 %"
    four = {**two, "eulerian_diffrax": 1.5, "eulerian_scipy": float("nan")}
    assert scores(four, None) == "NRMSE: 0.9 %, 2.5 %, 150 %, -; noise -"


def test_a_picture_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(FileAccessError, match="nowhere"):
        draw_dynamics(tmp_path / "nowhere" / "a.png", [curve("discrete")])
