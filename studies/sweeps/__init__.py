"""Sweeps: many independent points, on processes or a cluster, resumable after a kill."""

from studies.sweeps.executors import Chunk, on_dask, on_processes
from studies.sweeps.grid import Grid, grid_of
from studies.sweeps.journal import Journal
from studies.sweeps.sweep import sweep

__all__ = ["Chunk", "Grid", "Journal", "grid_of", "on_dask", "on_processes", "sweep"]
