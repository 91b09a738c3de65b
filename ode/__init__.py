"""Integrates the fluid model in time: Eulerian (the symbols) and Lagrangian (iteration clock)."""

from ode.gradients import Gradients, gradients
from ode.initial_state import InitialState
from ode.solution import Solution
from ode.solve import METHODS, solve

__all__ = ["METHODS", "Gradients", "InitialState", "Solution", "gradients", "solve"]
