"""How well batch-time laws predict measured steps that they did not see: a table on stdout.

``python benchmarks/step_time_accuracy.py FOLDER``, FOLDER being the one with the step-time files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from calibration import read_step_times
from calibration.step_times import Recipe
from calibration.step_times.holdout import held_out

KERNELS, WALL = "steps_kernelsum_vllm019.csv.gz", "steps_h100_vllm015_wall.csv.gz"
LLAMA = "meta-llama/Llama-3.1-8B"
MACHINES = (
    ("RTX4090 Llama-3.1-8B", KERNELS, {"hardware": "RTX4090", "model": LLAMA, "tp": 1}, "linear"),
    ("RTX PRO 6000 Llama-3.1-8B", KERNELS, {"hardware": "RTXPRO6000", "model": LLAMA, "tp": 1},
     "linear"),
    ("RTX PRO 6000 Qwen3-32B", KERNELS, {"model": "Qwen/Qwen3-32B", "tp": 1}, "linear"),
    ("RTX PRO 6000 Qwen3-30B-A3B", KERNELS, {"model": "Qwen/Qwen3-30B-A3B-Instruct-2507"},
     "tabulated"),
    ("H100 CodeLlama-34b tp2 (wall)", WALL, {"tp": 2}, "linear"),
    ("H100 Llama-2-70b tp4 (wall)", WALL, {"tp": 4}, "tabulated"),
)  # fmt: skip


def main(folder: Path) -> None:
    print("| machine | regime | held out | KV | interpolating | extrapolating |")
    print("|---|---|---|---|---|---|")
    for name, file, machine, decode in MACHINES:
        rows = read_step_times(folder / file, **machine)
        print(f"{name}: {len(rows)} rows", file=sys.stderr)
        for kv in (True, False):
            prefill = "tabulated" if file == KERNELS else "added"
            lines = held_out(rows, Recipe(decode, prefill, kv))
            for regime, levels_of in dict.fromkeys((x.regime, x.levels_of) for x in lines):
                of = {
                    x.split: 100 * x.mape
                    for x in lines
                    if (x.regime, x.levels_of) == (regime, levels_of)
                }
                print(
                    f"| {name} | {regime} | {levels_of} | {'yes' if kv else 'no'} |"
                    f" {of.get('interpolating', float('nan')):.2f} % |"
                    f" {of.get('extrapolating', float('nan')):.2f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/step_time_accuracy.py FOLDER")
    main(Path(sys.argv[1]))
