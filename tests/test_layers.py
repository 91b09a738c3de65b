"""The arrows between rooms, read off the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "serving": set(),
    "fluid": {"serving"},
    "ode": {"serving", "fluid"},
    "workload": {"serving"},
    "discrete": {"serving"},
    "calibration": {"serving", "fluid", "ode", "workload", "discrete"},
    "scheduling": {"serving", "fluid", "ode", "workload", "discrete", "calibration"},
    "fluidserve": {
        "serving", "fluid", "ode", "workload", "discrete", "calibration", "scheduling",
    },
}  # fmt: skip
NOT_PACKAGES = ("config", "data", "notebooks", "scripts", "tests", "benchmarks")


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms that ``file`` imports anywhere, functions and TYPE_CHECKING included."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.relative_to(ROOT)}, line {node.lineno}: relative import"
            rooms.add((node.module or "").split(".")[0])
    return rooms & MAY_IMPORT.keys()


def test_the_arrows_have_no_cycle():
    for room, lower in MAY_IMPORT.items():
        assert not any(room in MAY_IMPORT[each] for each in lower)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_lower_rooms(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        up = imported_rooms(file) - MAY_IMPORT[room] - {room}
        assert not up, f"{file.relative_to(ROOT)} imports {sorted(up)}"


def test_folders_that_are_not_packages_have_no_init():
    assert not [path for name in NOT_PACKAGES for path in (ROOT / name).rglob("__init__.py")]


def test_a_file_stays_below_500_lines():
    for room in MAY_IMPORT:
        for file in (ROOT / room).rglob("*.py"):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            assert lines <= 500, f"{file.relative_to(ROOT)} has {lines} lines"


def test_the_wheel_holds_the_rooms_and_nothing_else():
    with (ROOT / "pyproject.toml").open("rb") as file:
        finder = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]
    code = (
        "import sys, setuptools; "
        "print(*setuptools.find_packages(sys.argv[1], include=sys.argv[2:]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *finder["include"]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    packages = found.stdout.split()
    assert {name.split(".")[0] for name in packages} == set(MAY_IMPORT)
    shipped = {ROOT.joinpath(*name.split(".")) for name in packages}
    missing = {p.parent for room in MAY_IMPORT for p in (ROOT / room).rglob("*.py")} - shipped
    assert not missing
