"""The iteration clock: cohorts of requests shift exactly, one step is one batch."""

from ode.lagrangian.solve import solve_lagrangian

__all__ = ["solve_lagrangian"]
