"""The law that a correction begins with, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

from calibration.profiles import Profile, estimated_law, gpus, models, roofline
from serving import BatchTimeLaw

OF_KERNELS = 0.25
"""How far the terms of a law of measured kernels may be off, over those of one of data sheets."""

OF_SERVERS = 0.5
"""The same for a law of steps or requests on other servers of the kind."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A law to be corrected.

    Parameters
    ----------
    law
        In seconds.
    doubt
        How far its terms may be off, over those of a law from data sheets.
    words
        Where it comes from.
    """

    law: BatchTimeLaw
    doubt: float
    words: str


def beginning(profile: Profile, *, kernels_differ: bool = False) -> Beginning:
    """Return the law of a profile, or that of data sheets where it cannot be told apart.

    Steps of a server have their KV and their requests grow together. Where a profile of such steps
    could not tell them apart, its split is that of data sheets, and their law is better to begin
    with: it does not know the server that is to be predicted.

    Parameters
    ----------
    profile
        Of the model on the card.
    kernels_differ
        Whether the server divides the model in another way than the kernels were measured.
    """
    law, measured = profile.law.batch_time(), profile.basis.split(",")[0]
    on = f"{profile.model} on {profile.tp} x {profile.hardware}"
    knows = not ("steps" in measured and "d_kv is estimated" in measured)
    if profile.origin != "measured" or not knows:
        shape, gpu = models()[profile.model], gpus()[profile.hardware]
        estimate = estimated_law(shape, gpu, profile.tp, roofline()).batch_time()
        return Beginning(estimate, 1.0, f"data sheets for {on}")
    doubt = 1.0
    if measured == "kernels" and not kernels_differ:
        doubt = OF_KERNELS
    elif measured.startswith(("steps", "requests")):
        doubt = OF_SERVERS
    return Beginning(law, doubt, f"the profile of {on} ({measured})")
