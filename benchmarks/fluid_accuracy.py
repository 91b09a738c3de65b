"""How close the fluid model is to the discrete engine: JSON on stdout, progress on stderr.

``python benchmarks/fluid_accuracy.py [--quick] [--sizes 10,100] [--methods lagrangian,...]``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from fluidserve import plots
from studies.accuracy import SizePoint, accuracy_cases, finite_size, score, slope

QUICK_CASES = ("constant, B 2000n, swapping", "step, B unlimited, swapping",
               "synchronised bimodal, B unlimited, sacrifice")  # fmt: skip


def main() -> None:
    options = _options()
    sizes = [int(each) for each in options.sizes.split(",")]
    methods = tuple(options.methods.split(","))
    rows = [
        _scored(case, methods, options.noise_floor)
        for n in sizes
        for case in accuracy_cases(n)
        if (not options.quick or case.name in QUICK_CASES) and options.only in case.name
    ]
    out: dict[str, Any] = {"noise_floor": options.noise_floor, "cases": rows}
    if not options.only or options.plot:
        points = _finite_size(options.quick)
        out["finite_size"] = {"points": [asdict(each) for each in points], **_slopes(points)}
        if options.plot:
            plots.finite_size(points, options.plot)
    json.dump(out, sys.stdout, indent=1)
    print()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="three cases, few replications")
    parser.add_argument("--sizes", default="", help="sizes n, by default 100,10 (quick: 10)")
    parser.add_argument("--methods", default="lagrangian,eulerian_jax")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--noise-floor", type=float, default=0.0, help="of in_system")
    parser.add_argument("--plot", default="", help="PNG of bias and noise over size")
    options = parser.parse_args()
    options.sizes = options.sizes or ("10" if options.quick else "100,10")
    options.noise_floor = options.noise_floor or (0.02 if options.quick else 0.0025)
    return options


def _scored(case: Any, methods: tuple[str, ...], noise_floor: float) -> dict[str, Any]:
    began = time.perf_counter()
    row = score(case, methods, noise_floor=noise_floor).to_json()
    scores = "  ".join(
        f"{name} {each['nrmse']['in_system']:.4f} (completed {each['completed_error']:.4f})"
        for name, each in row["methods"].items()
    )
    _say(
        f"n={case.n:<4} {case.name:<46} floor {row['noise_floor']['in_system']:.4f} "
        f"R={row['replications']:<6} {scores}  [{time.perf_counter() - began:.1f} s]"
    )
    return row


def _finite_size(quick: bool) -> list[SizePoint]:
    sizes = (3, 10) if quick else (1, 3, 10, 30, 100)
    points = finite_size(sizes, replications=lambda n: max(256, (400 if quick else 8000) // n))
    for each in points:
        _say(
            f"n={each.n:<4} e2e bias {each.e2el_bias:+.4f} +- {each.e2el_bias_error:.4f}, "
            f"noise {each.noise:.4f}"
        )
    return points


def _slopes(points: list[SizePoint]) -> dict[str, float]:
    large = [each for each in points if each.n >= 3]
    sizes = [each.n for each in large]
    return {
        "bias_slope": slope(sizes, [each.e2el_bias for each in large]),
        "noise_slope": slope(sizes, [each.noise for each in large]),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
