"""Fit what vLLM servers need besides weights, layers and KV; compare estimated KV capacities.

    python benchmarks/kv_capacity.py --data ../shared/data [--out config/profiles]

Prints the table of ``docs/profiles.md``. The runs of the shared data set ``process`` and ``group``;
what these runs do not show (the sampler with a large vocabulary, CUDA graphs, V0) is fitted to
start-up logs in ``startup_logs.csv``. Each server is compared with sizes fitted to the others.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from calibration.profiles import Release, ServerMemory, gpus, models
from calibration.profiles.kv_memory import (
    GIB,
    activation_peak,
    captured_graphs,
    kv_memory,
)
from calibration.profiles.names import model_key
from calibration.profiles.server import Server, version_numbers

LOGS = Path(__file__).with_name("startup_logs.csv")
SAMPLER = 14.0
"""Bytes per logit that the sampler holds since 0.11, counted in vLLM 0.19: 16-bit logits, and in 32
bits the same, their probabilities and the noise."""

COUNTS = 4.125
"""Bytes per request and entry of the vocabulary that the second model runner (the default in logs
from 0.27 on) keeps for penalties: a 32-bit count and a bit."""

SORTING = 34.0
"""Bytes per logit of a sampler that sorts them (0.8 to 0.10), counted in PyTorch's sort: beside the
logits sorted values, indices, and as much again while it sorts."""

V0_PROCESS = 0.06
"""Memory [GiB] of libraries in V0, which measured it: .01 to .12 in start-up logs."""

NOTHING = Release(since="0", process=0.0, logits=SAMPLER)


@dataclass(frozen=True)
class Start:
    """A server that was started, and the blocks of 16 tokens that it got."""

    name: str
    model: str
    hardware: str
    tp: int
    server: Server
    blocks: int

    @property
    def version(self) -> tuple[int, ...]:
        """Version of vLLM as numbers."""
        return version_numbers(self.server.vllm_version)

    @property
    def rest(self) -> float:
        """Memory besides weights and KV [GiB] on each card."""
        shape, gpu = models()[self.model], gpus()[self.hardware]
        used = shape.weight_bytes / self.tp + 16 * self.blocks * shape.kv_bytes(self.tp)
        return self.server.gpu_memory_utilization * gpu.memory - used / GIB

    @property
    def fixed(self) -> float:
        """The same without the peak of activations."""
        return self.rest - activation_peak(models()[self.model], self.tp, self.server, NOTHING)

    def estimated(self, sizes: ServerMemory) -> int:
        """Return the blocks that an estimate gives."""
        shape, gpu = models()[self.model], gpus()[self.hardware]
        return kv_memory(shape, gpu, self.tp, self.server, sizes).blocks

    def gib(self, blocks: float) -> float:
        """Return the size of some blocks on each card."""
        return 16 * blocks * models()[self.model].kv_bytes(self.tp) / GIB


def canonical(name: str) -> str:
    """Return the model of ``models.yaml`` that a run's name means."""
    known = {model_key(each): entry for entry, shape in models().items()
             for each in (entry, *shape.aliases)}  # fmt: skip
    return known[model_key(name)]


def measured_runs(data: Path) -> list[Start]:
    """Return every server of the shared data that logged its blocks, each set of settings once."""
    found: dict[tuple, Start] = {}
    index = pd.read_csv(data / "runs" / "vllm_h100_inferenceperf" / "index.csv")
    for run in index.itertuples():
        server = Server("0.15", 0.9, run.max_num_batched_tokens, run.max_num_seqs)
        start = Start(
            run.run, canonical(run.model), run.hardware, run.tp, server, run.num_gpu_blocks
        )
        found.setdefault((start.model, start.tp, server), start)
    for path in sorted((data / "runs" / "vllm011_h100").glob("*_config.json")):
        config = json.loads(path.read_text())
        stated = {
            key: int(value)
            for key, value in re.findall(r"'(max_num_\w+)': (\d+)", config["vllm_args"])
        }
        model = re.search(r"'served_model_name': \['([^']+)'", config["vllm_args"])
        assert model is not None
        server = Server("0.11", 0.9, stated["max_num_batched_tokens"], stated["max_num_seqs"])
        start = Start(
            config["run"], canonical(model[1]), "H100", 1, server, config["kv_tokens"] // 16
        )
        found.setdefault((start.model, start.tp, server), start)
    return list(found.values())


def logged() -> pd.DataFrame:
    """Return the published start-up logs."""
    return pd.read_csv(LOGS, comment="#", dtype={"vllm": str})


