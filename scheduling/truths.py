"""How predictions came true so far, without those whose truth is still to come.

Apart from :mod:`scheduling.record`, because predictions read it and the record reads predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduling.bounds import Track


@dataclass(slots=True)
class Truths:
    """How predictions came true so far, and of which instances nothing can be said now.

    Parameters
    ----------
    ttft, e2el
        Of both latencies.
    failed
        Instances for which the model found no answer.
    """

    ttft: Track = field(default_factory=Track)
    e2el: Track = field(default_factory=Track)
    failed: set[int] = field(default_factory=set)
