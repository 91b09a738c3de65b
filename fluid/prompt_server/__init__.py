"""The fluid model of a server that computes its own prompts: what a request takes, closed forms."""

from fluid.prompt_server.certificate import certificate as certificate
from fluid.prompt_server.equilibrium import ServerEquilibrium as ServerEquilibrium
from fluid.prompt_server.equilibrium import equilibrium as equilibrium
from fluid.prompt_server.gradients import equilibrium_gradients as equilibrium_gradients
from fluid.prompt_server.least_times import least_node_times as least_node_times
from fluid.prompt_server.life import Life as Life
from fluid.prompt_server.life import life as life
from fluid.prompt_server.node_work import work_closure as work_closure
from fluid.prompt_server.parameters import parameter_units as parameter_units
from fluid.prompt_server.parameters import parameter_values as parameter_values
from fluid.prompt_server.parameters import with_parameter as with_parameter
from fluid.prompt_server.saturation import ServerSaturation as ServerSaturation
from fluid.prompt_server.saturation import capacity as capacity
from fluid.prompt_server.saturation import fastest_batch as fastest_batch
from fluid.prompt_server.saturation import highest_rate as highest_rate
from fluid.prompt_server.saturation import most_entering as most_entering
from fluid.prompt_server.saturation import requests_that_fit as requests_that_fit
from fluid.prompt_server.saturation import saturation as saturation
from fluid.prompt_server.saturation import saturation_of_many as saturation_of_many
from fluid.prompt_server.saturation import step_time as step_time
from fluid.prompt_server.sensitivity import saturation_sensitivity as saturation_sensitivity
