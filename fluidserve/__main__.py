"""Run the command line with ``python -m fluidserve``."""

from fluidserve.cli import main

main()
