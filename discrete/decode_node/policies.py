"""Policies a user writes in Python: found, compiled, and called from the kernel by address.

A policy is one function for either use. It returns a number for a request; the smallest goes
first (is admitted, or is evicted). Ties: the earliest in WAITING is admitted, the latest in RUNNING
is evicted. Not-a-number comes last::

    def shortest_prompt_but_nobody_starves(
        now, arrival_time, priority, prefill_length, decode_length, decoded, evictions, idle_batches
    ):
        return prefill_length - 10.0 * (now - arrival_time)
"""

from __future__ import annotations

import inspect
import math
import runpy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import cfunc, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from discrete.decode_node.memory import arrival_time, history, request
from serving import ConfigError
from serving.compilation import compiled
from serving.errors import hint

PARAMETERS = (
    "now",
    "arrival_time",
    "priority",
    "prefill_length",
    "decode_length",
    "decoded",
    "evictions",
    "idle_batches",
)
"""Arguments of a policy: the time and the request's arrival [time], its priority, p and D [tokens]
(D is the predicted length with ``length_source: predicted``), tokens decoded so far, how often it
was evicted, and batches since it last executed (0: in the last batch, -1: never)."""

SIGNATURE = types.float64(types.float64, types.float64, *[types.int64] * 6)


class UserPolicy:
    """A compiled policy; keep it alive as long as the kernel may call its ``address``."""

    def __init__(self, key: str, reference: str) -> None:
        function = _find(key, reference)
        _check_parameters(key, reference, function)
        try:
            self._compiled = cfunc(SIGNATURE, error_model="numpy")(function)
        except (NumbaError, NotImplementedError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(
                key, reference, f"a function that Numba can compile ({_first_line(error)})"
            ) from error

    @property
    def address(self) -> int:
        """Address of the compiled function."""
        return int(self._compiled.address or 0)


def user_policy(key: str, reference: str) -> UserPolicy:
    """Return the compiled policy of ``path.py:function``, compiled once per process and edit.

    Raises
    ------
    ConfigError
        If there is no such file or function, or it has other parameters or does not compile.
    """
    path = Path(reference.rpartition(":")[0])
    return _compiled_policy(key, reference, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=64)
def _compiled_policy(key: str, reference: str, edited: int) -> UserPolicy:
    return UserPolicy(key, reference)


def _find(key: str, reference: str) -> Callable[..., Any]:
    path, _, name = reference.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(key, reference, f"path.py:function; there is no file {path!r}")
    try:
        module = runpy.run_path(path)
    except Exception as error:
        raise ConfigError(
            key, reference, f"a file that Python can run ({_first_line(error)})"
        ) from error
    function = module.get(name)
    function = getattr(function, "py_func", function)
    if not inspect.isfunction(function):
        known = [each for each, value in module.items() if inspect.isfunction(value)]
        no_such = f"path.py:function; {path} defines no function {name!r}{hint(name, known)}"
        raise ConfigError(key, reference, no_such)
    return function


def _check_parameters(key: str, reference: str, function: Callable[..., Any]) -> None:
    names = tuple(inspect.signature(function).parameters)
    if names != PARAMETERS:
        raise ConfigError(key, reference, f"a function of ({', '.join(PARAMETERS)})")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith(("Failed in", "File", "During"))]
    return f"{type(error).__name__}: {(plain or lines or ['no message'])[0]}"


@intrinsic
def _call_at(
    typing_context,
    address,
    now,
    arrival_time,
    priority,
    prefill_length,
    decode_length,
    decoded,
    evictions,
    idle_batches,
):
    """Call the C function at ``address``; an integer argument keeps the kernel cacheable."""
    signature = types.float64(types.int64, *SIGNATURE.args)

    def generate(context, builder, _, arguments):
        real, whole = ir.DoubleType(), ir.IntType(64)
        kind = ir.FunctionType(real, [real, real] + [whole] * 6)
        pointer = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(pointer, arguments[1:])

    return signature, generate


call_at: Any = _call_at


@compiled
def user_key(s, address, r, decoded, last_batch):
    """Return the policy's number for request ``r`` now; infinity for not-a-number."""
    q, h = request(s, r), history(s, r)
    key = call_at(
        address,
        s.time,
        arrival_time(s, r),
        h.priority,
        q.prefill,
        h.length,
        decoded,
        h.swaps + h.sacrifices,
        s.batch - last_batch if last_batch > 0 else -1,
    )
    return key if key == key else math.inf
