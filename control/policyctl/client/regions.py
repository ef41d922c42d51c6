"""Files in ``/dev/shm`` through which a client and a server on one machine pass tensors.

No request is made here: `grpc_memory` announces a region to the server, this module
owns the memory. Each region has one user at a time and is used again from call
to call; what a call needs is laid out each time.

Names are ``policyctl-client-<pid>-<random>-<number>``, for the file and for
the server alike. The file is locked for as long as its client lives (`claims`),
and `policyctl serve` sweeps what dead clients left (`abandoned`).

A region whose call got no answer is not used again while the server may still
write to it: it is laid aside, and given up some time later.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import secrets
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl import claims
from policyctl.claims import FOLDER
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError

PREFIX: Final = "policyctl-client-"
NEEDED: Final = (
    "Shared memory needs client and server on one machine, as one user, with one /dev/shm (containers: --ipc=host)."
    " Triton 26.04 and later must be started with --allow-client-shm=true. Otherwise leave it off."
)
MOST_REGIONS: Final = 64
"""Of one client; calls beyond it travel over the wire, as without shared memory."""

COOLING_S: Final = 30.0
"""How long after its unanswered call a region may still be written to by the server, at most."""

_SMALLEST: Final = 4096
_ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies in a region."""

    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the tensors of one call lie; made once for all calls that are alike, and known by its identity.

    Attributes:
        inputs: In the order in which they are sent.
        outputs: Likewise.
        size_bytes: Of everything.
    """

    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    size_bytes: int

    @classmethod
    def of(cls, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[TensorSpec]) -> Layout:
        """Inputs with their rows, and room for as many rows of each output."""
        rows = len(next(iter(inputs.values())))
        wanted = [(name, a.shape, a.dtype.name) for name, a in inputs.items()]
        wanted += [(spec.name, (rows, *spec.shape), spec.dtype) for spec in outputs]
        places, offset = [], 0
        for name, shape, dtype in wanted:
            place = Place(name, offset, shape, dtype)
            places.append(place)
            offset += -(-place.size_bytes // _ALIGNMENT) * _ALIGNMENT
        return cls(tuple(places[: len(inputs)]), tuple(places[len(inputs) :]), offset)


@dataclass(eq=False, slots=True)
class Region:
    """One file, mapped and locked.

    Attributes:
        name: Of the file, and for the server.
        size_bytes: All of it.
        memory: The mapping.
        descriptor: Of the file; holds the lock.
        registered: The server knows it, as far as we know.
        prepared: What describes the tensors of a layout to the server.
        laid_aside: When its call got no answer, by the monotonic clock.
    """

    name: str
    size_bytes: int
    memory: mmap.mmap
    descriptor: int
    registered: bool = False
    prepared: dict[tuple[Layout, str], bytes] = field(default_factory=dict)
    laid_aside: float = 0.0

    def write(self, layout: Layout, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put the inputs where `layout` says."""
        for place in layout.inputs:
            self._view(place)[...] = arrays[place.name]

    def read(self, place: Place) -> NDArray[Any]:
        """A copy of an output, which the next call may overwrite."""
        return self._view(place).copy()

    def _view(self, place: Place) -> NDArray[Any]:
        return np.ndarray(place.shape, place.dtype, self.memory, place.offset)


class Regions:
    """The regions of one client; threads may share it.

    Args:
        folder: Where regions are; another one in tests.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._base = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
        self._numbers = itertools.count()
        self._free: list[Region] = []
        self._aside: list[Region] = []
        self._all: dict[str, Region] = {}
        # A process that ends without closing its client still takes its files along, unless it is killed.
        self._finalizer = weakref.finalize(self, _unlink_all, folder, self._all, os.getpid())

    def take(self, size_bytes: int) -> Region | None:
        """A region of at least `size_bytes` for one call; None where there are too many already.

        Raises:
            UnsupportedError: The file system does not give so much.
        """
        for region in self._free[::-1]:
            if region.size_bytes >= size_bytes:
                with contextlib.suppress(ValueError):  # another thread was quicker
                    self._free.remove(region)
                    return region
        if len(self._all) >= MOST_REGIONS:
            return None
        region = _make(self._folder, f"{self._base}{next(self._numbers)}", size_bytes)
        self._all[region.name] = region
        return region

    def give(self, region: Region) -> None:
        """Its call is over: the next one may have it."""
        self._free.append(region)

    def lay_aside(self, region: Region) -> None:
        """Its call got no answer: the server may still use it."""
        region.laid_aside = time.monotonic()
        self._aside.append(region)

    def cooled(self) -> Iterator[Region]:
        """Regions that no server uses any more, each once; the caller unregisters and drops them."""
        while self._aside and time.monotonic() - self._aside[0].laid_aside > COOLING_S:
            try:
                yield self._aside.pop(0)
            except IndexError:
                return

    def all(self) -> tuple[Region, ...]:
        """Every region there is."""
        return tuple(self._all.values())

    def drop(self, region: Region) -> None:
        """Remove the file; the memory goes once the server lets go of it too."""
        if self._all.pop(region.name, None) is not None:
            _unlink(self._folder, region)

    def close(self) -> None:
        """Remove every file."""
        self._finalizer()
        self._all.clear()
        self._free.clear()
        self._aside.clear()


@contextmanager
def abandoned(folder: Path = FOLDER) -> Iterator[tuple[str, ...]]:
    """Names of the regions whose clients are gone, locked while the block runs and removed after it.

    Regions of other users are left alone.
    """
    with claims.orphans(folder, PREFIX) as names:
        try:
            yield names
        finally:
            for name in names:
                with contextlib.suppress(OSError):
                    (folder / name).unlink()


def _make(folder: Path, name: str, size_bytes: int) -> Region:
    size = max(_SMALLEST, 1 << (size_bytes - 1).bit_length())
    path = folder / name
    try:
        while (descriptor := claims.make(path)) is None:
            path.unlink(missing_ok=True)
        try:
            # Taken now: a page that is missing later would end this process and the server's by a signal.
            os.posix_fallocate(descriptor, 0, size)
            return Region(name, size, mmap.mmap(descriptor, size), descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
    except OSError as error:
        raise UnsupportedError(
            f"shared memory: {folder} does not give {size} bytes ({error.strerror})",
            remedy="Give it more (docker run --shm-size=256m), mind its permissions, or leave shared_memory off.",
        ) from error


def _unlink(folder: Path, region: Region) -> None:
    with contextlib.suppress(OSError):
        (folder / region.name).unlink()
    with contextlib.suppress(OSError):
        os.close(region.descriptor)


def _unlink_all(folder: Path, regions: dict[str, Region], owner: int) -> None:
    if os.getpid() != owner:  # a fork that ends: the memory is its parent's
        return
    for region in tuple(regions.values()):
        _unlink(folder, region)
