"""Series of a server's metrics: which belong to one engine, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving import WorkloadError

Labels = frozenset[tuple[str, str]]
"""Labels of a series with their values."""

SPLITTING = frozenset(
    "__name__ le quantile finished_reason source reason model_name lora_name lora_adapter "
    "adapter_name running_lora_adapters waiting_lora_adapters max_lora".split()
)
"""Labels that divide what one engine does, and do not tell one engine from another."""

MOST_SHOWN = 8
"""Number of values of a label that an error lists."""


@dataclass(eq=False)
class SeriesSet:
    """Values by time [s] of each metric with its labels, as they are read.

    Parameters
    ----------
    path
        Name of the file, for messages.
    labels
        Labels of the series to take. A series without such a label is taken too.
    """

    path: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    values: dict[tuple[str, Labels], dict[float, float]] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    gaps: set[float] = field(default_factory=set)

    def points(self, name: str, labels: Iterable[tuple[str, str]]) -> dict[float, float] | None:
        """Return where the values of a series go; None for a series that is not to be taken."""
        told = frozenset(labels)
        wanted = True
        for key, value in told:
            self.seen.setdefault(key, set()).add(value)
            wanted &= self.labels.get(key, value) == value
        return self.values.setdefault((name, told), {}) if wanted else None

    def check_labels(self) -> None:
        """Refuse a label that was asked for and that no series has.

        Raises
        ------
        WorkloadError
            Naming the label and the values that exist.
        """
        for key, value in self.labels.items():
            known = sorted(self.seen.get(key, ()))
            if value not in known:
                flag = f"--engine {value}" if key == "engine" else f"--label {key}={value}"
                words = f"no series has it; {_choices(key, known)}" if known else (
                    f"no series has a label {key!r}; labels are: "
                    f"{', '.join(sorted(set(self.seen) - {'__name__', 'le'})) or 'none'}"
                )  # fmt: skip
                raise WorkloadError(words, path=self.path, column=flag)

    def of_one_engine(
        self,
        name: str,
        *,
        whole: bool,
        keep: Mapping[str, str] | None = None,
        is_info: bool = False,
    ) -> tuple[list[tuple[Labels, dict[float, float]]], str | None]:
        """Return the series of a metric, all of one engine, and which label divides them.

        Parameters
        ----------
        name
            The metric.
        whole
            Whether an engine has one value of the metric, such as the share of its KV in use;
            two series are then two engines.
        keep
            Further labels that a series must have.
        is_info
            Whether the labels are what the metric says; only those that other metrics have too
            then tell engines apart.

        Raises
        ------
        WorkloadError
            If the series are of several engines, naming the labels that tell them apart.
        """
        found = [
            (labels, points)
            for (own, labels), points in self.values.items()
            if own == name and points and set((keep or {}).items()) <= labels
        ]
        apart = _apart([labels for labels, _ in found])
        if is_info:
            common = {key for own, labels in self.values if own != name for key, _ in labels}
            apart = {key: values for key, values in apart.items() if key in common}
        engines = apart if whole else {key: v for key, v in apart.items() if key not in SPLITTING}
        if len(found) > 1 and engines:
            flags = "; ".join(_choices(key, sorted(values)) for key, values in engines.items())
            raise WorkloadError(
                f"{len(found)} series, each of an engine of its own; {flags}", path=self.path,
                column=name,
            )  # fmt: skip
        return found, ", ".join(sorted(apart)) or None


def _choices(key: str, values: list[str]) -> str:
    """Return how to choose one value of a label, with the values that there are."""
    flag = "--engine" if key == "engine" else f"--label {key}=..."
    more = f", ... {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
    return f"choose one with {flag} (of: {', '.join(values[:MOST_SHOWN])}{more})"


def _apart(series: list[Labels]) -> dict[str, set[str]]:
    """Return the labels in which some series differ, with their values."""
    keys = {key for labels in series for key, _ in labels}
    values = {key: {dict(labels).get(key, "") for labels in series} for key in keys}
    return {key: found for key, found in values.items() if len(found) > 1}


def added(series: list[dict[float, float]], *, counter: bool) -> dict[float, float]:
    """Return the sum of series by time.

    A series that begins late counts as 0 before, and one without a value at a time counts with its
    last value if it is a counter, else with 0.
    """
    if len(series) == 1:
        return series[0]
    total: dict[float, float] = {}
    times = sorted(set().union(*series))
    for points in series:
        last = 0.0
        for at in times:
            last = points.get(at, last if counter else 0.0)
            total[at] = total.get(at, 0.0) + last
    return total
