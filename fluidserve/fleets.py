"""The flags that say what a fleet is, for every command that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from fluidserve.flags import FlagError
from fluidserve.front import option
from serving import FluidServeError, Instance

REPLICAS = 8
LARGEST_FLEET = 10_000


def fleet_options(function: Any) -> Any:
    """Add ``--replicas``, ``--slower`` and ``--fleet``."""
    for each in reversed(_OPTIONS):
        function = each(function)
    return function


_OPTIONS = (
    option("--replicas", type=int, default=None, help="instances of the fleet  [default: 8]"),
    option("--slower", metavar="N:FACTOR",
           help="the batches of the last N instances take FACTOR times as long"),
    option("--fleet", metavar="FILE:N,FILE:N,...",
           help="a fleet of configurations instead, N instances of each"),
)  # fmt: skip


def fleet_of(params: Mapping[str, Any], instance: Instance) -> tuple[Instance, ...]:
    """Return the instances that the flags name.

    Parameters
    ----------
    params
        Of the command.
    instance
        What the flags of an instance describe.

    Raises
    ------
    FluidServeError
        One line on what is wrong.
    """
    if params["fleet"] is not None:
        for key in ("replicas", "slower"):
            if params[key] is not None:
                raise FluidServeError(f"--{key} and --fleet both say what the fleet is; give one")
        return _of_files(params["fleet"], instance.time_unit)
    number = REPLICAS if params["replicas"] is None else params["replicas"]
    if not 1 <= number <= LARGEST_FLEET:
        raise FlagError("--replicas", number, f"a whole number from 1 to {LARGEST_FLEET}")
    instances = [instance] * number
    if params["slower"] is not None:
        count, factor = _slower(params["slower"], number)
        slow = replace(cast(Any, instance), batch_time=instance.batch_time.in_unit(factor))
        instances[number - count :] = [slow] * count
    return tuple(instances)


def _slower(text: str, number: int) -> tuple[int, float]:
    count, _, factor = text.partition(":")
    try:
        found = int(count), float(factor)
    except ValueError:
        found = 0, 0.0
    if not (1 <= found[0] <= number and 0 < found[1] < 1e6):
        raise FlagError("--slower", text, f"N:FACTOR, such as 4:2, with N from 1 to {number}")
    return found


def _of_files(text: str, unit: str) -> tuple[Instance, ...]:
    from fluidserve.config import instance_of, load_config

    instances: list[Instance] = []
    for part in text.split(","):
        path, _, count = part.rpartition(":")
        if not path or not count.isdecimal() or not 1 <= int(count) <= LARGEST_FLEET:
            raise FlagError("--fleet", text, "FILE:N,..., such as fast.yaml:4,slow.yaml:4")
        instance = instance_of(load_config(path, {}))
        if instance.time_unit != unit:
            raise FluidServeError(
                f"{path}: time_unit {instance.time_unit}, but that of the requests is {unit}"
            )
        instances += [instance] * int(count)
    return tuple(instances)
