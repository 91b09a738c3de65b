"""Hold the engine against every measured run, worst first, as docs/accuracy.md shows it.

The runs are no part of the project. ``FLUIDSERVE_SHARED`` names the folder that holds them::

    FLUIDSERVE_SHARED=../shared python benchmarks/real_runs.py
    FLUIDSERVE_SHARED=../shared python benchmarks/real_runs.py --only codellama --commands

No law is fitted to the run that it predicts, but where the table says "first N s": then the first
seconds of the run gave the law, and only what arrived later is judged.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from calibration.measured_runs import read_measured_run
from calibration.profiles import Law, estimated_law, gpus, models, roofline
from fluidserve.cli import cli
from fluidserve.law_files import law_file
from serving import kind_named

H100, CPU, RTX, OLD = (
    "vllm_h100_inferenceperf", "vllm032_cpu", "vllm019_sharegpt", "vllm011_h100",
)  # fmt: skip
MEND = ("--mend-lengths",)


@dataclass(frozen=True)
class Case:
    """A run, and where its law comes from.

    Parameters
    ----------
    run
        Folder and name.
    trained
        Other runs of the folder, or of another by its path, that the law is matched to.
    steps
        Experiment of the measured steps that the law is matched to besides.
    options
        Further options.
    offset_of
        Another run whose case gives the time of the front end; by default that of the case itself.
    sheets
        Begin with the law of data sheets, where the profile knows the run that is judged.
    """

    run: str
    trained: tuple[str, ...] = ()
    steps: str = ""
    options: tuple[str, ...] = ()
    offset_of: str = ""
    sheets: bool = False

    @property
    def law_words(self) -> str:
        """Say where the law comes from."""
        said = [Path(each).name for each in self.trained]
        said += [f"steps of {self.steps}"] if self.steps else []
        if "--calibrate-until" in self.options:
            seconds = self.options[self.options.index("--calibrate-until") + 1]
            said.append(f"its first {seconds} s")
        return ", ".join(said) or "data sheets, or the profile"


def h100(name: str, *trained: str, **more: Any) -> Case:
    """Return a case of the ten runs on H100."""
    return Case(f"{H100}/{name}", tuple(f"{H100}/{each}" for each in trained),
                options=MEND, **more)  # fmt: skip


CASES = (
    h100("codellama-34b-tp2-codegen", "codellama-34b-tp2-roleplay"),
    h100("codellama-34b-tp2-roleplay", "codellama-34b-tp2-codegen"),
    h100("llama-2-70b-tp4-roleplay", "llama-2-70b-tp4-general"),
    h100("llama-2-70b-tp4-general", "llama-2-70b-tp4-roleplay", steps="70b-hf-tp4-codegen"),
    h100("llama-2-7b-tp1-codegen", "llama-2-7b-tp1-roleplay"),
    h100("llama-2-7b-tp1-roleplay", "llama-2-7b-tp1-codegen"),
    h100("mixtral-8x7b-v0-1-tp2-codegen", offset_of="codellama-34b-tp2-roleplay", sheets=True),
    h100("llama-2-7b-tp1-reasoning", "llama-2-7b-tp1-codegen", "llama-2-7b-tp1-roleplay"),
    h100("llama-2-70b-hf-tp4-reasoning", "llama-2-70b-tp4-general", "llama-2-70b-tp4-roleplay"),
    h100("mixtral-8x7b-v0-1-tp2-reasoning", "mixtral-8x7b-v0-1-tp2-codegen", sheets=True),
    Case(f"{RTX}/RTXPRO6000_Llama-3.1-8B"),
    Case(f"{RTX}/RTXPRO6000_Llama-3.1-8B", options=("--calibrate-until", "20")),
    Case(f"{RTX}/RTXPRO6000_Qwen3-30B-A3B-Instruct-2507"),
    Case(f"{RTX}/RTXPRO6000_Qwen3-30B-A3B-Instruct-2507", options=("--calibrate-until", "20")),
    Case(f"{OLD}/jan20-codellama-prefill-1", (f"{OLD}/jan20-codellama-prefillheavy-1",),
         options=("--hardware", "H100", "--model", "codellama/CodeLlama-34b-Instruct-hf")),
    Case(f"{OLD}/jan20-codellama-prefillheavy-1", (f"{OLD}/jan20-codellama-prefill-1",),
         options=("--hardware", "H100", "--model", "codellama/CodeLlama-34b-Instruct-hf")),
    Case(f"{OLD}/jan21-llama7b-train-1",
         (f"{H100}/llama-2-7b-tp1-codegen", f"{H100}/llama-2-7b-tp1-roleplay"),
         options=("--hardware", "H100", "--model", "meta-llama/Llama-2-7b-hf", *MEND)),
    *(Case(f"{CPU}/{name}", (f"{CPU}/near",))
      for name in ("light", "closed", "overload", "prefix")),
)  # fmt: skip

METRICS = (
    ("TTFT mean", "ttft_ms", "mean"), ("TTFT p99", "ttft_ms", "p99"),
    ("TPOT mean", "tpot_ms", "mean"), ("E2EL mean", "e2el_ms", "mean"),
    ("E2EL p99", "e2el_ms", "p99"),
)  # fmt: skip

PUBLISHED = {
    "ttft_mean": ("ttft_ms", "mean"), "ttft_p90": ("ttft_ms", "p90"),
    "ttft_p99": ("ttft_ms", "p99"), "itl_mean": ("tpot_ms", "mean"),
    "e2e_mean": ("e2el_ms", "mean"), "e2e_p90": ("e2el_ms", "p90"), "e2e_p99": ("e2el_ms", "p99"),
}  # fmt: skip
"""Metrics of the published predictions, and where a result has them."""


@dataclass
class Bench:
    """The folder of the data, and what the cases gave."""

    data: Path
    scratch: Path
    results: dict[Case, dict[str, Any]] = field(default_factory=dict)

    def arguments(self, case: Case) -> list[str]:
        """Return the command line of a case."""
        found = ["validate", str(self.data / "runs" / case.run)]
        for each in case.trained:
            found += ["--calibrate-on", str(self.data / "runs" / each)]
        if case.steps:
            found += ["--calibrate-steps", str(self._steps(case.steps))]
        if case.sheets:
            found += ["--law-file", str(self._sheets(case))]
        found += case.options
        if case.offset_of:
            offset = next(result["front_end_offset"] for other, result in self.results.items()
                          if other.run.endswith(case.offset_of))  # fmt: skip
            found += ["--front-end-offset", f"{offset:.4g}"]
        elif case.trained:
            found += ["--front-end-offset", "matched"]
        return found

    def _sheets(self, case: Case) -> Path:
        """Write the law that data sheets and shape give the model of a run, and return the file."""
        server = read_measured_run(self.data / "runs" / case.run).server
        sheet = estimated_law(
            models()[str(server.model)], gpus()[str(server.hardware)], int(server.tp or 1),
            roofline(),
        ).batch_time()  # fmt: skip
        law = {key: getattr(sheet, key) for key in Law.model_fields if getattr(sheet, key)}
        path = self.scratch / f"{Path(case.run).name}.yaml"
        path.write_text(law_file("data sheets", law, None, kind_named("vllm_v1")))
        return path

    def _steps(self, experiment: str) -> Path:
        """Write the steps of one experiment alone, and return the file."""
        path = self.scratch / f"{experiment}.csv"
        whole = self.data / "steps" / "steps_h100_vllm015_wall.csv.gz"
        with gzip.open(whole, "rt") as source, path.open("w") as target:
            rows = csv.DictReader(source)
            writer = csv.DictWriter(target, rows.fieldnames or [])
            writer.writeheader()
            writer.writerows(row for row in rows if row["experiment_id"].endswith(experiment))
        return path

    def run(self, case: Case) -> dict[str, Any]:
        """Validate a case and return what the command printed."""
        arguments = [*self.arguments(case), "--out", str(self.scratch / "out")]
        told = CliRunner().invoke(cli, arguments)
        if told.exit_code:
            sys.exit(f"{case.run}: {told.stderr or told.output}")
        self.results[case] = json.loads(told.stdout)
        return self.results[case]


def _off(error: float | None) -> str:
    return "" if error is None else f"{100 * error:+.1f} %"


def rows(results: Mapping[Case, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows of the table, worst mean end-to-end latency first."""

    def off(each: tuple[Case, Mapping[str, Any]]) -> float:
        return -abs(each[1]["engine"]["e2el_ms"]["mean"]["error"])

    worst = sorted(results.items(), key=off)
    for case, result in worst:
        engine = result["engine"]
        cells = [_off(engine[key][statistic]["error"]) for _, key, statistic in METRICS]
        completed = engine["completed"]["error"]
        yield (
            f"| {Path(case.run).name} | {case.law_words} | "
            + " | ".join([*cells, _off(completed) if completed else "all"])
            + " |"
        )


