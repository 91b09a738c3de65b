"""What requests find in the prefix cache where only a share is known, and no content."""

from __future__ import annotations

import numpy as np

from serving.compilation import compiled


@compiled
def tokens_found(prompt, share, block_size):
    """Return the tokens of each prompt that are found, in whole blocks.

    What a prompt cannot have, because it is no whole block or because the last token of a prompt is
    always computed, the next prompts have: so the share is met over many requests.

    Parameters
    ----------
    prompt : shape (R,) [tokens]
    share
        Of all tokens of prompts, from 0 to 1.
    block_size : [tokens]

    Returns
    -------
    int64, shape (R,) [tokens]
    """
    found = np.zeros(prompt.size, np.int64)
    owed = 0.0
    for r in range(prompt.size):
        owed += share * prompt[r]
        blocks = min(int(owed / block_size), (prompt[r] - 1) // block_size)
        found[r] = blocks * block_size
        owed -= found[r]
    return found