def logged_starts() -> list[Start]:
    """Return the servers of the logs that say their blocks."""
    rows = logged()
    return [
        Start(
            f"log of vLLM {row.vllm}", row.model, row.hardware, 1,
            Server(row.vllm, row.gpu_memory_utilization, int(row.max_num_batched_tokens),
                   int(row.max_num_seqs)),
            int(row.value),
        )
        for row in rows[rows.quantity == "blocks"].itertuples()
    ]  # fmt: skip


def fixed_sizes(runs: Sequence[Start]) -> tuple[float, float]:
    """Return what the process and, with several cards, communication take [GiB]."""
    process = float(np.median([run.fixed for run in runs if run.tp == 1]))
    return process, float(np.median([run.fixed for run in runs if run.tp > 1])) - process


def logits(start: Start) -> float:
    """Return the size [GiB] of one byte per logit of a server."""
    return start.server.max_num_seqs * models()[start.model].vocabulary / GIB


def sampler_of_v0() -> float:
    """Return the bytes per logit that the sampler of V0 holds: its peak is above that of layers."""
    rows = logged()
    rows = rows[rows.quantity == "activations"]
    return float(np.median([
        row.value * GIB / (row.max_num_seqs * models()[row.model].vocabulary)
        for row in rows.itertuples()
    ]))  # fmt: skip


def graph_of_runner_1() -> float:
    """Return what vLLM subtracts for one CUDA graph [GiB], where the first model runner is used."""
    rows = logged()
    rows = rows[rows.quantity == "graphs"]
    return float((rows.value / rows.captured).median())


def fitted(runs: Sequence[Start], starts: Sequence[Start]) -> ServerMemory:
    """Return the sizes that runs and logged starts give."""
    process, group = fixed_sizes(runs)
    between = [
        each for each in starts if (0, 8) <= version_numbers(each.server.vllm_version) < (0, 11)
    ]
    newest = [each for each in starts if version_numbers(each.server.vllm_version) >= (0, 27)]
    sorting = [(each.rest - process) / logits(each) for each in between] or [SORTING]
    runner_2 = [
        (each.fixed - process - COUNTS * logits(each))
        / captured_graphs(gpus()[each.hardware], each.server)
        for each in newest
    ]
    first = float(graph_of_runner_1())
    releases = (
        Release(since="0", process=V0_PROCESS, logits=sampler_of_v0()),
        Release(since="0.8", process=process, logits=float(np.median(sorting))),
        Release(since="0.11", process=process, logits=SAMPLER),
        Release(since="0.21", process=process, logits=SAMPLER, graph=first),
        Release(since="0.27", process=process, logits=SAMPLER, counts=COUNTS,
                graph=float(np.median(runner_2))),
    )  # fmt: skip
    most = max(each.server.max_num_seqs for each in (*runs, *starts))
    return ServerMemory(
        releases=releases, group=group, most_requests=most, error={"gib": 0.0}, source="", date=""
    )


def errors(runs: Sequence[Start], starts: Sequence[Start]) -> pd.DataFrame:
    """Return estimated beside measured blocks; no server is among those that set its sizes."""
    table = []
    for kind, start in [("run", each) for each in runs] + [("log", each) for each in starts]:
        sizes = fitted([each for each in runs if each is not start],
                       [each for each in starts if each is not start])  # fmt: skip
        estimate = start.estimated(sizes)
        table.append({
            "kind": kind, "vllm": start.server.vllm_version, "model": start.model,
            "cards": f"{start.tp} x {start.hardware}",
            "tokens": start.server.max_num_batched_tokens, "requests": start.server.max_num_seqs,
            "measured": start.blocks, "estimated": estimate,
            "error": estimate / start.blocks - 1, "gib": start.gib(estimate - start.blocks),
        })  # fmt: skip
    return pd.DataFrame(table)


def server_memory(data: Path) -> tuple[dict, pd.DataFrame]:
    """Return the content of ``server_memory.yaml``, and the table of errors."""
    runs, starts = measured_runs(data), logged_starts()
    table = errors(runs, starts)
    size, share = table.gib.abs(), table.error.abs()
    content = fitted(runs, starts).model_dump(exclude_defaults=True)
    content["releases"] = list(content["releases"])
    content |= {
        "error": {
            "gib": float(size.max()), "worst": float(share.max()),
            "worst_of_runs": float(share[table.kind == "run"].max()), "servers": len(table),
            "how": "each server against sizes fitted to the others",
        },
        "source": "servers of the shared data, and start-up logs that users published",
        "date": "2026-10",
    }  # fmt: skip
    return content, table


def main() -> None:
    """Write the file and print the table."""
    from build_profiles import write

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("config/profiles"))
    given = parser.parse_args()
    content, table = server_memory(given.data)
    write(given.out / "server_memory.yaml", content, "kv_capacity")
    print(table.round({"error": 4, "gib": 3}).to_string(index=False))


if __name__ == "__main__":
    main()
