"""The prompts that wait on a server, computed in the order of arrival, chunk by chunk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Prompts:
    """Walks through prompts and says what the chunks of a step attend to.

    Parameters
    ----------
    prompts : shape (W,) [tokens]
        In the order of arrival.
    computed : [tokens]
        What was computed of the first.
    """

    def __init__(self, prompts: NDArray[np.float64], computed: float) -> None:
        self._prompts, self._place = prompts.tolist(), 0
        self._computed = computed

    def take(self, tokens: float) -> tuple[float, float, float]:
        """Compute the next tokens of them.

        Returns
        -------
        attention, held, beyond : [tokens^2], [tokens], [tokens]
            What the chunks attend to, and what their prompts held before, as
            :meth:`serving.BatchTimeLaw.mixed_duration` counts it; tokens beyond all prompts.
        """
        attention = held = 0.0
        while tokens > 1e-6 and self._place < len(self._prompts):
            left = self._prompts[self._place] - self._computed
            chunk = min(tokens, left)
            if chunk > 0.0:
                attention += chunk * (self._computed + 0.5 * (chunk + 1.0))
                held += self._computed
            tokens -= max(chunk, 0.0)
            self._computed += max(chunk, 0.0)
            if chunk >= left:
                self._place, self._computed = self._place + 1, 0.0
        return attention, held, tokens
