"""Room ode."""
