"""The iteration clock: cohorts of requests shift exactly, one step is one batch."""

from ode.lagrangian.solve import solve_lagrangian as solve_lagrangian
