"""Derivatives of an Eulerian solve by what the node and the workload are."""

from ode.gradient.gradients import Gradients as Gradients
from ode.gradient.gradients import gradients as gradients
