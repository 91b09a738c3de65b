"""Room fluid."""
