"""Run a command as a copy of a process that has imported everything already.

To import what a rollback needs takes longer than the rollback. So `policyctl
serve` keeps a process that has done so (`cli.warmed`), and a short command asks
it for a copy of itself. The copy gets the arguments, the environment, the folder,
the limits and the open files of the process that a person started, and is the
same program on the same input: its output, its exit code and its signals are
those of that process. Where nobody keeps such a process, or it differs in
anything that matters, the command runs here.

Only a process of the same user, with the same rights, in the same namespaces
and the same root folder is asked, or answered. Both sides read that from the
kernel, before either hands anything over. So nobody can do here what they could
not do without it.

This module imports next to nothing, not pathlib either: every short command pays
for it.
"""

from __future__ import annotations

import _socket
import marshal
import os
import resource
import signal
import sys

TYPE_CHECKING = False  # that of typing, without importing it
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

COMMANDS = ("status", "history", "rollback", "abort", "pin", "unpin", "unserve")
"""Those that a person waits for, and that import more than they do."""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that the copy gets as well."""
LIMITS = range(16)
"""All of Linux's resource limits."""
BEGUN = b"y"

_GREETING_S = 2.0
"""For the copy's first word. A machine too busy for it runs the command here."""
_KILLED = 137
_NAMESPACES = ("mnt", "pid", "net", "user", "ipc", "uts", "cgroup")
_RIGHTS = (b"Uid", b"Gid", b"Groups", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb", b"NoNewPrivs", b"Seccomp")


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


def is_alike(connection: _socket.socket) -> bool:
    """Whether the process at the other end has this one's user, rights, namespaces and root folder."""
    process_user_group = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    peer = int.from_bytes(process_user_group[:4], sys.byteorder)
    try:
        return _standing(str(peer)) == _standing("self")
    except OSError:
        return False


def _standing(process: str) -> tuple[Any, ...]:
    """What the kernel says of a process: who it is, what it may, and where."""
    root = os.stat(f"/proc/{process}/root/")  # noqa: PTH116
    namespaces = [os.readlink(f"/proc/{process}/ns/{name}") for name in _NAMESPACES]  # noqa: PTH115
    with open(f"/proc/{process}/status", "rb") as lines:  # noqa: PTH123
        rights = [line for line in lines if line.partition(b":")[0] in _RIGHTS]
    return (root.st_dev, root.st_ino), namespaces, rights


def program() -> tuple[Any, ...]:
    """Which program this is; variables that Python, the loader or a library read at their start belong to it."""
    variables = sorted(item for item in os.environb.items() if item[0].startswith((b"PYTHON", b"LD_", b"GRPC_")))
    return (os.path.realpath(__file__), sys.prefix, sys.version, tuple(sys.flags), tuple(variables))


def run(arguments: Sequence[str]) -> int | None:
    """Run a command line in a copy.

    Returns:
        Its exit code; None where the command was not begun, and has to run here.
    """
    if not arguments or arguments[0] not in COMMANDS or None in (sys.stdin, sys.stdout, sys.stderr):
        return None
    if "_POLICYCTL_COMPLETE" in os.environ or "PYTHONPATH" in os.environ or not is_ours():
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        copy = _greeted(connection)
        return None if copy is None else _carried_out(connection, copy, arguments)
    finally:
        connection.close()


def _greeted(connection: _socket.socket) -> int | None:
    """A descriptor of the copy that waits for a command; None where nobody answers."""
    try:
        connection.settimeout(_GREETING_S)
        connection.connect(address())
        if not is_alike(connection):
            return None
        number = int.from_bytes(connection.recv(4), sys.byteorder)
        copy = os.pidfd_open(number) if number else None
        connection.settimeout(None)
    except OSError:
        return None
    return copy


def _carried_out(connection: _socket.socket, copy: int, arguments: Sequence[str]) -> int | None:
    """Hand the command over, pass on to the copy what this process is signalled, and wait for its end."""
    passed_on: list[int] = []

    def send(number: int) -> None:
        try:
            signal.pidfd_send_signal(copy, number)
        except ProcessLookupError:
            return  # it has just ended

    def pass_on(number: int, _: object) -> None:
        passed_on.append(number)
        send(number)

    def stop(_number: int, _: object) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        send(signal.SIGCONT)

    before = {number: signal.getsignal(number) for number in (*PASSED_ON, signal.SIGTSTP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop if number == signal.SIGTSTP else pass_on)
    try:
        begun = _handed_over(connection, arguments)
        if begun and (code := connection.recv(1)):
            return code[0]
    except ConnectionError:
        begun = True  # it may have begun: nothing is run twice
    if passed_on:  # the copy died of it, so this process does
        signal.signal(passed_on[-1], signal.SIG_DFL)
        os.kill(os.getpid(), passed_on[-1])
    if begun:
        sys.stderr.write("The process of this command was killed. What it did until then: policyctl status\n")
        return _KILLED
    for number, handler in before.items():
        signal.signal(number, handler)
    return None


def _handed_over(connection: _socket.socket, arguments: Sequence[str]) -> bool:
    """Whether the copy has begun; it says so before it does anything."""
    try:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    alive, _kept = os.pipe()  # its other end closes when this process dies, however it does
    try:
        _send(connection, _request(arguments), (0, 1, 2, here, alive))
    except OSError:  # the copy has ended, and has said nothing
        return False
    finally:
        os.close(alive)
        os.close(here)
    return connection.recv(1) == BEGUN


def _request(arguments: Sequence[str]) -> bytes:
    umask = os.umask(0o077)
    os.umask(umask)
    streams = [(s.encoding, s.errors, getattr(s, "write_through", False)) for s in (sys.stdin, sys.stdout, sys.stderr)]
    ignored = [int(number) for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
    limits = [resource.getrlimit(number) for number in LIMITS]
    command = ([sys.argv[0], *arguments], sys.path[0], dict(os.environb))
    return marshal.dumps((program(), command, umask, os.nice(0), ignored, limits, streams))


def _send(connection: _socket.socket, content: bytes, descriptors: Iterable[int]) -> None:
    whole = len(content).to_bytes(4, sys.byteorder) + content
    rights = b"".join(each.to_bytes(4, sys.byteorder) for each in descriptors)
    sent = connection.sendmsg([whole], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    connection.sendall(whole[sent:])
