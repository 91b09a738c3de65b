"""Integrates in time: Eulerian (the symbols), Lagrangian (iteration clock), one node's work."""

from ode.initial_state import InitialState
from ode.solution import Solution
from ode.solve import METHODS, solve
from ode.workload_process import Stationary, stationary

__all__ = ["METHODS", "InitialState", "Solution", "Stationary", "solve", "stationary"]
