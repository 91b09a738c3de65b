"""Calibration fits batch-time laws to measurements: step times, running servers, profiles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
