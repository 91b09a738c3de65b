"""Settings of a model on a card that tuning may turn, whatever engine, model and card are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CardKnob:
    """A setting of a model on a card that tuning may turn; the smallest value is wanted.

    Parameters
    ----------
    key
        The setting.
    words
        What is found.
    spacing
        Whether a bracket is scanned in equal steps or in equal ratios.
    step
        Smallest difference of two values.
    """

    key: str
    words: str
    spacing: Literal["linear", "log"]
    step: float

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.key.replace("_", "-")


CARD_KNOBS = {
    each.name: each
    for each in (
        CardKnob("gpu_memory_utilization", "smallest share of a card's memory", "linear", 0.001),
        CardKnob("tp", "fewest cards that share the model", "log", 1.0),
    )
}
"""Knobs that need a model on a card, by name."""


def card_knob_named(name: str) -> CardKnob | None:
    """Return the knob of a model on a card that a name means, dashes and underscores alike."""
    return CARD_KNOBS.get(name.replace("_", "-").lower())
