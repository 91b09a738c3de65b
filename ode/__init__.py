"""Integrates the fluid model in time: Eulerian (the symbols) and Lagrangian (iteration clock)."""

from ode.initial_state import InitialState
from ode.solution import Solution
from ode.solve import METHODS, solve

__all__ = ["METHODS", "InitialState", "Solution", "solve"]
