"""Profiles hold the batch-time law and the KV capacity of known models on known cards."""

from calibration.profiles.estimate import estimated_kv_capacity as estimated_kv_capacity
from calibration.profiles.estimate import estimated_law as estimated_law
from calibration.profiles.profile import Profile as Profile
from calibration.profiles.profile import find as find
from calibration.profiles.profile import listing as listing
from calibration.profiles.tables import FOLDER as FOLDER
from calibration.profiles.tables import Gpu as Gpu
from calibration.profiles.tables import Law as Law
from calibration.profiles.tables import ModelShape as ModelShape
from calibration.profiles.tables import ProfileFile as ProfileFile
from calibration.profiles.tables import Roofline as Roofline
from calibration.profiles.tables import gpus as gpus
from calibration.profiles.tables import measured as measured
from calibration.profiles.tables import models as models
from calibration.profiles.tables import read as read
from calibration.profiles.tables import roofline as roofline
