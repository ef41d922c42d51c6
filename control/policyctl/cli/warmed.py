"""The process that has imported everything already, and becomes a copy for each command (`policyctl.warm`).

`policyctl serve` keeps it. It listens at a socket that this user alone can
reach, imports nothing after its start, and forks. What a command does, its copy
does: nothing is left here for the next one. It ends with its server; commands
that run go on to their end.

It reads the journal of its server, so that a copy reads only what is new of it
(`adapters.journal`); a command for another repository reads the whole.

Files that change under it (an upgrade) make it useless, so it says no to every
command then.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import marshal
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl import warm
from policyctl.errors import PolicyctlError

_MOST_BYTES: Final = 16 << 20
"""Of a request; Linux passes at most some 6 MB of arguments and environment to a process."""
_REQUEST_S: Final = 10.0
_STREAMS: Final = ("stdin", "stdout", "stderr")
_LOOK_S: Final = 1.0
_ALSO: Final = (
    *("policyctl.services.rollout.here", "policyctl.services.show.status", "policyctl.client.aio"),
    *("policyctl.adapters.repository", "msgspec.json"),
)
"""What commands import late, besides their own modules."""


@contextlib.contextmanager
def kept(repository: Path) -> Iterator[None]:
    """Keep such a process for a server of `repository` while the block runs.

    Where it cannot start, commands do without.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                [sys.executable, "-m", "policyctl.cli.warmed", str(repository.absolute())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server, and not for commands that run
                cwd="/",
            )
            stack.enter_context(process)
            stack.callback(process.kill)
        yield


def main() -> None:
    """Answer until stdin, which the server holds, is closed; the first argument names its repository."""
    begun_ns = time.time_ns()
    report = _Report()
    atexit.register(report.send)  # first of all, so that it runs last of all
    # A shell's `&` or nohup let the server ignore them; what a copy ignores is its caller's matter.
    for number in warm.PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    Path(warm.folder()).mkdir(mode=0o700, exist_ok=True)
    if not warm.is_ours():
        sys.exit(f"{warm.folder()} is not a folder of this user alone")
    with Path(warm.address() + ".lock").open("w") as lock:
        while not _taken(lock):  # another server of this user keeps one
            if _over(_LOOK_S):
                return
        files = _import()
        if any(_state(file)[-1] > begun_ns for file in files):
            return  # it changed meanwhile: nobody knows what was imported
        states = {file: _state(file) for file in files}
        gc.collect()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with _listening() as listener:
            connection = _copy(listener, Path(sys.argv[1]) if sys.argv[1:] else None)
        if connection is not None:
            lock.close()
            _become(connection, states, report)


