"""The symbolic equations compiled to arrays and integrated by JAX, diffrax or SciPy."""

from ode.eulerian.solve import solve_eulerian as solve_eulerian
