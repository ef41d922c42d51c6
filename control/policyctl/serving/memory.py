"""How much memory a server and its stubs have resident, and what else they hold.

``/proc`` is read directly: `own_bytes` leaves out the pages of files, which the
kernel gives and takes as it likes and which processes share, so it is what a
leak shows in first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process holds.

    Attributes:
        pid: Its process id.
        rss_bytes: Resident, with what it shares.
        own_bytes: Resident, without pages of files.
        pss_bytes: Resident, each shared page divided by those who share it; 0 where it cannot be read.
        peak_bytes: The most that was ever resident.
        descriptors: Open file descriptors.
        threads: Threads.
    """

    pid: int
    rss_bytes: int
    own_bytes: int
    pss_bytes: int
    peak_bytes: int
    descriptors: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def usage(server: int, others: Mapping[str, int]) -> dict[str, ProcessUse]:
    """What a server, its stubs and some other processes hold, by name.

    Args:
        server: Process id of tritonserver; its stubs are named by their instances.
        others: Process ids by name; those that have ended are left out.

    Raises:
        ServerError: There is no such server.
    """
    found = {"tritonserver": _use(server)}
    for stub in measure(server).stubs:
        with contextlib.suppress(ServerError):
            found[stub.instance or f"process {stub.pid}"] = _use(stub.pid)
    for name, pid in others.items():
        with contextlib.suppress(ServerError):
            found[name] = _use(pid)
    return found


def shared_bytes(folder: Path, prefixes: Iterable[str]) -> int:
    """What the files with these prefixes take of ``/dev/shm``."""
    wanted, total = tuple(prefixes), 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(wanted):
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _use(pid: int) -> ProcessUse:
    try:
        status = _fields(Path(f"/proc/{pid}/status").read_text())
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        pss = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text()).get("Pss", 0)
    except OSError as error:
        raise ServerError(f"process {pid} cannot be looked at: {error.strerror}") from error
    if "VmRSS" not in status:
        raise ServerError(f"process {pid} has ended")
    return ProcessUse(
        pid=pid,
        rss_bytes=status["VmRSS"],
        own_bytes=status.get("RssAnon", 0) + status.get("RssShmem", 0),
        pss_bytes=pss,
        peak_bytes=status.get("VmHWM", status["VmRSS"]),
        descriptors=descriptors,
        threads=status.get("Threads", 0),
    )


def _fields(text: str) -> dict[str, int]:
    """``Name:  123 kB`` in bytes, ``Name: 123`` as it is."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


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
