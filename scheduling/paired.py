"""What the runs of an experiment say of policies: means, paired differences, regret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Chance with which an interval holds the mean."""

MORE_IS_BETTER = ("goodput", "good_share")
"""Measures of which more is better; of the others less is."""


def interval(values: NDArray[np.float64]) -> tuple[float, float | None]:
    """Return the mean and half the width of its interval; None for fewer than two values."""
    from scipy.stats import t

    mean = float(values.mean())
    if values.size < 2:
        return mean, None
    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, values.size - 1))
    return mean, quantile * float(values.std(ddof=1)) / values.size**0.5


def compared(
    rows: Iterable[Mapping[str, Any]], measures: Sequence[str], against: str
) -> list[dict[str, Any]]:
    """Return one row per load and policy.

    Parameters
    ----------
    rows
        Of :func:`scheduling.experiment.row_of`.
    measures
        Names of the numbers that are compared.
    against
        The policy that differences are told against.

    Returns
    -------
    list of dict
        For each measure NAME its mean over the seeds; ``NAME_half``, half the width of the
        interval of that mean; ``NAME_change`` and ``NAME_change_half``, the mean difference to
        ``against`` on the same requests, over the mean of ``against``, and half the width of its
        interval; and ``NAME_regret``, how far the mean is from the best of all policies at this
        load, over the best. None where a number is not known.
    """
    found: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["load"], row["policy"]), []).append(row)
    told = []
    for (load, policy), mine in found.items():
        others = found[load, against]
        out: dict[str, Any] = {"load": load, "policy": policy, "seeds": len(mine)}
        for name in measures:
            values, base = _values(mine, name), _values(others, name)
            if values is None or base is None:
                out[name] = None
                continue
            out[name], out[f"{name}_half"] = interval(values)
            change, half = interval(values - base)
            scale = float(base.mean())
            out[f"{name}_change"] = change / scale if scale else None
            out[f"{name}_change_half"] = half / scale if scale and half is not None else None
        told.append(out)
    for name in measures:
        for load in {row["load"] for row in told}:
            here = [row for row in told if row["load"] == load and row[name] is not None]
            best = (max if name in MORE_IS_BETTER else min)((row[name] for row in here), default=0)
            for row in here:
                row[f"{name}_regret"] = abs(row[name] / best - 1) if best > 0 else None
    return told


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64] | None:
    """Return a measure by seed; None where a run does not know it."""
    values = [row.get(name) for row in sorted(rows, key=lambda row: row["seed"])]
    return None if any(value is None for value in values) else np.array(values, float)
