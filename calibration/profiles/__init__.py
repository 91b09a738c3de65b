"""Profiles: the batch-time law and the KV capacity of known models on known graphics cards."""

from calibration.profiles._estimate import estimated_kv_capacity, estimated_law
from calibration.profiles._profile import Profile, find, listing
from calibration.profiles._tables import (
    FOLDER,
    Gpu,
    Law,
    ModelShape,
    ProfileFile,
    Roofline,
    gpus,
    measured,
    models,
    read,
    roofline,
)

__all__ = [
    "FOLDER",
    "Gpu",
    "Law",
    "ModelShape",
    "Profile",
    "ProfileFile",
    "Roofline",
    "estimated_kv_capacity",
    "estimated_law",
    "find",
    "gpus",
    "listing",
    "measured",
    "models",
    "read",
    "roofline",
]