def _taken(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _over(timeout_s: float) -> bool:
    """Whether the server has let go of stdin."""
    return bool(select.select([0], [], [], timeout_s)[0])


def _import() -> list[str]:
    """Import what short commands import; every file of it."""
    from policyctl.cli import commands

    importlib.import_module("policyctl.cli.main")
    for command in warm.COMMANDS:
        commands.parser_of(command)
    for module in _ALSO:
        importlib.import_module(module)
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [file for file in files if file]


def _state(file: str) -> tuple[int, int, int]:
    """What changes with a file, also where its time of modification was kept: zeros where the file has gone."""
    try:
        state = Path(file).stat()
    except OSError:
        return (0, 0, 0)
    return (state.st_dev, state.st_ino, state.st_ctime_ns)


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    Path(warm.address()).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(warm.address())
        listener.listen(64)
        yield listener


def _copy(listener: socket.socket, repository: Path | None) -> socket.socket | None:
    """The connection of a command, in a copy that is to run it; None where the server has ended."""
    while True:
        if repository is not None:
            _read_ahead(repository)
        gc.freeze()  # copies look for garbage among what is theirs
        if 0 in select.select([listener.fileno(), 0], [], [])[0]:
            Path(warm.address()).unlink(missing_ok=True)
            return None
        # No descriptor, no process, or nobody there any more: the command runs without.
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with contextlib.closing(connection):
                if warm.is_alike(connection) and os.fork() == 0:
                    return connection.dup()


def _read_ahead(repository: Path) -> None:
    """Read what is new of the journal; what is wrong with it is for commands to say."""
    from policyctl.adapters.repository import Repository

    with contextlib.suppress(PolicyctlError):
        Repository(repository).journal.state()


@dataclass(slots=True)
class _Report:
    """How a command ended, which its copy says when nothing is left to do.

    Attributes:
        connection: To the process that a person started; None in the process that makes copies.
        code: The exit code; that of an error nobody caught, until the command ends otherwise.
    """

    connection: socket.socket | None = None
    code: int = 1

    def send(self) -> None:
        """Say it, if anybody is to hear it."""
        if self.connection is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            with contextlib.suppress(OSError):
                self.connection.send(bytes((self.code & 0xFF,)))


def _become(connection: socket.socket, states: Mapping[str, tuple[int, int, int]], report: _Report) -> None:
    """Run the command that `connection` asks for."""
    alive = None
    with contextlib.suppress(BaseException):  # whatever it is, the caller runs the command
        connection.send(os.getpid().to_bytes(4, sys.byteorder))
        connection.settimeout(_REQUEST_S)
        alive = _taken_over(connection, states)
        connection.settimeout(None)
    if alive is None or not _said(connection, warm.BEGUN):
        os._exit(0)
    threading.Thread(target=_die_with, args=(alive,), daemon=True).start()
    report.connection = connection
    from policyctl.cli.main import main as command

    try:
        command()
    except SystemExit as stop:
        report.code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    else:
        report.code = 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late to interrupt: only the report is left


def _said(connection: socket.socket, word: bytes) -> bool:
    try:
        return connection.send(word) == len(word)
    except OSError:
        return False


def _taken_over(connection: socket.socket, states: Mapping[str, tuple[int, int, int]]) -> int | None:
    """Become the process of a caller; a descriptor that ends with it, None where this one cannot be the same."""
    content, descriptors = _received(connection)
    program, command, umask, nice, ignored, limits, streams = marshal.loads(content)  # noqa: S302 - `is_alike` was asked
    if program != warm.program() or any(_state(file) != state for file, state in states.items()):
        return None
    *opened, here, alive = descriptors
    for number, descriptor in enumerate(opened):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.fchdir(here)
    os.close(here)
    os.umask(umask)
    os.nice(nice - os.nice(0))
    for number, limit in zip(warm.LIMITS, limits, strict=True):
        resource.setrlimit(number, limit)
    sys.argv[:], sys.path[0], environment = command
    os.environ.clear()
    os.environb.update(environment)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # as `cli.main` does before it is imported
    time.tzset()
    for number, (name, how) in enumerate(zip(_STREAMS, streams, strict=True)):
        setattr(sys, name, _stream(number, *how))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    return alive


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The request, and the descriptors that came with it.

    Raises:
        ValueError: They are not whole.
    """
    room = socket.CMSG_SPACE((len(_STREAMS) + 2) * 4)
    content, rights, _, _ = connection.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for _, _, data in rights:
        descriptors.frombytes(data)
    size = int.from_bytes(content[:4], sys.byteorder)
    pieces = bytearray(content[4:])
    while len(pieces) < size <= _MOST_BYTES and (piece := connection.recv(1 << 16)):
        pieces += piece
    if len(pieces) != size or len(descriptors) != len(_STREAMS) + 2:
        raise ValueError(f"{len(pieces)} bytes and {len(descriptors)} descriptors")
    return bytes(pieces), list(descriptors)


def _stream(number: int, encoding: str, errors: str, write_through: bool) -> io.TextIOWrapper:
    """As the interpreter opens it at its start."""
    stream = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115 - open until the process ends
    by_line = number == 2 or os.isatty(number)
    return io.TextIOWrapper(stream, encoding, errors, line_buffering=by_line, write_through=write_through)


def _die_with(alive: int) -> None:
    """End this process when the one that a person started is gone."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
