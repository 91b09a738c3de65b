"""Run the command line, with ``python -m fluidserve`` or by the command ``fluidserve``."""

from __future__ import annotations


def main() -> None:
    """Entry point: be ready to be interrupted before anything slow is imported."""
    from fluidserve.ending import install

    install()
    from fluidserve.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
