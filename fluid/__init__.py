"""The symbolic fluid model: flows, equations, balance laws, closed forms. No marching in time."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
