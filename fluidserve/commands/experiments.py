"""``fluidserve experiments`` manages the experiment folders that other commands wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fluidserve.front import Group, option

_HOME = option(
    "--home", default="data/experiments", show_default=True, metavar="DIR",
    help="where experiments are",
)  # fmt: skip


@click.group("experiments", cls=Group)
def command() -> None:
    """List, describe, compare, archive and export experiment folders.

    A NAME is a folder, or the name of one in --home; without any, all in --home are meant.
    """


def _chosen(names: tuple[str, ...], home: str) -> list[Any]:
    from fluidserve.experiments import find_experiments, open_experiment
    from fluidserve.options import FlagError

    if not home:
        raise FlagError("--home", home, "a folder")
    if names:
        return [open_experiment(name, Path(home)) for name in names]
    return find_experiments(Path(home))


def _print(value: Any, table: str = "plain_table") -> None:
    from fluidserve import tables
    from fluidserve.folders import emit

    emit(value, getattr(tables, table))


@command.command("list")
@_HOME
def list_command(home: str) -> None:
    """Say what there is: kind, workload, load and headline latencies of each."""
    _print([each.headline() for each in _chosen((), home)], "experiments_table")


@command.command("details")
@click.argument("name")
@_HOME
def details_command(name: str, home: str) -> None:
    """Print all of an experiment: its summary, command, versions, timings and files."""
    (found,) = _chosen((name,), home)
    files = {file.name: file.stat().st_size for file in sorted(found.folder.iterdir())}
    told = {"folder": str(found.folder), "meta": found.meta, **found.summary, "files": files}
    _print(told, "experiment_table")


@command.command("compare")
@click.argument("names", nargs=-1, required=True)
@_HOME
def compare_command(names: tuple[str, ...], home: str) -> None:
    """Put the metrics of experiments side by side, with their change from the first."""
    from fluidserve.experiments import compared

    _print(compared(_chosen(names, home)), "changes_table")


@command.command("archive")
@click.argument("names", nargs=-1)
@option("--output", default="experiments.tar.gz", show_default=True, metavar="FILE",
        section="Output")  # fmt: skip
@_HOME
def archive_command(names: tuple[str, ...], output: str, home: str) -> None:
    """Pack experiment folders into one .tar.gz; the folders stay."""
    from fluidserve.experiments import archive

    _print(archive(_chosen(names, home), output))


@command.command("export")
@click.argument("names", nargs=-1)
@option("--output", default="experiments.csv", show_default=True, metavar="FILE",
        section="Output")  # fmt: skip
@_HOME
def export_command(names: tuple[str, ...], output: str, home: str) -> None:
    """Write one row per experiment, with every metric, as .csv or .json."""
    from fluidserve.experiments import export

    _print(export(_chosen(names, home), output))


@command.command("stats")
@_HOME
def stats_command(home: str) -> None:
    """Count experiments by kind, their bytes, and the spread of every metric."""
    from fluidserve.experiments import statistics

    _print(statistics(_chosen((), home)), "statistics_table")
