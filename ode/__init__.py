"""Solvers that march in time: the symbols (Eulerian), the iteration clock, the work of one node."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
