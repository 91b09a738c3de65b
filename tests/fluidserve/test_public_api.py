from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import fluidserve as fs


def test_every_public_name_loads():
    assert fs.__all__ == sorted(fs.ROOM_OF) == dir(fs)
    for name in fs.__all__:
        assert getattr(fs, name) is not None


def test_type_checkers_see_the_same_names(root):
    tree = ast.parse((root / "fluidserve" / "__init__.py").read_text())
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        (alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(fs.ROOM_OF.items())


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fs.simulat  # noqa: B018


def test_importing_the_front_door_imports_no_room():
    code = (
        "import sys, fluidserve; rooms = ['serving', 'fluid', 'ode', 'discrete', 'workload', "
        "'calibration', 'numpy', 'jax']; print([room for room in rooms if room in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_example_of_the_front_page():
    node = fs.DecodeNode(M_total=10_000, B=2_000)
    requests = fs.scenarios.bursty(num_requests=400, arrival_rate=0.1, seed=7)
    run = fs.simulate(requests, node)
    flow = fs.solve(requests.rate_profile(), requests.mix(), node)
    assert float(flow("waiting [requests]", 500.0)) >= -1e-9
    done = run.metrics(), flow.metrics()
    assert done[0].completed == 400
    assert done[1].completed == pytest.approx(400, rel=1e-6)
    assert set(done[0].to_json()) == set(done[1].to_json())


def test_scenarios_differ():
    tables = [
        scenario(num_requests=200, seed=1)
        for scenario in (fs.scenarios.normal, fs.scenarios.heavy, fs.scenarios.bursty)
    ]
    normal, heavy, bursty = (table.horizon for table in tables)
    assert heavy < normal and bursty != normal
    assert tables[1].prefill_length.min() >= 50
