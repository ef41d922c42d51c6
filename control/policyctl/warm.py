"""Run a command as a copy of a process that has imported everything already.

To import what a rollback needs takes longer than the rollback. So `policyctl
serve` keeps a process that has done so (`cli.warmed`), and a short command asks
it for a copy of itself. The copy gets the arguments, the environment, the folder
and the open files of the process that a person started, and is the same program
on the same input: its output, its exit code and its signals are those of that
process. Where nobody keeps such a process, or it differs in anything that
matters, the command runs here.

Only a process of the same user, in the same namespaces, by the same interpreter
and files is asked; both sides check it. So nobody can do here what they could
not do without it.

This module imports next to nothing, not pathlib either: every short command pays
for it.
"""

from __future__ import annotations

import _socket
import marshal
import os
import signal
import sys

TYPE_CHECKING = False  # that of typing, without importing it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

COMMANDS = ("status", "history", "rollback", "abort", "pin", "unpin", "unserve")
"""Those that a person waits for, and that import more than they do."""

_ANSWER_S = 2.0
"""For the copy's first word. A machine too busy for it runs the command here."""
_KILLED = 137
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NAMESPACES = ("mnt", "pid", "net", "user", "ipc", "uts")
_LENGTH = 4


def address() -> str:
    """Where the process of this user and interpreter listens."""
    name = "-".join(part for part in sys.prefix.split("/") if part)[-40:]
    return f"{folder()}/{name}.sock"


def folder() -> str:
    """The folder of this user's sockets; `is_ours` says whether it can be trusted."""
    user = os.getuid()
    run = f"/run/user/{user}"
    base = os.environ.get("XDG_RUNTIME_DIR") or (run if os.path.isdir(run) else "/tmp")  # noqa: PTH112, S108 - `is_ours` is asked
    return f"{base}/policyctl-{user}"


def is_ours() -> bool:
    """Whether the folder belongs to this user, and nobody else can look into it."""
    try:
        state = os.lstat(folder())
    except OSError:
        return False
    # A folder, and for its owner alone.
    return state.st_uid == os.getuid() and state.st_mode & 0o170777 == 0o040700


def identity() -> tuple[Any, ...]:
    """What must be the same on both sides, for a copy to do what this process would do."""
    variables = sorted(item for item in os.environb.items() if item[0].startswith((b"PYTHON", b"LD_", b"GRPC_")))
    namespaces = tuple(os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES)  # noqa: PTH115
    users = (os.getresuid(), os.getresgid(), sorted(os.getgroups()))
    interpreter = (sys.prefix, sys.version, tuple(sys.flags), sys.getfilesystemencoding())
    return (users, namespaces, interpreter, tuple(variables))


def is_same_user(connection: _socket.socket) -> bool:
    """Whether the process at the other end is one of this user."""
    process_user_group = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(process_user_group[4:8], sys.byteorder) == os.getuid()


def run(arguments: Sequence[str]) -> int | None:
    """Run a command line in a copy.

    Returns:
        Its exit code; None where the command was not begun, and has to run here.
    """
    command = next((each for each in arguments if not each.startswith("-")), None)
    if command not in COMMANDS or "_POLICYCTL_COMPLETE" in os.environ or not is_ours():
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        copy = _begun(connection, arguments)
        return None if copy is None else _ended(connection, copy)
    finally:
        connection.close()


def _begun(connection: _socket.socket, arguments: Sequence[str]) -> int | None:
    """A descriptor of the copy that runs the command; None where none does."""
    alive, kept = os.pipe()  # its other end closes when this process dies, however it does
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        connection.connect(address())
        if not is_same_user(connection):
            return None
        connection.settimeout(_ANSWER_S)
        _send(connection, _request(arguments), (0, 1, 2, here, alive))
        number = int.from_bytes(connection.recv(_LENGTH), sys.byteorder)
        if not number:
            return None
        copy = os.pidfd_open(number)
        connection.settimeout(None)
        connection.sendall(b"!")
    except (OSError, ValueError):
        return None
    else:
        return copy
    finally:
        os.close(alive)
        os.close(here)
        os.set_inheritable(kept, False)


def _request(arguments: Sequence[str]) -> bytes:
    umask = os.umask(0o077)
    os.umask(umask)
    streams = tuple((stream.encoding, stream.errors) for stream in (sys.stdin, sys.stdout, sys.stderr))
    program = sys.argv[0]
    return marshal.dumps((identity(), [program, *arguments], dict(os.environb), umask, streams))


def _send(connection: _socket.socket, content: bytes, descriptors: Sequence[int]) -> None:
    whole = len(content).to_bytes(_LENGTH, sys.byteorder) + content
    rights = b"".join(each.to_bytes(4, sys.byteorder) for each in descriptors)
    sent = connection.sendmsg([whole], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    connection.sendall(whole[sent:])


def _ended(connection: _socket.socket, copy: int) -> int:
    """Wait for the copy, and pass on to it what this process is signalled."""
    passed_on: list[int] = []

    def pass_on(number: int, _: object) -> None:
        passed_on.append(number)
        try:
            signal.pidfd_send_signal(copy, number)
        except ProcessLookupError:
            return  # it has just ended

    for number in _FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    if code := connection.recv(1):
        return code[0]
    if passed_on:  # the copy died of it, so this process does
        signal.signal(passed_on[-1], signal.SIG_DFL)
        os.kill(os.getpid(), passed_on[-1])
    sys.stderr.write("The process of this command was killed. What it did until then: policyctl status\n")
    return _KILLED
