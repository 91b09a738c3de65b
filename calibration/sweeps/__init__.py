"""Sweeps: many independent points, on processes or a cluster, resumable after a kill."""

from calibration.sweeps.executors import Chunk, on_dask, on_processes
from calibration.sweeps.grid import Grid, grid_of
from calibration.sweeps.journal import Journal
from calibration.sweeps.sweep import sweep

__all__ = ["Chunk", "Grid", "Journal", "grid_of", "on_dask", "on_processes", "sweep"]
