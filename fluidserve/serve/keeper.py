"""The file that the state is kept in, so that it outlives the process, even one that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fluidserve.serve.service import Service
from scheduling import Predictor
from scheduling.corrector_arrays import KEPT, corrector_from_arrays, corrector_to_arrays
from scheduling.snapshot import VERSION, from_arrays, to_arrays
from serving import FileAccessError, FluidServeError

FORMAT = "fluidserve-serve-1"
"""What the file says it is."""

LARGEST = 1 << 30
"""Bytes of a file that is read."""


def identity_of(predictor: Predictor) -> str:
    """Return a digest of the fleet, the lengths and the level: a state is of no other ones."""
    lengths = predictor.lengths
    fleet = [[each.engine, asdict(cast(Any, each))] for each in predictor.instances]
    digest = hashlib.sha256(json.dumps([fleet, predictor.level], default=str).encode())
    for each in (lengths.survive, lengths.edges, lengths.estimates):
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()


def digest_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest of everything that a state holds: numbers that were changed are no state."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(arrays):
        each = arrays[name]
        digest.update(f"{name} {each.dtype.str} {each.shape} ".encode())
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()


class Keeper:
    """Writes the state of a service into a file, and reads it again.

    Parameters
    ----------
    path
        The file.
    every : [s]
        Time between two writes, if anything has changed.
    """

    def __init__(self, path: Path, every: float) -> None:
        self.path, self.every = path, every
        self._written, self._identity = 0, ""
        self.writes = self.failures = 0

    def read(self, service: Service) -> None:
        """Let a service go on from the file, if there is one.

        Raises
        ------
        FluidServeError
            If the file is none of this program, of another fleet, or damaged.
        """
        try:
            if self.path.stat().st_size > LARGEST:
                raise FluidServeError("it is too large for a state")
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if "format" not in arrays or str(arrays["format"]) != FORMAT:
                raise FluidServeError(f"it is no state of the format {FORMAT}")
            if str(arrays["identity"]) != identity_of(service.predictor):
                raise FluidServeError(
                    "it is the state of another fleet, other lengths or another level; give "
                    "another file, or delete this one to begin anew"
                )
            digest = arrays.pop("digest", None)
            is_of_version = arrays["version"].tolist() == [VERSION]  # others are told of as such
            if is_of_version and (digest is None or str(digest) != digest_of(arrays)):
                raise FluidServeError(
                    "it is damaged, or somebody has changed it; give another file, or delete this "
                    "one to begin anew"
                )
            latest = float(arrays["latest"])
            if service.corrector is not None and KEPT in arrays:
                corrector_from_arrays(service.corrector, arrays)
            from_arrays(service.predictor, arrays)
            service.latest = latest
        except FileNotFoundError:
            return
        except FluidServeError as wrong:
            raise FluidServeError(f"--state {self.path}: {wrong}") from wrong
        except OSError as wrong:
            raise FileAccessError(f"--state {self.path}: {wrong.strerror or wrong}") from wrong
        except (ValueError, KeyError, EOFError, TypeError, IndexError, zipfile.BadZipFile) as wrong:
            raise FluidServeError(f"--state {self.path}: it is no state, or damaged") from wrong
        service.restored = True

    def packed(self, service: Service) -> bytes:
        """Return what the file holds."""
        self._identity = self._identity or identity_of(service.predictor)
        about = {"format": FORMAT, "identity": self._identity}
        arrays: dict[str, Any] = {name: np.array(text) for name, text in about.items()}
        arrays |= to_arrays(service.predictor) | {"latest": np.array(service.latest)}
        if service.corrector is not None:
            arrays |= corrector_to_arrays(service.corrector)
        arrays["digest"] = np.array(digest_of(arrays))
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    def write(self, content: bytes) -> None:
        """Put content in the place of the file, whole or not at all.

        Raises
        ------
        FileAccessError
            If it cannot be written.
        """
        partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except OSError as wrong:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise FileAccessError(f"--state {self.path}: {wrong.strerror or wrong}") from wrong

    async def keep(self, service: Service) -> None:
        """Write the state if it has changed; one that cannot be written is told of in the log."""
        if service.changes == self._written:
            return
        changes, content = service.changes, self.packed(service)
        try:
            await asyncio.to_thread(self.write, content)
        except FileAccessError as wrong:
            self.failures += 1
            logging.getLogger("fluidserve.serve").error("the state is not kept: %s", wrong)
            return
        self.writes += 1
        self._written = changes

    @asynccontextmanager
    async def lifespan(self, service: Service) -> AsyncIterator[None]:
        """Keep the state inside the block every so often, and once more at its end."""
        ends = asyncio.Event()  # a write goes on to its end: two at a time would spoil the file

        async def often() -> None:
            while not ends.is_set():
                try:
                    await asyncio.wait_for(ends.wait(), self.every)
                except TimeoutError:
                    await self.keep(service)

        task = asyncio.create_task(often())
        try:
            yield
        finally:
            ends.set()
            await task
            await self.keep(service)
