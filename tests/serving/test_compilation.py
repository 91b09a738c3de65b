from __future__ import annotations

import subprocess
import sys

OUTER = """
from serving.compilation import compiled
from inner import CONSTANT, half

@compiled
def outer(x):
    return half(x) + CONSTANT
"""
INNER = """
from serving.compilation import compiled

CONSTANT = {constant}

@compiled
def half(x):
    return x / {divisor}
"""


def test_a_change_in_a_neighbouring_file_renews_the_kernel(tmp_path):
    """A cached kernel must not keep what it took from a file that has changed since."""

    def run(constant: int, divisor: int) -> tuple[float, int]:
        (tmp_path / "inner.py").write_text(INNER.format(constant=constant, divisor=divisor))
        (tmp_path / "outer.py").write_text(OUTER)
        program = (
            "import outer; print(outer.outer(12.0), sum(outer.outer.stats.cache_hits.values()))"
        )
        out = subprocess.run(
            [sys.executable, "-B", "-c", program], cwd=tmp_path, check=True,
            capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)},
        ).stdout.split()  # fmt: skip
        return float(out[0]), int(out[1])

    assert run(1, 2) == (7.0, 0)
    assert run(1, 2) == (7.0, 1)
    assert run(5, 3) == (9.0, 0)


def test_a_kernel_is_stamped_with_its_room_and_those_below_it_alone(tmp_path, monkeypatch):
    from serving import compilation

    for room in compilation.ROOMS:
        (tmp_path / room / "inside").mkdir(parents=True)
        (tmp_path / room / "inside" / "kernel.py").write_text("x = 1")
    monkeypatch.setattr(compilation, "HOME", tmp_path)

    def stamps() -> list[str]:
        compilation._stamp.cache_clear()
        return [compilation._stamp(tmp_path / room / "inside") for room in compilation.ROOMS]

    before = stamps()
    assert len(set(before)) == len(before)
    (tmp_path / "fluid" / "inside" / "kernel.py").write_text("x = 2")
    at = compilation.ROOMS.index("fluid")
    changed = [one != other for one, other in zip(before, stamps(), strict=True)]
    compilation._stamp.cache_clear()
    assert changed == [k >= at for k in range(len(changed))]


def test_whoever_waits_for_a_compiler_is_told_so_once(caplog, monkeypatch):
    from serving import compilation

    clock = iter([0.0, 0.1, 0.2, 2.0, 2.1, 9.0])
    monkeypatch.setattr(compilation.time, "monotonic", lambda: next(clock))
    patience = compilation._Patience()
    with caplog.at_level("INFO", "serving"):
        patience.on_start(None)  # at 0: the kernel
        patience.on_start(None)  # at 0.2: a function of it
        patience.on_end(None)
        patience.on_end(None)
        assert not caplog.messages
        patience.on_start(None)  # another kernel has waited for nothing yet
        assert not caplog.messages
        patience.on_start(None)
        assert [each.startswith("compiling") for each in caplog.messages] == [True]
        patience.on_start(None)
    assert len(caplog.messages) == 1


def test_the_compiler_tells_us(tmp_path):
    """Numba's events reach the log, and the command line shows it on stderr."""
    (tmp_path / "slow.py").write_text(
        "from serving import compilation\ncompilation.SILENT = -1.0\n"
        "import fluidserve.cli\nfluidserve.cli._show_log()\n"
        "half = compilation.compiled(lambda x: x / 2)\nprint(half(4.0), half(8.0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "slow.py"], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "2.0 4.0\n"
    assert done.stderr.startswith("compiling ") and done.stderr.count("\n") == 1
