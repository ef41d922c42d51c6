"""The backend processes of a server: which model and slot each has, and how one is ended."""

from __future__ import annotations

import contextlib
from pathlib import PurePath
from typing import Final

import psutil

_STUB: Final = "triton_python_backend_stub"
_ARTIFACT: Final = 1
"""Which argument of a stub is the path of its artifact, in Triton 2.51."""


def end_stubs(server_pid: int, name: str, slot: int) -> int:
    """End every backend process of one slot of the Triton model `name`; the number of those ended.

    Args:
        server_pid: Of tritonserver, a process that is visible from here.
        name: The Triton model.
        slot: Its version.
    """
    ended = 0
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(server_pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if _serves(child.cmdline(), name, slot):
                    child.kill()
                    ended += 1
    return ended


def _serves(arguments: list[str], name: str, slot: int) -> bool:
    if len(arguments) <= _ARTIFACT or PurePath(arguments[0]).name != _STUB:
        return False
    folder = PurePath(arguments[_ARTIFACT]).parent
    return (folder.parent.name, folder.name) == (name, str(slot))
