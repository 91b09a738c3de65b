"""``fluidserve phase-diagram`` and the pictures of a full memory."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import ode
from fluidserve.plots import full_memory, phase_diagram
from fluidserve.plots.regime_map import border
from serving import BatchTimeLaw, DecodeNode, RequestMix
from studies.full_memory import BacklogRun, Branches, ThresholdRow
from studies.phase_diagram import MarkedPoint, PhaseDiagram


def test_phase_diagram_writes_json_and_a_picture(run, tmp_path):
    done = run("phase-diagram", "--quick", "--loads", "0.7,0.95,1.2", "--output", "map")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    found = json.loads((tmp_path / "map.json").read_text())
    assert said["output"] == ["map.json", "map.png"]
    assert said["engine"]["points"] == 12 == len(found["points"])
    assert said["engine"]["agree"] == 12 and said["engine"]["disagree"] == []
    shape = (len(found["cv"]), len(found["ratio"]), 3)
    regimes = np.array(found["regime"])
    assert regimes.shape == shape and set(regimes.ravel()) == set(ode.REGIMES)
    assert np.array(found["max_root"]).shape == np.array(found["theta"]).shape == shape[:2]
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    for k, load in enumerate(found["load"]):  # the lines of the picture part its colours
        diagram = SimpleNamespace(
            mode="sacrifice", max_root=np.array(found["max_root"]), theta=np.array(found["theta"])
        )
        field, level, below, above = border(diagram, load)
        assert (np.where(field < level, below, above) == regimes[:, :, k]).all()
    assert set(point["load"] for point in found["points"]) == {0.7, 0.95, 1.2}


def test_phase_diagram_of_swapping_without_the_engine(run, tmp_path):
    done = run("phase_diagram", "--quick", "--no-engine", "--mode", "swapping")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["engine"]["points"] == 0
    found = json.loads((tmp_path / "phase_diagram.json").read_text())
    assert "bistable" not in np.array(found["regime"])
    assert min(np.ravel(found["theta"])) > 0.999


@pytest.mark.parametrize("loads", ["", "a", "0.5,-1", "0.5,nan"])
def test_phase_diagram_refuses_loads(run, loads):
    done = run("phase-diagram", "--loads", loads)
    assert done.exit_code == 2
    assert "--loads" in str(done.output)


def test_phase_diagram_shows_disagreement(tmp_path):
    point = MarkedPoint(0.2, 1.0, 0.9, "healthy", "bistable", 0.85, 0.9, 0.5)
    two = np.array([0.1, 0.3]), np.array([0.5, 2.0])
    root, theta = np.array([[1.1, 0.9], [1.0, 0.8]]), np.array([[0.8, 1.0], [0.9, 1.0]])
    names = np.array([[["bistable"], ["healthy"]], [["healthy"], ["healthy"]]])
    diagram = PhaseDiagram("sacrifice", 40.0, *two, np.array([0.9]), names, root, theta,
                           root < 2, (point,))  # fmt: skip
    phase_diagram(diagram, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    told = diagram.to_json()["engine"]
    assert told["agree"] == 0 and told["disagree"][0]["engine"] == "bistable"


def test_picture_of_the_known_experiment(tmp_path):
    node = DecodeNode(
        BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000, mode="sacrifice"
    )
    loop = ode.hysteresis(RequestMix.from_lengths([20], [20]), node, [3.0, 4.0, 5.0, 5.4])
    rates = loop.arrival_rate[: loop.top + 1]
    branches = Branches(rates, rates, np.minimum(rates, 3.9))
    counted = BacklogRun(3.9, 0.9, (0.0, 10.0))
    rows = [ThresholdRow(k, counted, counted, 10.0 / k, 1.0, k - 0.5) for k in (1.0, 0.5)]
    time = np.linspace(0, 10, 50)
    path = tmp_path / "full.png"
    full_memory(
        loop, branches, {1.0: (time, time**2), 0.5: (time, time)}, rows,
        (np.array([0.5, 1.0]), np.array([5.1, 3.9])), path, arrival_rate=5.1,
    )  # fmt: skip
    assert path.stat().st_size > 40_000
