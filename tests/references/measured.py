"""Write runs as a client would have measured them on a server whose law is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import discrete
from calibration.measured_runs.law_terms import Terms
from serving import BatchTimeLaw, RequestTable
from serving.contents import Contents
from serving.kinds.vllm_v1 import VllmV1

LAW = BatchTimeLaw(d_0=0.012, d_decode=3e-5, d_kv=3e-8, d_prefill=5e-5)
"""Law [s] of the server."""

BENT = Terms.nothing(64).corrected(LAW)
"""The same law but for steps with prefill: bound by reading weights, then by multiplications."""

SETTINGS = {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "num_gpu_blocks": 4000}
SERVER = VllmV1(batch_time=LAW, vllm_version="0.19", **SETTINGS)
BENT_SERVER = VllmV1(batch_time=BENT, vllm_version="0.19", **SETTINGS)


def workload(seed: int, requests: int, rate: float, prompts: int | None = None) -> RequestTable:
    """Return requests that come by chance; they send so many prompts in turn."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, requests))
    arrival -= arrival[0]
    prompt, answer = rng.integers(200, 600, requests), rng.integers(40, 160, requests)
    if prompts is None:
        return RequestTable.validated(arrival, prompt, answer)
    turn = np.arange(requests) % prompts
    prompt = prompt[turn]
    contents = Contents.validated(np.arange(requests + 1), turn + 1, prompt)
    return RequestTable.validated(arrival, prompt, answer, contents=contents)


def write_run(
    folder: Path,
    name: str,
    table: RequestTable,
    *,
    server: VllmV1 = SERVER,
    front_end: float = 0.0,
    timeout: float = np.inf,
    settings: bool = True,
) -> Path:
    """Serve requests and write what the clients noted; return the path that names the run.

    Parameters
    ----------
    folder, name
        Where, and what the run is called.
    table
        The requests.
    server
        What serves them.
    front_end : [s]
        Time before every first token that no engine knows.
    timeout : [s]
        After which clients give up.
    settings
        Whether the settings of the server lie beside the requests.
    """
    if np.isfinite(timeout):
        table = replace(table, abort_time=table.arrival_time + timeout)
    records = discrete.simulate(table, server).requests
    done = np.isfinite(records["completion_time"])
    rows = ["arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s,failed"]
    for k in range(len(table)):
        arrival = table.arrival_time[k]
        if done[k]:
            ttft = records["first_token_time"][k] - arrival + front_end
            e2el = records["completion_time"][k] - arrival + front_end
            lengths = f"{table.prefill_length[k]},{table.decode_length[k]}"
            rows.append(f"{arrival!r},{lengths},{ttft!r},{e2el!r},0")
        else:
            rows.append(f"{arrival!r},0,0,,{timeout!r},1")
    text = "\n".join(row.replace("np.float64(", "").replace(")", "") for row in rows) + "\n"
    (folder / f"{name}_requests.csv").write_text(text)
    if settings:
        said = {"vllm_version": "0.19.0", "engine_kwargs": SETTINGS}
        (folder / f"{name}_config.json").write_text(json.dumps(said))
    return folder / name
