"""The arrows between rooms, read off the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from serving import BatchTimeLaw
from serving.compilation import ROOMS

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "serving": set(),
    "fluid": {"serving"},
    "ode": {"serving", "fluid"},
    "workload": {"serving"},
    "discrete": {"serving"},
    "calibration": {"serving", "workload"},
    "studies": {"serving", "fluid", "ode", "workload", "discrete", "calibration"},
    "scheduling": {"serving", "fluid", "ode", "workload", "discrete", "calibration", "studies"},
    "fluidserve": {
        "serving", "fluid", "ode", "workload", "discrete", "calibration", "studies", "scheduling",
    },
}  # fmt: skip
NOT_PACKAGES = ("config", "data", "notebooks", "scripts", "tests", "benchmarks")


def modules_of(room: str) -> dict[str, Path]:
    """Return the files of a room by module name; a stub stands for the names of its package."""
    found = {}
    for file in sorted((ROOT / room).rglob("*.py*")):
        if file.suffix in (".py", ".pyi") and "__pycache__" not in file.parts:
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name not in found or file.suffix == ".pyi":
                found[name] = file
    return found


def imports_inside(room: str) -> dict[str, set[str]]:
    """Return which modules of a room each of its modules imports, anywhere in the file."""
    modules = modules_of(room)
    graph: dict[str, set[str]] = {}
    for name, file in modules.items():
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        used = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                origin = ".".join(filter(None, [package * bool(node.level), node.module or ""]))
                members = {f"{origin}.{alias.name}" for alias in node.names}
                used |= members & modules.keys() or {origin}
        graph[name] = used & modules.keys() - {name}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle, in the order of their imports; empty without one."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if found := visit(other, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, []))), [])


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms that ``file`` imports anywhere, functions and TYPE_CHECKING included."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            where = f"{file.relative_to(ROOT)}, line {node.lineno}"
            assert node.level == 0 or file.suffix == ".pyi", f"{where}: relative import"
            rooms.add((node.module or "").split(".")[0] if node.level == 0 else "")
    return rooms & MAY_IMPORT.keys()


def test_the_arrows_have_no_cycle():
    for room, lower in MAY_IMPORT.items():
        assert not any(room in MAY_IMPORT[each] for each in lower)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_lower_rooms(room):
    files = sorted(modules_of(room).values())
    assert files
    for file in files:
        up = imported_rooms(file) - MAY_IMPORT[room] - {room}
        assert not up, f"{file.relative_to(ROOT)} imports {sorted(up)}"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_has_no_circle(room):
    assert circle_in(imports_inside(room)) == []


def test_a_circle_is_seen():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


COEFFICIENTS = {item.name for item in fields(BatchTimeLaw)} | {"per_request_extra"}
MAY_READ_THE_LAW = (
    "serving/",  # the law itself
    "calibration/",  # laws are fitted there
    "fluid/_equations.py", "fluid/_symbolic_equilibrium.py",  # symbols of the same names
    "fluid/prompt_server/closed_values.py",  # the values of such symbols
    "ode/eulerian/problem.py",  # whether the law has a table, which asks for another equation
)  # fmt: skip
"""Where coefficients of a law may be read; all else sees its ``duration`` and its ``tangent``."""


def coefficients_read(source: str) -> set[str]:
    """Return the coefficients of a law that a source reads as attributes."""
    attributes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return {node.attr for node in attributes if isinstance(node.ctx, ast.Load)} & COEFFICIENTS


def test_coefficients_of_the_law_are_read_in_few_places():
    for room in MAY_IMPORT:
        for file in sorted((ROOT / room).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            if not name.startswith(MAY_READ_THE_LAW):
                read = coefficients_read(file.read_text(encoding="utf-8"))
                assert not read, f"{name} reads {sorted(read)} of a batch-time law"


def test_a_coefficient_that_is_read_is_seen():
    assert coefficients_read("x = node.batch_time.d_kv + law.duration(1, 2)") == {"d_kv"}
    assert coefficients_read("law = per_token(d_kv=1)") == set()


def test_folders_that_are_not_packages_have_no_init():
    assert not [path for name in NOT_PACKAGES for path in (ROOT / name).rglob("__init__.py")]


def test_a_file_stays_below_500_lines():
    for room in MAY_IMPORT:
        for file in (ROOT / room).rglob("*.py"):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            assert lines <= 500, f"{file.relative_to(ROOT)} has {lines} lines"


def test_sub_folders_have_no_underscore_names():
    for room in MAY_IMPORT:
        for file in (ROOT / room).rglob("_*.py"):
            assert file.stem.startswith("__") or file.parent == ROOT / room, file


def test_compiled_code_is_stamped_with_every_room_that_may_be_called():
    assert set(ROOMS) == set(MAY_IMPORT) - {"fluidserve"}
    for k, room in enumerate(ROOMS):
        assert MAY_IMPORT[room] <= set(ROOMS[:k]), room


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
