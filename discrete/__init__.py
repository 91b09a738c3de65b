"""Room discrete."""
