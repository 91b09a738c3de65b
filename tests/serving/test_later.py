"""Names imported when first used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

ROOMS = ("fluid", "ode", "calibration")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_there_and_no_module_hides_one(room):
    code = (
        f"import importlib, pkgutil, types, {room} as room\n"
        "for each in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module(f'{room.__name__}.{each.name}')\n"
        "for name in room.__all__:\n"
        "    value = getattr(room, name)\n"
        "    whole = isinstance(value, types.ModuleType)\n"
        "    assert not whole or name in ('accuracy', 'full_memory', 'profiles'), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_an_unknown_name_is_an_attribute_error(room):
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'nothing'"):
        importlib.import_module(room).nothing  # noqa: B018


def test_a_profile_needs_neither_the_simulator_nor_a_fit():
    code = (
        "import sys; from calibration.profiles import find; find('Llama-3.1-8B', 'RTX4090');"
        "heavy = ('discrete', 'jax', 'numba', 'scipy.stats');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
