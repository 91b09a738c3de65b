"""The kinds of engine there are, by name."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from serving.errors import ConfigError, UnsupportedError, WorkloadError
from serving.kinds.decode_node import DECODE_NODE
from serving.kinds.kind import Instance, Kind
from serving.kinds.vllm_v0 import VLLM_V0
from serving.kinds.vllm_v1 import VLLM_V1
from serving.request_table import RequestTable

KINDS: dict[str, Kind] = {kind.name: kind for kind in (DECODE_NODE, VLLM_V1, VLLM_V0)}
"""Every kind by its name. A new engine of this project is one more entry here."""

DEFAULT_KIND = DECODE_NODE
"""The kind where nothing names one."""

CLOCK_SHARE = 1e-4
"""Part of a batch down to which the clock must count at the last arrival."""


def register(kind: Kind) -> None:
    """Add a kind from outside this project, before it is first named.

    Raises
    ------
    ConfigError
        If there is a kind of this name already.
    """
    if kind.name in KINDS:
        raise ConfigError("engine", kind.name, f"a name other than {' | '.join(KINDS)}")
    KINDS[kind.name] = kind


def kind_named(name: str) -> Kind:
    """Return the kind of a name.

    Raises
    ------
    ConfigError
        Listing the kinds there are.
    """
    if name not in KINDS:
        raise ConfigError("engine", name, " | ".join(KINDS))
    return KINDS[name]


def kind_of(instance: Any) -> Kind:
    """Return the kind of an instance.

    Raises
    ------
    UnsupportedError
        If this is no instance of a kind that is registered.
    """
    name = getattr(instance, "engine", None)
    if name not in KINDS:
        what = f"engine {name!r}" if name else f"a {type(instance).__name__}"
        raise UnsupportedError(f"{what} is no instance of an engine; engines: {', '.join(KINDS)}")
    return KINDS[name]


def check_fits(requests: RequestTable, instance: Instance, path: str | Path | None = None) -> None:
    """Refuse a request that an instance cannot serve.

    It can never finish, comes too late to be timed, or its client gives up, or waits for an answer,
    and the engine has no rule for that.

    Raises
    ------
    WorkloadError
        Naming the first row whose prompt and answer together are too long, or the arrival beside
        which a batch is lost (a time of 1e20 and a batch of 1 have the sum 1e20), or the first row
        whose client gives up or waits.
    """
    kind = kind_of(instance)
    if not kind.knows_aborts:
        requests.refuse_aborts(kind.name, path)
    if not kind.knows_sessions:
        requests.refuse_sessions(f"the engine {kind.name}", path)
    most = kind.largest_request(instance)
    if math.isfinite(most.value):
        requests.refuse_longer_than(int(most.value), most.words, path)
    batch = float(instance.batch_time.duration(1, 1))
    last = float(requests.arrival_time[-1]) if len(requests) else 0.0
    if batch > 0 and math.ulp(last) > CLOCK_SHARE * batch:
        raise WorkloadError(
            f"the last request comes at {last:g}, too late to time batches of {batch:g}; "
            f"allowed: arrivals up to {CLOCK_SHARE * batch / sys.float_info.epsilon:.3g}",
            path=path,
        )
