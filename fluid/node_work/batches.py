"""What the batches of a node take and do: what the model of one node asks of a kind of node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fluid._capacity import Saturation
from serving import BatchTimeLaw


class Batches(Protocol):
    """What a batch takes and does, by the tokens that it holds and the requests they belong to.

    Tokens are those of the resource that fills up first, in general tokens of a batch.
    """

    @property
    def saturation(self) -> Saturation:
        """The saturated node; ``batch_tokens`` of the resource are all that there is."""
        ...

    @property
    def per_token(self) -> float:
        """What each of a request's own tokens adds to a batch with room [time/token]."""
        ...

    def fastest(self, requests: float) -> float:
        """Return the rate [token-iterations/time] of a full batch of so many ``requests``."""
        ...

    def full(self, requests: float) -> float:
        """Return the duration [time] of a full batch of so many ``requests``."""
        ...

    def duration(self, tokens: Any, requests: Any) -> Any:
        """Return the duration [time] of a batch to which nobody brings a prompt."""
        ...

    def passing(self, tokens: Any, requests: Any) -> tuple[Any, Any]:
        """Return the mean duration [time] of a batch and its rate [token-iterations/time]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DecodeBatches:
    """Batches of a node that is given prompts computed.

    Parameters
    ----------
    saturation
        The saturated node.
    law
        Duration of a batch.
    extra : [tokens]
        What a request takes of a batch besides its tokens.
    slower
        Useful work of a full batch over all of its work: sacrifices throw some away.
    """

    saturation: Saturation
    law: BatchTimeLaw
    extra: float
    slower: float = 1.0

    @property
    def per_token(self) -> float:
        """What each of a request's own tokens adds to a batch with room [time/token]."""
        return float(self.law.duration(1.0, 0.0) - self.law.duration(0.0, 0.0))

    def fastest(self, requests: float) -> float:
        """Return the rate [token-iterations/time] of a full batch of so many ``requests``."""
        work = self.saturation.batch_tokens + self.extra * requests
        return self.slower * work / self.full(requests)

    def full(self, requests: float) -> float:
        """Return the duration [time] of a full batch of so many ``requests``."""
        return float(self.law.duration(self.saturation.batch_tokens, requests))

    def duration(self, tokens: Any, requests: Any) -> Any:
        """Return the duration [time] of a batch."""
        return self.law.duration(tokens, requests)

    def passing(self, tokens: Any, requests: Any) -> tuple[Any, Any]:
        """Return the duration [time] of a batch and its rate [token-iterations/time]."""
        time = self.law.duration(tokens, requests)
        full = tokens >= self.saturation.batch_tokens * (1 - 1e-12)
        useful = np.where(full, self.slower, 1.0)
        return time, useful * (tokens + self.extra * requests) / time
