"""How much memory a server and its stubs have resident."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

import psutil

from policyctl.errors import ServerError

_INSTANCE: Final = 8


@dataclass(frozen=True, slots=True)
class StubMemory:
    """One backend process.

    Attributes:
        pid: Its process id.
        instance: The model instance that it runs, ``<model>_<group>_<index>``;
            empty where it cannot be told.
        rss_bytes: Resident memory.
    """

    pid: int
    instance: str
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a server and of each of its stubs, by process id."""

    server_rss_bytes: int
    stubs: tuple[StubMemory, ...]


def measure(pid: int) -> Memory:
    """Resident memory of server `pid`, now.

    Raises:
        ServerError: There is no such process.
    """
    try:
        server = psutil.Process(pid)
        resident = server.memory_info().rss
        children = server.children(recursive=True)
    except psutil.Error as error:
        raise ServerError(f"the server's memory cannot be read: {error}") from error
    stubs = []
    for child in children:
        # A stub may end at any time, for example in the middle of a swap.
        with contextlib.suppress(psutil.Error):
            stubs.append(StubMemory(child.pid, instance_of(child.cmdline()), child.memory_info().rss))
    return Memory(resident, tuple(sorted(stubs, key=lambda stub: stub.pid)))


def instance_of(arguments: list[str]) -> str:
    """The model instance in a stub's arguments: the eighth of them, in Triton 2.51."""
    return arguments[_INSTANCE] if len(arguments) > _INSTANCE else ""
