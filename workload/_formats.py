"""Declare each trace format: the names of its columns, and the unit of its times.

A format says what is in a file. How it is written does not matter: every format is read from
commas, tabs, JSON lines, a JSON array and a JSON object of lists alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serving import ConfigError, WorkloadError
from workload._clock import unit_in_name
from workload._contents import CONTENT_KEYS, HASHES
from workload._results import load_generator
from workload._sessions import SESSION, TURN_KEYS
from workload._table import Table, TraceFormat

OWN = "own"
"""Name of the project's own format."""

FORMATS = (
    TraceFormat(
        OWN,
        "arrival_time",
        "prefill_length",
        "decode_length",
        unit="",
        unit_is_certain=False,
        optional=("priority", "predicted_decode_length"),
    ),
    TraceFormat("sharegpt", "arrival_time_ns", "input_toks", "output_toks", "ns"),
    TraceFormat("burstgpt", "Timestamp", "Request tokens", "Response tokens", "s", False),
    TraceFormat("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", "s", False),
    TraceFormat("mooncake", "timestamp", "input_length", "output_length", "ms", False),
    TraceFormat("vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens", "s", False),
    TraceFormat(
        "mooncake_tidy",
        "arrival_s",
        "prompt_tokens",
        "output_tokens",
        marker="cached_prefix_tokens_inf",
    ),
    TraceFormat("azure_tidy", "arrival_s", "prompt_tokens", "output_tokens"),
    TraceFormat("vllm_bench", "start_times", "input_lens", "output_lens"),
    TraceFormat(
        "offline",
        "",
        "input_length",
        "output_length",
        marker=HASHES,
        at_once=True,
    ),
    TraceFormat("lengths", "", "prompt_tokens", "output_tokens"),
    TraceFormat("vidur_lengths", "", "num_prefill_tokens", "num_decode_tokens"),
    TraceFormat("sharegpt_lengths", "", "input_toks", "output_toks"),
    TraceFormat("mooncake_lengths", "", "input_length", "output_length"),
    TraceFormat("vllm_bench_lengths", "", "input_lens", "output_lens"),
)

TRACE_FORMATS = tuple(each.name for each in FORMATS if each.is_trace)
"""Names that a trace's format may have."""

COLUMN_ROLES = ("arrival", "prompt", "output")
"""What the columns that a user names can be."""

COLUMNS_FORM = "arrival=NAME,prompt=NAME,output=NAME"
"""How a user names columns."""


def known_keys(mapping: Mapping[str, str] | None) -> set[str]:
    """Return the names of every column that a format, or the user, gives a meaning."""
    keys = {*TURN_KEYS, *CONTENT_KEYS, *(mapping or {}).values()}
    for each in FORMATS:
        keys.update(each.required, each.optional)
    return keys


def parse_columns(columns: str | Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the column of each role that ``arrival=NAME,prompt=NAME,output=NAME`` names.

    Raises
    ------
    ConfigError
        If a role is unknown, repeated or without a name, or a length has no column.
    """
    if columns is None:
        return None
    if isinstance(columns, str):
        pairs = [part.partition("=") for part in columns.split(",")]
        named = [(role.strip(), name.strip()) for role, _, name in pairs]
    else:
        named = [(str(role), str(name)) for role, name in columns.items()]
    found = dict(named)
    roles = set(found)
    if not roles <= set(COLUMN_ROLES) or len(found) < len(named) or not all(found.values()):
        raise ConfigError("columns", columns, COLUMNS_FORM)
    if not {"prompt", "output"} <= roles:
        raise ConfigError("columns", columns, f"{COLUMNS_FORM}; both lengths have a column")
    return found


def format_of_columns(table: Table, mapping: Mapping[str, str]) -> TraceFormat:
    """Return the format that the user describes by naming columns.

    Raises
    ------
    WorkloadError
        If the table has no column of such a name.
    """
    for name in mapping.values():
        if name not in table.columns:
            raise WorkloadError(f"is missing; the file has {_some(table)}", path=table.path,
                                column=name)  # fmt: skip
    arrival = mapping.get("arrival", "")
    unit = unit_in_name(arrival)
    return TraceFormat(
        "columns", arrival, mapping["prompt"], mapping["output"], unit or "s", unit is not None
    )


def format_named(table: Table, name: str) -> TraceFormat:
    """Return the format that was asked for by name.

    Raises
    ------
    WorkloadError
        If a table lacks a column of it.
    """
    asked = next(each for each in FORMATS if each.name == name)
    for column in asked.required:
        if column not in table.columns:
            raise WorkloadError(
                f"is missing; the {asked.name} format has " + ", ".join(asked.required),
                path=table.path,
                column=column,
            )
    return asked


def detect(table: Table, *, lengths_suffice: bool = False) -> TraceFormat:
    """Return the format of a table by the names of its columns.

    Parameters
    ----------
    table
        Columns of a file.
    lengths_suffice
        Whether a file without arrival times will do.

    Raises
    ------
    WorkloadError
        If none fits; names the column that is missing from the format it is closest to.
    """
    fitting = [
        each
        for each in FORMATS
        if all(name in table.columns for name in each.required)
        and not (each.at_once and SESSION in table.columns)  # later turns are not there at once
    ]
    if fitting and (fitting[0].is_trace or lengths_suffice):
        return fitting[0]
    traces = [each for each in FORMATS if each.arrival]
    closest = max(traces, key=lambda each: sum(name in table.columns for name in each.required))
    generator = load_generator(table.columns)
    if generator is not None:
        raise WorkloadError(_of_result(generator), path=table.path)
    if fitting:
        raise WorkloadError(
            "holds lengths only, no arrival times; use it as a length source (--lengths)",
            path=table.path,
        )
    present = [name for name in closest.required if name in table.columns]
    name_them = f"; other names are given by --columns {COLUMNS_FORM}"
    if present:
        missing = next(name for name in closest.required if name not in table.columns)
        raise WorkloadError(
            f"is missing; the columns look like the {closest.name} format, which has "
            + ", ".join(closest.required) + name_them,
            path=table.path,
            column=missing,
        )  # fmt: skip
    known = "; ".join(_described(traces))
    raise WorkloadError(
        f"not a trace: the columns are {_some(table)!r}. Known formats: {known}{name_them}",
        path=table.path,
    )


def _of_result(generator: str) -> str:
    """Return what to do with a result of a load generator that is no trace."""
    if generator == "vllm bench serve":
        return (
            f"a result of {generator} without the times of its requests: write it with "
            "--save-result --save-detailed (start_times since vLLM 0.9)"
        )
    return (
        f"a result of {generator}, which `fluidserve calibrate run` fits a law to; as a trace, "
        "give arrival times and lengths of its requests in a table"
    )


def _described(formats: Iterable[TraceFormat]) -> list[str]:
    return [f"{each.name}: {', '.join(each.required)}" for each in formats]


def _some(table: Table) -> str:
    return ", ".join(list(table.columns)[:6])[:120]
