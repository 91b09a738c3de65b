"""Typed views of memory by address, for compiled code: records, tables of them, arrays.

An array that is passed from function to function costs Numba atomic reference counts at every step,
which is most of the time of a short kernel. Tables that belong to a Python object and outlive every
call are reached by their address instead, which is a whole number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from serving.compilation import compiled

REAL = np.dtype([("value", np.float64)])
INDEX = np.dtype([("value", np.int64)])


def record_at(dtype: np.dtype) -> Any:
    """Return a compiled cast of an address to a record of ``dtype``."""
    record = from_dtype(dtype)

    @intrinsic
    def cast(typing_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(record))

        return record(types.int64), generate

    return cast


@intrinsic
def _view(typing_context, address, dtype):
    """Cast an address to a record of a NumPy type."""
    record = dtype.dtype

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(record))

    return record(types.int64, dtype), generate


_typed_view: Any = _view


def table(name: str, dtype: np.dtype) -> Any:
    """Return a compiled function of a state and ``i``: row ``i`` of the table ``name``.

    Parameters
    ----------
    name
        The state, a record, holds the address of the table in its field ``NAME_at``.
    dtype
        Of a row, a record; a row can be written to.
    """
    field, size = f"{name}_at", dtype.itemsize

    @compiled
    def row(s, i):
        return _typed_view(s[field] + i * size, dtype)

    return row


_real = record_at(REAL)


@compiled
def real_at(address, i):
    """Return number ``i`` of the float64 array at ``address``."""
    return _real(address + i * 8).value


@intrinsic
def _as_reals(typing_context, address):
    """Cast an address to a pointer to float64."""
    pointer = types.CPointer(types.float64)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.int64), generate


_reals: Any = _as_reals


@compiled
def vector_at(address, size):
    """Return the float64 array of so many numbers at ``address``; it counts no references."""
    return carray(_reals(address), (size,))


@compiled
def matrix_at(address, rows, columns):
    """Return the float64 array (rows, columns) at ``address``; it counts no references."""
    return carray(_reals(address), (rows, columns))
