"""Where the local lane of a server listens: a UNIX socket, of which server and clients have the same idea.

``local:`` is the usual one of this user, ``local:/path`` is another one. Only
processes of the user that the server runs as are answered there; each side asks
the kernel who the other one is.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from policyctl import warm
from policyctl.errors import UsageError

SCHEME: Final = "local:"
_NAME: Final = "lane.sock"
_MOST_BYTES: Final = 90
"""Of a path. A socket's address has 107, and the server gives it a longer name for a moment."""
_CREDENTIALS: Final = struct.Struct("=iII")


def is_local(url: str) -> bool:
    """Whether `url` names a lane."""
    return url.startswith(SCHEME)


def is_usual(url: str) -> bool:
    """Whether `url` names the usual lane of this user."""
    return url == SCHEME


def path_of(url: str) -> str:
    """The path of the socket.

    Raises:
        UsageError: It is not absolute, not printable, or longer than a socket's address may be.
    """
    path = url.removeprefix(SCHEME) or f"{warm.folder()}/{_NAME}"
    # What is not printable may have no bytes (a surrogate), or may end the address (a zero).
    is_path = path.startswith("/") and not path.endswith("/") and path.isprintable()
    if not is_path or len(path.encode()) > _MOST_BYTES:
        raise UsageError(
            f"{url!r} names no UNIX socket",
            remedy=f"Use local: or local:/path, with an absolute path of at most {_MOST_BYTES} bytes.",
        )
    return path


def connect(path: str, timeout_s: float) -> socket.socket:
    """A connection to the socket at `path`.

    Raises:
        OSError: Nobody listens there, or not in time.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout_s)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def user_of(connection: socket.socket) -> int:
    """The user of the process at the other end."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])
