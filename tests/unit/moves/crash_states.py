"""What a process leaves on disk when it is killed, for every point at which that can happen.

A command runs once, in a child process. Before each change to the file system,
in the middle of each write, and before and after each request to the server,
the child copies the world: exactly this is on disk if the process dies there.
A process that dies leaves nothing else, so two points that leave the same
files are one state.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from world import World

from policyctl.adapters import files

_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


def crash_states(world: World, folder: Path, command: Callable[[], object]) -> list[Path]:
    """Run `command` to its end in a child; the worlds, below `folder`, that it leaves if it is killed on its way."""
    folder.mkdir()
    child = os.fork()
    if child == 0:
        try:
            _Copier(world, folder).arm()
            command()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the command failed"
    return sorted(folder.iterdir(), key=lambda state: int(state.name))


class _Copier:
    """Copies the world wherever the process could die, unless the last copy holds the same."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world, self._folder = world, folder
        self._copies, self._last, self._copying = 0, "", False

    def arm(self) -> None:
        """Copy at every crash point from now on. It cannot be undone: this process must end."""
        files.write_all = self._write
        self._world.server.before_call = lambda _name: self._copy()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        changes = event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changes and not self._copying and str(arguments[0]).startswith(str(self._world.root)):
            self._copy()

    def _write(self, descriptor: int, content: bytes) -> None:
        half = len(content) // 2
        os.write(descriptor, content[:half])
        self._copy()
        os.write(descriptor, content[half:])
        self._copy()

    def _copy(self) -> None:
        self._copying = True
        try:
            digest = _digest(self._world.folder)
            if digest != self._last:
                self._last, self._copies = digest, self._copies + 1
                subprocess.run(["cp", "-a", self._world.folder, self._folder / str(self._copies)], check=True)
        finally:
            self._copying = False


def _digest(folder: Path) -> str:
    """Of every path below a folder: its mode, its hard links and its content."""
    digest, numbers = hashlib.sha256(), {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted((*folders, *names)):
            path = Path(parent, name)
            status = path.lstat()
            number = numbers.setdefault(status.st_ino, len(numbers))
            digest.update(f"{path} {status.st_mode} {number} {status.st_size}\n".encode())
            if name in names:
                digest.update(str(path.readlink()).encode() if path.is_symlink() else path.read_bytes())
    return digest.hexdigest()
