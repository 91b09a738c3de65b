"""What the folder of a run says of its server: a row of an index, or a JSON of its start."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.measured_runs.files import RunFiles, refuse_unnamed
from calibration.measured_runs.run import MeasuredRun, ServedBy
from serving import WorkloadError
from workload import TextTable, read_text

WHOLE = (
    "max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_gpu_blocks", "block_size",
    "long_prefill_token_threshold",
)  # fmt: skip
"""Settings that are whole numbers."""

SWITCHES = ("enable_prefix_caching", "enable_chunked_prefill", "async_scheduling")
"""Settings that are switches."""

OTHER_NAMES = {"num_gpu_blocks_override": "num_gpu_blocks"}
"""Names by which a start of a server calls a setting."""

BLOCK = 16
"""Tokens of a KV block of vLLM by default."""


def with_settings(run: MeasuredRun, files: RunFiles) -> MeasuredRun:
    """Return the run with what its folder says of the server and of the load.

    Raises
    ------
    WorkloadError
        Naming file, key and value of the first that cannot be.
    """
    if files.settings is not None:
        return _of_start(run, files.settings)
    if files.index is not None:
        return _of_index(run, files)
    return run


# --- an index of runs -----------------------------------------------------------------------------


def _of_index(run: MeasuredRun, files: RunFiles) -> MeasuredRun:
    assert files.index is not None
    table = TextTable.parse(read_text(files.index), files.index)
    names = table.texts("run")
    if files.name not in names:
        refuse_unnamed(files)
    at = names.index(files.name)
    row = {name: table.texts(name)[at] for name in table.columns}
    settings = {
        key: _whole(row[key], files.index, key) for key in WHOLE if row.get(key, "").strip()
    }
    server = ServedBy(
        model=row.get("model") or None,
        hardware=row.get("hardware") or None,
        tp=_whole(row.get("tp") or "1", files.index, "tp"),
        vllm_version=row.get("vllm_version") or None,
        settings=settings,
    )
    run = replace(run, server=server)
    groups, users = row.get("system_prompts"), row.get("users_per_system_prompt")
    if run.prompts is None and groups and users:
        found = _whole(groups, files.index, "system_prompts") * _whole(
            users, files.index, "users_per_system_prompt"
        )
        return run.noted(
            f"{found} conversations ({groups} system prompts x {users} users) are taken in turn, "
            "each sending its prompt again and again", prompts=found,
        )  # fmt: skip
    return run


# --- the start of a server ------------------------------------------------------------------------


def _of_start(run: MeasuredRun, path: Path) -> MeasuredRun:
    content = _object(path)
    given = _arguments(content, path)
    settings: dict[str, Any] = {}
    for key, value in given.items():
        name = OTHER_NAMES.get(key, key)
        if value is None:
            continue
        if name in WHOLE:
            settings[name] = _whole(value, path, key)
        elif name in SWITCHES and isinstance(value, bool):
            settings[name] = value
    cache = content.get("kv_cache")
    blocks = cache.get("num_gpu_blocks") if isinstance(cache, dict) else None
    if blocks is not None:
        settings["num_gpu_blocks"] = _whole(blocks, path, "num_gpu_blocks")
    if "num_gpu_blocks" not in settings and content.get("kv_tokens") is not None:
        size = settings.get("block_size", BLOCK)
        settings["num_gpu_blocks"] = _whole(content["kv_tokens"], path, "kv_tokens") // size
    version = content.get("vllm_version") or content.get("vllm")
    model = given.get("model") if content.get("model") is None else content["model"]
    server = ServedBy(
        model=_last_parts(model) if isinstance(model, str) else None,
        hardware=_hardware(content, path),
        tp=_whole(given.get("tensor_parallel_size") or 1, path, "tensor_parallel_size"),
        replicas=_whole(given.get("data_parallel_size") or 1, path, "data_parallel_size"),
        vllm_version=None if version is None else str(version),
        settings=settings,
    )
    run = replace(run, server=server)
    if given.get("enable_expert_parallel") is True and server.replicas > 1:
        run = run.noted(
            f"the server divides its experts over {server.replicas} engines, which wait for each "
            "other in every step; the replay lets them go on alone, and a law of one card that "
            "holds all experts is another one"
        )
    return _with_load(run, content, path)


def _arguments(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the arguments of the server, be they an object or Python's print of one."""
    if isinstance(content.get("engine_kwargs"), dict):
        return dict(content["engine_kwargs"])
    for key in ("vllm_args", "server"):
        text = content.get(key)
        if isinstance(text, str):
            try:
                found = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                found = None
            if not isinstance(found, dict):
                raise WorkloadError("allowed: the arguments of a server", path=path, column=key)
            return found
    return {}


def _with_load(run: MeasuredRun, content: Mapping[str, Any], path: Path) -> MeasuredRun:
    """Return the run with what the flags of its client say of prompts and concurrency."""
    load, flags = content.get("load_profile"), content.get("bench_flags")
    if isinstance(load, str) and (found := re.search(r"prefix_tokens:\s*(\d+)", load)):
        shared = int(found[1])
        if shared:
            run = run.noted(
                f"every prompt begins with the same {shared} tokens", shared_prefix=shared
            )
    if isinstance(flags, str):
        number = {
            key: int(value) for key, value in re.findall(r"--([a-z-]+)[ =](\d+)(?![\d.])", flags)
        }
        if "max-concurrency" in number:
            run = replace(run, max_concurrency=number["max-concurrency"])
        prefix = number.get("prefix-repetition-prefix-len")
        if prefix and "prefix-repetition-num-prefixes" in number:
            kinds = number["prefix-repetition-num-prefixes"]
            run = run.noted(
                f"{kinds} prefixes of {prefix} tokens are taken in turn: their order is not "
                "recorded", prompts=kinds, shared_prefix=prefix,
            )  # fmt: skip
    return run


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise WorkloadError(f"not JSON: {error}", path=path) from None
    if not isinstance(content, dict):
        raise WorkloadError("allowed: an object", path=path)
    return content


def _hardware(content: Mapping[str, Any], path: Path) -> str | None:
    """Return the card that a JSON names, or that the name of its file begins with."""
    named = content.get("hardware")
    if isinstance(named, str):
        return named
    first, bar, _ = path.name.partition("_")
    return first if bar and first.isupper() else None


def _last_parts(model: str) -> str:
    """Return ``owner/model`` of a name that may be a path on the server's disk."""
    return "/".join(model.split("/")[-2:])


def _whole(value: Any, path: Path, key: str) -> int:
    try:
        found = int(str(value))
    except ValueError:
        found = 0
    if isinstance(value, bool) or not 1 <= found < 2**53:
        raise WorkloadError("allowed: a whole number >= 1", path=path, column=key, value=value)
    return found
