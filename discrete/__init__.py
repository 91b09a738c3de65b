"""Batch simulator: engines that decide what a real scheduler would, and records of it."""

from discrete._decode_node import DecodeNodeEngine, Progress
from discrete._layout import Stop
from discrete._records import Records
from discrete._run import FILES, Run
from discrete._simulate import ENGINES, simulate
from discrete._state_file import resume, save_state

__all__ = [
    "ENGINES",
    "FILES",
    "DecodeNodeEngine",
    "Progress",
    "Records",
    "Run",
    "Stop",
    "resume",
    "save_state",
    "simulate",
]
