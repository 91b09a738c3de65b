"""Named outputs over time, the same names and units for every engine and solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.arguments import check_fields, checked
from serving.errors import FluidServeError

OUTPUTS = {
    "waiting": "requests",
    "running": "requests",
    "swapped": "requests",
    "in_system": "requests",
    "completed": "requests",
    "evicted": "requests",
    "memory": "tokens",
    "batch_size": "requests",
    "batch_tokens": "tokens",
    "batch_duration": "time",
}
"""Every output and its unit. ``evicted`` and ``completed`` are cumulative; ``memory`` is the KV
held by RUNNING; ``batch_size``, ``batch_tokens`` and ``batch_duration`` describe the batch
executing at that time. The key of an output is ``"name [unit]"``."""

NRMSE_OUTPUTS = ("waiting", "running", "swapped", "in_system", "completed")
"""The outputs on which a fluid trajectory is scored against the discrete engine."""


@checked()
def output_key(name: str) -> str:
    """Return the full key, ``"waiting [requests]"`` for ``"waiting"``.

    Raises
    ------
    FluidServeError
        If there is no such output; lists those that exist.
    """
    plain = name.split(" [")[0]
    if plain not in OUTPUTS or name not in (plain, f"{plain} [{OUTPUTS[plain]}]"):
        known = ", ".join(f"{key} [{unit}]" for key, unit in OUTPUTS.items())
        raise FluidServeError(f"there is no output {name!r}; there are: {known}")
    return f"{plain} [{OUTPUTS[plain]}]"


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Outputs over time; ``trajectory("waiting [requests]", t)`` interpolates.

    Parameters
    ----------
    time : shape (T,) [time]
        Non-decreasing.
    outputs
        Arrays of shape (T,) by plain name, each a name of :data:`OUTPUTS`.
    held
        Names of the outputs that hold their last value until the next time (what a scheduler
        sets at a batch boundary); the others are linear in between.
    """

    time: NDArray[np.float64]
    outputs: Mapping[str, NDArray[np.float64]]
    held: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_fields(self)
        for name, values in self.outputs.items():
            output_key(name)
            if values.shape != self.time.shape:
                raise FluidServeError(f"output {name!r} does not have one value per time")

    @checked()
    def __call__(self, name: str, t: ArrayLike) -> NDArray[np.float64]:
        """Return an output (by name or full key) at times ``t``; constant beyond both ends."""
        key = output_key(name).split(" [")[0]
        if key not in self.outputs:
            raise FluidServeError(f"this trajectory has no {key!r}; it has: {list(self.outputs)}")
        values, t = self.outputs[key], np.asarray(t, float)
        if key not in self.held:
            return np.interp(t, self.time, values)
        k = np.searchsorted(self.time, t, side="right") - 1
        return values[np.clip(k, 0, None)]

    @checked()
    def rate(self, name: str, start: float, end: float) -> float:
        """Return the mean rate of change of a cumulative output over [start, end] [1/time].

        Weighted by a raised cosine, so that a cycle that the window cuts leaves an error that
        falls with the third power of the number of cycles, and not with the first.

        Raises
        ------
        FluidServeError
            If the window has no length.
        """
        start, end = float(start), float(end)
        if not end > start:
            raise FluidServeError(f"a rate over [{start:g}, {end:g}]; allowed: an end after start")
        inside = self.time[(self.time > start) & (self.time < end)]
        t = np.unique(np.concatenate([[start], inside, [end]]))
        u = (t - start) / (end - start)
        weight = u - np.sin(2 * np.pi * u) / (2 * np.pi)
        return float(np.sum(np.diff(self(name, t)) / np.diff(t) * np.diff(weight)))

    @checked()
    def sampled(self, t: ArrayLike) -> Trajectory:
        """Return every output on the grid ``t`` (linear in between from then on)."""
        t = np.asarray(t, float)
        return Trajectory(t, {name: self(name, t) for name in self.outputs})
