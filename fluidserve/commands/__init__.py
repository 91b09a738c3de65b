"""A module of this package defines one command; the module is imported when the command runs."""
