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
