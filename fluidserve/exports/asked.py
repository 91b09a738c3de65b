"""Which results in other projects' forms a command is asked for, checked before it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import SECONDS, FluidServeError
from serving.files import check_writable

if TYPE_CHECKING:
    from calibration.profiles import Profile
    from discrete import Engine, Run
    from fluidserve.inputs import Inputs

FILES = ("bench_json", "llmd_report")
"""Options that name a file to write."""

SOURCES = ("config_file", "request_file", "trace", "lengths", "resume", "inject")
"""Options that name a file to read, which is not to be written over."""

OF_BENCH = ("save_detailed", "percentile_metrics", "metric_percentiles")
"""Options that say what the result of ``--bench-json`` holds."""


@dataclass(frozen=True, slots=True)
class Exports:
    """Files that are asked for, None where not, and what the first of them is to hold."""

    bench_json: str | None
    llmd_report: str | None
    detailed: bool
    latencies: tuple[str, ...]
    percentiles: tuple[float, ...]
    max_concurrency: int | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Exports:
        """Return what the parameters of a command ask for.

        Raises
        ------
        FluidServeError
            If a file cannot be written, or an option is not allowed.
        """
        from fluidserve.exports.bench_serve import parse_percentile_metrics, parse_percentiles

        for key in OF_BENCH:
            if params[key] and params["bench_json"] is None:
                raise FluidServeError(f"--{key.replace('_', '-')} needs --bench-json")
        read = [params[key] for key in SOURCES if params[key] is not None]
        named = [params[key] for key in (*FILES, "save_state") if params[key] is not None]
        for key in FILES:
            if params[key] is not None:
                check_writable(params[key], *read)
                if sum(_is_same(params[key], each) for each in named) > 1:
                    raise FluidServeError(
                        f"--{key.replace('_', '-')} {params[key]}: another option writes this file"
                    )
        return cls(
            params["bench_json"], params["llmd_report"], params["save_detailed"],
            parse_percentile_metrics(params["percentile_metrics"]),
            parse_percentiles(params["metric_percentiles"]), params["max_concurrency"],
        )  # fmt: skip

    def check(self, engine: Engine, goodput: Mapping[str, float] | None) -> None:
        """Refuse what cannot be written of an engine's run, before it runs.

        Raises
        ------
        FluidServeError
            If times have no unit, the engine does not tell when outputs came, or a threshold is on
            what a client cannot see.
        """
        from fluidserve.exports.bench_serve import check_thresholds

        unit = engine.instance.time_unit
        for key in FILES:
            if getattr(self, key) is not None and unit not in SECONDS:
                raise FluidServeError(
                    f"--{key.replace('_', '-')}: its times are seconds, and the run has "
                    f"time_unit {unit}; give --time-unit {' | '.join(SECONDS)}"
                )
        if self.bench_json is not None or self.llmd_report is not None:
            engine.run().client_records()  # of nothing yet: it refuses what it cannot tell
        if self.bench_json is not None:
            check_thresholds(goodput)

    def write(
        self,
        run: Run,
        inputs: Inputs,
        profile: Profile | None,
        goodput: Mapping[str, float] | None,
        warnings: Sequence[str],
    ) -> None:
        """Write the files.

        Parameters
        ----------
        run, inputs
            What ran, and what was asked.
        profile
            Model and card, where they were named.
        goodput
            Thresholds in the time unit of the run.
        warnings
            What to know before trusting the results.

        Raises
        ------
        FileAccessError
            If a file cannot be written.
        """
        if self.bench_json is None and self.llmd_report is None:
            return
        records, seconds = run.client_records(), SECONDS[run.instance.time_unit]
        if self.bench_json is not None:
            from fluidserve.exports.bench_serve import head_of, write_bench_json

            write_bench_json(
                self.bench_json, records, run.duration * seconds,
                head_of(inputs, None if profile is None else profile.model, self.max_concurrency),
                detailed=self.detailed, latencies=self.latencies, percentiles=self.percentiles,
                goodput={name: value * seconds for name, value in (goodput or {}).items()},
            )  # fmt: skip
        if self.llmd_report is not None:
            from fluidserve.exports.llmd_report import write_llmd_report

            write_llmd_report(self.llmd_report, run, records, inputs, profile, warnings)


def _is_same(path: str, other: str) -> bool:
    """Return whether two names are of one file, there or not."""
    return Path(path).resolve() == Path(other).resolve()
