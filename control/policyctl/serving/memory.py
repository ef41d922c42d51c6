"""How much memory a server and its stubs have resident, and what else they hold.

``/proc`` is read directly: `own_bytes` leaves out the pages of files, which the
kernel gives and takes as it likes and which processes share, so it is what a
leak shows in first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.errors import ServerError

SERVER: Final = "tritonserver"
"""The name of the server among what `usage` lists."""

_INSTANCE: Final = 8
"""Which argument of a stub is its model instance, in Triton 2.51."""


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


def usage(server: int, others: Mapping[str, int] | None = None) -> dict[str, ProcessUse]:
    """What a server, its stubs and some other processes hold, by name.

    Args:
        server: Process id of tritonserver; each of its stubs is named by its model
            instance, ``<model>_<group>_<index>``.
        others: Process ids by name; those that have ended are left out.

    Raises:
        ServerError: No such server runs.
    """
    import psutil

    uses = {SERVER: _use(server)}
    with contextlib.suppress(psutil.Error):
        for stub in psutil.Process(server).children(recursive=True):
            # A stub may end at any time, for example in the middle of a swap.
            with contextlib.suppress(psutil.Error, ServerError):
                uses[instance_of(stub.cmdline()) or f"process {stub.pid}"] = _use(stub.pid)
    for name, pid in (others or {}).items():
        with contextlib.suppress(ServerError):
            uses[name] = _use(pid)
    return uses


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
    fields = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, *unit = rest.split() or [""]
        if number.isdigit():
            fields[name] = int(number) * (1024 if unit == ["kB"] else 1)
    return fields


def instance_of(arguments: list[str]) -> str:
    """The model instance in a stub's arguments; empty where they have another form."""
    return arguments[_INSTANCE] if len(arguments) > _INSTANCE else ""
