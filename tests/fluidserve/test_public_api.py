from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import fluidserve as fs


def test_every_public_name_loads():
    assert fs.__all__ == sorted(fs.ROOM_OF) == dir(fs)
    for name in fs.__all__:
        assert getattr(fs, name) is not None


ROOMS = ("fluid", "ode", "calibration", "studies")
MODULES = (
    "accuracy", "full_memory", "one_node", "phase_diagram", "profiles", "server_map",
    "steady_node",
)  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_stub_is_there_and_no_module_hides_one(room):
    code = (
        f"import importlib, pkgutil, types, {room} as room\n"
        "for each in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module(f'{room.__name__}.{each.name}')\n"
        "for name in room.__all__:\n"
        "    value = getattr(room, name)\n"
        f"    assert not isinstance(value, types.ModuleType) or name in {MODULES}, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_an_unknown_name_of_a_room_is_an_attribute_error(room):
    with pytest.raises(AttributeError, match=f"No {room} attribute nothing"):
        importlib.import_module(room).nothing  # noqa: B018


def test_a_profile_needs_neither_the_simulator_nor_a_fit():
    code = (
        "import sys; from calibration.profiles import find; find('Llama-3.1-8B', 'RTX4090');"
        "heavy = ('discrete', 'jax', 'numba', 'scipy.stats');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fs.simulat  # noqa: B018


def test_importing_the_front_door_imports_no_room():
    code = (
        "import sys, fluidserve; rooms = ['serving', 'fluid', 'ode', 'discrete', 'workload', "
        "'calibration', 'studies', 'numpy', 'jax']; "
        "print([room for room in rooms if room in sys.modules])"
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
