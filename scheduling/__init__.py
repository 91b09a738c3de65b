"""Room scheduling."""