def published(bench: Bench) -> Iterator[str]:
    """Yield, per run and metric that others predicted, our error and the best of theirs."""
    path = bench.data / "runs" / H100 / "published_predictions.csv"
    with path.open() as file:
        theirs = list(csv.DictReader(file))
    for case, result in bench.results.items():
        name = Path(case.run).name
        for metric, (key, statistic) in PUBLISHED.items():
            rivals = [(abs(float(row["error_percent"])), row["simulator"]) for row in theirs
                      if row["run"] == name and row["metric"] == metric]  # fmt: skip
            if not rivals:
                continue
            ours = 100 * result["engine"][key][statistic]["error"]
            best, who = min(rivals)
            verdict = "" if abs(ours) < best else " **worse**"
            yield f"| {name} | {metric} | {ours:+.1f} % | {best:.1f} % ({who}){verdict} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose run has this in its name")
    parser.add_argument("--commands", action="store_true", help="print every command line")
    asked = parser.parse_args()
    shared = os.environ.get("FLUIDSERVE_SHARED")
    if shared is None:
        sys.exit("set FLUIDSERVE_SHARED to the folder that holds data/runs")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(shared) / "data", Path(scratch))
        for case in CASES:
            if asked.only in case.run:
                if asked.commands:
                    print("fluidserve", *bench.arguments(case), flush=True)
                bench.run(case)
                print(f"{case.run}: done", file=sys.stderr, flush=True)
        heads = [name for name, *_ in METRICS]
        print("| run | law from | " + " | ".join([*heads, "completed"]) + " |")
        print("|---|---|" + "---:|" * (len(heads) + 1))
        print("\n".join(rows(bench.results)))
        print("\n| run | metric | here | best published |\n|---|---|---:|---|")
        print("\n".join(published(bench)))


if __name__ == "__main__":
    main()
