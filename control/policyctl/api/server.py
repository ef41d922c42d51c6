"""Run the control API: on which address, alone on its repository, until told to stop."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvicorn

from policyctl.adapters import lock
from policyctl.adapters.audit import FOLDER
from policyctl.adapters.token_store import TokenFile
from policyctl.api.app import create
from policyctl.api.context import LOGGER, Api
from policyctl.api.guard import is_loopback
from policyctl.config.reading import Reading
from policyctl.domain.log_event import LogLevel
from policyctl.errors import UsageError
from policyctl.services.control import Control
from policyctl.services.log_serve import serving
from policyctl.services.reload import Reloader
from policyctl.services.signals import stop_on_signal
from policyctl.settings import Settings

_STOP_S: Final = 10
_KEEP_ALIVE_S: Final = 15
_HEADER_BYTES: Final = 16 << 10


class _Stop(threading.Event):
    """Set by a signal: the server ends in good order, and the process with 0."""

    def __init__(self, server: uvicorn.Server) -> None:
        super().__init__()
        self._server = server

    def set(self) -> None:
        """Ask the server to end."""
        self._server.should_exit = True
        super().set()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again, and end the process before its locks and answers are in order."""
        with stop_on_signal(_Stop(self)):
            yield


def serve(control: Control, reading: Reading[Settings] | None = None) -> None:
    """Answer until SIGTERM or SIGINT.

    Args:
        control: The control plane.
        reading: How the settings came about, to take over what changes in their files; None: nothing is.

    Raises:
        UsageError: The address cannot be had, or others could reach it and there is no token.
        BusyError: Another `policyctl api` works on this repository.
    """
    with serving(control, name="api") as speaking:
        _serve(speaking, reading)


def _serve(control: Control, reading: Reading[Settings] | None) -> None:
    settings = control.settings.api
    local = is_loopback(settings.host)
    if not local:
        _require_token(control, settings.host)
    control.repository.create()
    path = control.repository.control / FOLDER / "lock"
    with _only_one(control, path), _listening(settings.host, settings.port) as listener:
        server = _Server(
            uvicorn.Config(
                create(Api.of(control, local=local)),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_STOP_S,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                ws="none",
                http="h11",  # it bounds what a request's head may hold; httptools does not
            )
        )
        _tell(control, f"Control API at {_url(listener)}, for {control.repository.root}. Ctrl-C stops.")
        if not local:
            _tell(
                control, "It speaks plain HTTP: let TLS stand before it, or tokens travel in clear.", LogLevel.WARNING
            )
        # Changed settings count while it runs, as for `policyctl serve`, which is the one that tells what is in force.
        with nullcontext() if reading is None else Reloader(control, reading, threading.Event(), tells=False).running():
            server.run(sockets=[listener])


def _tell(control: Control, words: str, level: LogLevel = LogLevel.INFO) -> None:
    control.tell(words, level=level, logger=LOGGER)


def document() -> str:
    """The OpenAPI document, as text that is the same each time."""
    return json.dumps(create(None).openapi(), indent=1, sort_keys=True) + "\n"


def _require_token(control: Control, host: str) -> None:
    now = datetime.now(UTC)
    if any(token.good(now) for token in TokenFile(control.repository).read()):
        return
    raise UsageError(
        f"api.host {host} can be reached from elsewhere, and there is no token: anybody could, or nobody",
        remedy="Create one (policyctl token create NAME --scope promote) and let TLS stand before it (the control API"
        " speaks plain HTTP), or stay on 127.0.0.1.",
    )


def _only_one(control: Control, path: Path) -> contextlib.AbstractContextManager[None]:
    return lock.hold_alone(
        path,
        doing="policyctl api",
        taken=f"{control.repository.root} has a control API already",
        remedy="Use the one that runs, or stop it first.",
    )


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(found[0], found[1], found[2])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[4])
        listener.listen(128)
    except OSError as error:
        raise UsageError(
            f"api.host {host}, api.port {port}: cannot be listened on ({error.strerror})",
            remedy="Choose another: policyctl api --port 0 takes a free one.",
        ) from error
    with contextlib.closing(listener):
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
