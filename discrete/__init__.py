"""Batch simulator: engines that decide what a real scheduler would, and records of it.

An engine (``ENGINES`` by the name in the instance specification) has ``requests``, ``instance``,
``time``, ``batch``, ``finished`` and ``progress``; ``advance`` moves it by batches or to a time,
``inject`` changes who comes, ``run`` returns what happened so far. Between calls it is at rest and
can be saved.
"""

from discrete._records import Records
from discrete._run import FILES, Run
from discrete._simulate import ENGINES, simulate
from discrete._state_file import resume, save_state
from discrete.decode_node.engine import DecodeNodeEngine, Progress
from discrete.decode_node.layout import Stop

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
