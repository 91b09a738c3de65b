"""Solvers of the fluid model of a server that computes its own prompts."""

from ode.prompt_server.forecast import forecaster as forecaster
from ode.prompt_server.labels import method_of_latencies as method_of_latencies
from ode.prompt_server.labels import methods_for as methods_for
from ode.prompt_server.labels import policy_labels as policy_labels
from ode.prompt_server.regime import collapsed_throughput as collapsed_throughput
from ode.prompt_server.regime import edges as edges
from ode.prompt_server.regime import regime as regime
from ode.prompt_server.solve import solve as solve
from ode.prompt_server.stationary import stationary as stationary
