"""Which TCP ports are free, who holds one that is not, and whether a Triton answers there."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import Any

import psutil


def is_free(port: int, *, host: str) -> bool:
    """Whether a server could listen on `port` of `host` now.

    Connections that wind down (TIME_WAIT) do not count, as they do not hinder
    a server that sets SO_REUSEADDR, which Triton does.
    """
    with contextlib.closing(socket.socket(_family(host), socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_ports(count: int, *, host: str = "127.0.0.1") -> tuple[int, ...]:
    """Ports that nobody listened on a moment ago, all different.

    Each has just had a connection, which winds down for a minute. Meanwhile the
    kernel gives the port to nobody who asks for any, such as another caller of
    this function, while a server that sets SO_REUSEADDR may have it. A process that
    asks for that very port can still come first; so use it for tests and
    trials, and configure ports where a client has to find the server.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket(_family(host), socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, 0))
            probe.listen(1)
            ports.append(int(probe.getsockname()[1]))
            with socket.create_connection((host, ports[-1]), timeout=1.0):
                # Who hangs up first keeps the port in TIME_WAIT.
                probe.accept()[0].close()
    return tuple(ports)


def holder(port: int) -> str:
    """Who listens on `port`, as ``name (pid N)``; empty where that is unknown."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    for connection in connections:
        if _listens_on(connection, port) and connection.pid:
            with contextlib.suppress(psutil.Error):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def listens(pid: int, port: int) -> bool:
    """Whether process `pid` itself listens on `port`."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except (psutil.Error, OSError):
        return False
    return any(_listens_on(connection, port) for connection in connections)


def is_live(port: int, *, host: str) -> bool:
    """Whether a Triton says by HTTP on `port` of `host` that it lives; whose it is, it does not say."""
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens_on(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
