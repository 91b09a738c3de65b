"""Batch-time laws from measurement: step times, running servers, profiles of models on cards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
