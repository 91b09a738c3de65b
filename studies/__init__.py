"""Questions put to models and engines: compare, analyze, tune, sweep. A study contains no model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
