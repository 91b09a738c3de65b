"""Predict the hit share of a prefix cache for the requests and the server of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fluidserve.config import flat
from fluidserve.flags import FlagError
from fluidserve.inputs import Inputs, load_inputs, mean_lengths
from fluidserve.options import PROFILE_KEYS, config_flags
from fluidserve.profiled import SERVER
from fluidserve.text import instance_line
from fluidserve.words import workload_words
from serving import FluidServeError, UnsupportedError, VllmV1
from serving.kinds.vllm_v1 import MOST_BLOCKS
from studies.prefix_cache import PrefixCache, WaitingTurns, sizes_between

SIZES = 8
"""Sizes of the memory where nobody says which."""

SHARES = (0.5, 0.9, 0.99)
"""Parts of what an endless memory finds, for which the least memory is told."""

NODE_LESS = (
    "block_size", "ignore_eos", "seed", "request_file", "L_filter", "output_dir", "verbose",
    "progress_interval", "time_unit", "engine",
)  # fmt: skip
"""Keys of a configuration that name no server."""


RATED = ("trace", "request_file", "arrival_rate", "types", "sessions")
"""Keys that say when requests come."""


def predict(params: Mapping[str, Any], blocks: str | None, picture: str | None) -> dict[str, Any]:
    """Return the hit share by the size of the memory.

    Parameters
    ----------
    params
        Of the command: workload and server.
    blocks
        Sizes [blocks], parted by commas.
    picture
        PNG to draw; None for none.
    """
    wanted = _sizes(blocks)
    is_server = _names_a_server(params)
    inputs = load_inputs(_with_engine(params, is_server))
    node = inputs.instance
    if not isinstance(node, VllmV1):
        raise _no_cache(node.engine)
    question = inputs.question
    if question.waits:
        return _states(inputs, node, wanted, picture, is_server=is_server)
    cache = PrefixCache(question.requests, node.block_size, stop_token=not node.ignore_eos)
    curve, table = cache.curve, question.requests
    largest = -(-int((table.prefill_length + table.decode_length).max()) // node.block_size)
    own = node.num_gpu_blocks - 1
    if not wanted:
        end = max(float(curve.size[-1]), largest)
        wanted = sizes_between(largest, end, SIZES).tolist()
        if is_server and largest <= own:
            wanted = sorted({*wanted, own})
    if is_server:
        points = [asdict(cache.on(node, size)) for size in wanted]
    else:
        points = [
            {"blocks": size, "tokens": size * node.block_size,
             "hit_share": float(curve.hit_share(size))}
            for size in wanted
        ]  # fmt: skip
    result = {
        "kind": "prefix_cache",
        "block_size": node.block_size,
        "time_unit": node.time_unit,
        "num_gpu_blocks": node.num_gpu_blocks if is_server else None,
        "workload": _told(inputs),
        "hit_share_of_endless_memory": curve.most,
        "blocks_for": {f"{share:g}": curve.blocks_for(share * curve.most) for share in SHARES}
        if curve.most > 0 else {},
        "points": points,
        "picture": picture,
        "warnings": _warnings(inputs, points, curve.most, is_server),
    }  # fmt: skip
    if picture is not None:
        from fluidserve.plots.cache_curve import cache_curve

        shown = workload_words({"workload": result["workload"], "instance": flat(node)})
        cache_curve(
            result, curve.size, curve.hit_share(curve.size), picture,
            title=f"{instance_line(node)}\n{shown}" if is_server else shown,
        )  # fmt: skip
    return result


def _states(
    inputs: Inputs, node: VllmV1, sizes: list[int], picture: str | None, *, is_server: bool
) -> dict[str, Any]:
    """Return the two states of a server whose clients wait for answers, for each size."""
    if not is_server:
        raise FluidServeError(
            "turns that wait for answers come when a server lets them; name it, such as by --model "
            "on --hardware"
        )
    if picture is not None:
        raise FlagError("--picture", picture, "not given where turns wait for answers")
    requests = inputs.question.requests
    found = []
    for blocks in sizes or [node.num_gpu_blocks - 1]:
        turns = WaitingTurns(requests, replace(node, num_gpu_blocks=blocks + 1))
        low, high = turns.band()
        found.append(
            {
                "blocks": blocks,
                "tokens": blocks * node.block_size,
                "without_backlog": asdict(turns.at(0.0)),
                "with_backlog": asdict(turns.at(turns.longest_wait() / 2)),
                "both_states_last": [low, high],
            }
        )
    workload = {**inputs.source, "requests": len(requests), **mean_lengths(inputs.question.mix)}
    return {
        "kind": "prefix_cache_states",
        "block_size": node.block_size,
        "time_unit": node.time_unit,
        "num_gpu_blocks": node.num_gpu_blocks,
        "workload": {**workload, "mean_arrival_rate": len(requests) / requests.horizon},
        "states": found,
        "warnings": list(inputs.assumed),
    }


def _names_a_server(params: Mapping[str, Any]) -> bool:
    """Return whether a profile, a file or a flag says something of a server."""
    named = any(params.get(key) is not None for key in (*PROFILE_KEYS, "config_file", "scale"))
    return named or bool(set(config_flags(params)) - set(NODE_LESS))


def _with_engine(params: Mapping[str, Any], is_server: bool) -> dict[str, Any]:
    """Return the parameters with the engine that has a prefix cache."""
    given = dict(params)
    if given.get("engine") is None and given.get("config_file") is None:
        given["engine"] = SERVER
    if not is_server:
        if given["engine"] != SERVER:
            raise _no_cache(given["engine"])
        if given.get("load") is not None:
            raise FluidServeError("--load needs a server, such as --model on --hardware")
        if not any(given.get(key) is not None for key in RATED):
            raise FluidServeError(
                "how many conversations go on at a time follows from the rate; give --arrival-rate "
                "or --sessions, or a server, such as --model on --hardware"
            )
        given |= {"time_unit": given.get("time_unit") or "none", "num_gpu_blocks": MOST_BLOCKS}
    return given


def _no_cache(engine: str) -> UnsupportedError:
    return UnsupportedError(
        f"the engine {engine} has no prefix cache; the hit share is predicted for {SERVER}"
    )


def _sizes(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = text.replace(" ", "").split(",")
    if not all(part.isdecimal() and 0 < int(part) <= MOST_BLOCKS for part in parts):
        raise FlagError("--blocks", text, "whole numbers > 0, comma-separated, such as 1000,27844")
    return sorted({int(part) for part in parts})


def _told(inputs: Inputs) -> dict[str, Any]:
    question = inputs.question
    return {
        **inputs.source,
        "requests": len(question.requests),
        "mean_arrival_rate": question.mean_rate,
        **mean_lengths(question.mix),
    }


def _warnings(inputs: Inputs, points: Any, most: float, is_server: bool) -> list[str]:
    said = list(inputs.assumed) if is_server else list(inputs.notes)
    over = [each["blocks"] for each in points if each.get("load", 0) >= 1]
    if over:
        said.append(
            f"up to {max(over):,} blocks more arrives than the server can do: queues grow, and the "
            "hit share is that of requests that come at the times they have"
        )
    if most == 0:
        said.append("no two requests have a block in common: no cache finds anything")
    return said
