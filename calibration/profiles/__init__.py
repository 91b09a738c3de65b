"""Profiles hold the batch-time law and the KV capacity of known models on known cards."""

from calibration.profiles.estimate import estimated_kv_capacity as estimated_kv_capacity
from calibration.profiles.estimate import estimated_law as estimated_law
from calibration.profiles.kv_memory import KvMemory as KvMemory
from calibration.profiles.kv_memory import kv_memory as kv_memory
from calibration.profiles.profile import Profile as Profile
from calibration.profiles.profile import find as find
from calibration.profiles.profile import listing as listing
from calibration.profiles.profile import served as served
from calibration.profiles.server import Server as Server
from calibration.profiles.serving_defaults import Served as Served
from calibration.profiles.serving_defaults import serving_defaults as serving_defaults
from calibration.profiles.tables import FOLDER as FOLDER
from calibration.profiles.tables import Gpu as Gpu
from calibration.profiles.tables import Law as Law
from calibration.profiles.tables import MeasuredServer as MeasuredServer
from calibration.profiles.tables import ModelShape as ModelShape
from calibration.profiles.tables import ProfileFile as ProfileFile
from calibration.profiles.tables import Release as Release
from calibration.profiles.tables import Roofline as Roofline
from calibration.profiles.tables import ServerMemory as ServerMemory
from calibration.profiles.tables import gpus as gpus
from calibration.profiles.tables import measured as measured
from calibration.profiles.tables import models as models
from calibration.profiles.tables import read as read
from calibration.profiles.tables import roofline as roofline
from calibration.profiles.tables import server_memory as server_memory
