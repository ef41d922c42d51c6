"""A server's end of the local lane in some lines, which answers whatever a test says."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE_S = 60.0
Reply = Callable[[bytes, memoryview], bytes | None]


def answer(code: int = 0, request_id: bytes = b"id", rest: bytes = b"", needed: int = 0, slot: int = 3) -> bytes:
    return struct.pack("<IIqqqQ", code, 1, slot, -1, 7, needed) + bytes((len(request_id),)) + request_id + rest


def action_at(offset: int, *, size: int = 8, number: int = 11, shape: tuple[int, ...] = (1, 2)) -> bytes:
    head = b"\x051.0.0" + b"\x06action" + struct.pack("<BBQQ", number, len(shape), offset, size)
    return head + struct.pack(f"<{len(shape)}q", *shape)


class Lane:
    """Takes sessions, and answers each request by `reply`, which sees the memory; None says nothing."""

    def __init__(self, path: str, reply: Reply) -> None:
        self.url = f"local:{path}"
        self.sizes: list[int] = []
        self.requests: list[bytes] = []
        self.ended = threading.Semaphore(0)
        self.before_greeting: Callable[[], None] = lambda: None
        self.missing_bytes = 0
        self.seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        self._reply = reply
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def end_sessions(self) -> None:
        """As the end of a server's process does."""
        for connection in self._connections:
            connection.shutdown(socket.SHUT_RDWR)
            assert self.ended.acquire(timeout=PATIENCE_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._session, args=(connection,), daemon=True).start()

    def _session(self, connection: socket.socket) -> None:
        self._connections.append(connection)
        with connection, contextlib.suppress(OSError):
            self.before_greeting()
            connection.send(answer())
            if not (hello := connection.recv(64)):
                return
            _, _, size = struct.unpack("<IIQ", hello)
            self.sizes.append(size)
            file = os.memfd_create("lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            size -= self.missing_bytes
            os.ftruncate(file, size)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, self.seals)
            socket.send_fds(connection, [answer()], [file])
            memory = memoryview(mmap.mmap(file, size))
            os.close(file)
            while request := connection.recv(1 << 16):
                self.requests.append(request)
                if (said := self._reply(request, memory)) is not None:
                    connection.send(said)
        self.ended.release()


@contextlib.contextmanager
def lanes() -> Iterator[Callable[[Reply], Lane]]:
    """Starts such servers; pytest's folders are too deep for a socket."""
    with tempfile.TemporaryDirectory(prefix="lane-") as folder, contextlib.ExitStack() as stack:

        def start(reply: Reply) -> Lane:
            server = Lane(f"{folder}/{len(list(Path(folder).iterdir()))}", reply)
            stack.callback(server.close)
            return server

        yield start
