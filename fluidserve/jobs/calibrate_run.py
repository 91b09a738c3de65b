"""Fit a law to a server's run: the engine that replays it, and the configuration that comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibration.server_runs import Replay, RequestLog, RunCalibration, ServerLog
from fluidserve.config import instance_of, load_config
from fluidserve.law_files import Memory, law_file, server_file
from fluidserve.yaml_keys import read_keys
from serving import (
    DEFAULT_KIND,
    Contents,
    FluidServeError,
    UnsupportedError,
    WorkloadError,
    kind_named,
)
from studies.law_doubt import latency_doubts
from studies.replay import replay_of
from workload import read_trace

NO_LAW = ("d_0", "d_decode", "d_kv", "d_prefill")
"""Coefficients that a configuration of a server need not have: they are what is sought."""


def replay_for(
    log: ServerLog, server: str | None, contents: str | None, kv_capacity: float | None
) -> tuple[Replay | None, dict[str, Any]]:
    """Return the engine that replays a client's log, and what the server's configuration says.

    Parameters
    ----------
    log
        The log.
    server
        Configuration of the server; None where nobody gives one.
    contents
        File of what the requests consist of.
    kv_capacity : [tokens]
        KV memory, where the configuration has none.

    Raises
    ------
    FluidServeError
        If the configuration is none, or a file has no part in this fit.
    """
    if server is None:
        if contents is not None:
            raise FluidServeError("--contents is for a replay: give --config of the server too")
        return None, {}
    written = read_keys(Path(server))
    kind = kind_named(str(written.get("engine", DEFAULT_KIND.name)))
    if kind is DEFAULT_KIND or not isinstance(log, RequestLog):
        if contents is not None:
            raise FluidServeError(
                "--contents is for a replay: of the result of a client, on an engine that computes "
                "prompts"
            )
        return None, written
    given: dict[str, Any] = {key: 0.0 for key in NO_LAW if key not in written}
    sizes = {} if kv_capacity is None else kind.kv_keys(int(kv_capacity), written)
    given |= {key: value for key, value in sizes.items() if key not in written}
    instance = instance_of(load_config(server, given))
    return replay_of(log, instance, _contents(contents, log)), written


def _contents(path: str | None, log: RequestLog) -> Contents | None:
    """Return the contents of the requests of a log."""
    if path is None:
        return None
    found = read_trace(path).requests
    if len(found) != len(log):
        raise WorkloadError(f"has {len(found)} requests, the result {len(log)}", path=path)
    other = found.prefill_length != log.prompt_tokens
    if other.any():
        at = int(other.argmax())
        raise WorkloadError(
            f"the prompt of the result has {log.prompt_tokens[at]:g} tokens", path=path, row=at + 1,
            column="prefill_length", value=int(found.prefill_length[at]),
        )  # fmt: skip
    if found.contents is None:
        raise WorkloadError("says nothing of contents", path=path, column="content")
    return found.contents


def doubts_of(
    log: ServerLog, found: RunCalibration, replay: Replay | None
) -> dict[str, dict[str, float | None]] | None:
    """Return the mean latencies of a client's log, measured and replayed, in ms; None without."""
    if replay is None or not isinstance(log, RequestLog):
        return None
    return {
        f"mean_{name}_ms": {
            key: 1e3 * value if math.isfinite(value) else None
            for key, value in asdict(doubt).items()
        }
        for name, doubt in latency_doubts(log, found, replay).items()
    }


def configuration(
    found: RunCalibration, source: str, notes: Sequence[str], server: str | None, *, stalls: bool
) -> tuple[str, bool]:
    """Return the configuration with a fitted law, and whether it has the KV memory.

    With ``stalls`` the law is lengthened by what batches took beyond it.

    Raises
    ------
    UnsupportedError
        If the law is not per KV token.
    """
    if found.rows.kv_is_share or found.rows.kv_tokens is None:
        raise UnsupportedError("--config-out needs d_kv per token: give --kv-capacity")
    size = found.kv_capacity
    memory = None if size is None else Memory(round(size.value), size.source)
    title = "\n# ".join([f"Batch-time law fitted to {source} by fluidserve calibrate run", *notes])
    law = found.batch_time().in_unit(1 + found.beyond_law) if stalls else found.batch_time()
    if server is not None:
        text = server_file(title, law, server, memory, of_everyone=found.of_everyone)
        return text, True
    return law_file(title, DEFAULT_KIND.law_values(law), memory), memory is not None
