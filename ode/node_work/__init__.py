"""One node at finite size: the Kolmogorov equations of its work in system, and their latencies.

V, the token-iterations that the requests in the system still need, jumps by w at each arrival
and falls as batches execute. Its forward equation gives the law of V that arrivals meet, over
time or in equilibrium; a backward equation the time that a request then takes to decode.
"""

from ode.node_work.solve import solve_node_work as solve_node_work
from ode.node_work.stationary import Stationary as Stationary
from ode.node_work.stationary import stationary as stationary
