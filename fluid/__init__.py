"""The symbolic fluid model: flows, equations, balance laws, closed forms. No marching in time."""

from fluid.capacity import Saturation, capacity, saturation, straddle

__all__ = ["Saturation", "capacity", "saturation", "straddle"]
