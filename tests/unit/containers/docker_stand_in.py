"""A stand-in for a Docker engine: the part of its HTTP API that policyctl uses, on loopback.

The real `docker` package talks to it, so what is tested is what would be sent to
a Docker engine. What it cannot show is what a Docker engine does with it.

Optionally it *runs* a container, by a function that is given what was sent.
"""

from __future__ import annotations

import json
import queue
import re
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

VERSION = "1.47"


@dataclass
class Container:
    """What was created, and how it is."""

    id: str
    name: str
    sent: dict[str, Any]
    state: dict[str, Any] = field(default_factory=lambda: {"Status": "created", "StartedAt": "", "ExitCode": 0})
    lines: list[bytes] = field(default_factory=list)
    run: Any = None
    """What the runner gave back; its `stop()` is called."""


Runner = Callable[[Container], Any]


class DockerStandIn:
    """One engine; `calls` are what was asked of it, in order."""

    def __init__(self, *, images: tuple[str, ...] = (), runner: Runner | None = None) -> None:
        self.images, self.runner = set(images), runner
        self.out_of_memory: list[float] = []
        """When the kernel ended a process of a container, in seconds since 1970."""
        self.happened: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """Events of a container for the caller that listens now, as Docker writes them; None ends the stream."""
        self.files = {"/bin/bash"}
        """In every image."""
        self.containers: dict[str, Container] = {}
        self.calls: list[str] = []
        self.created = self.starts = 0
        self.closed = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        """For DOCKER_HOST."""
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    @property
    def only(self) -> Container:
        """The one container that there is."""
        (found,) = self.containers.values()
        return found

    def close(self) -> None:
        """No longer answer; what still runs is ended."""
        self.closed = True
        self.happened.put(None)
        self._server.shutdown()
        self._server.server_close()
        for container in self.containers.values():
            self.end(container)

    def begin(self, container: Container) -> None:
        """Start it, as `docker start` or somebody else's `docker restart` does."""
        self.starts += 1
        container.state |= {"Status": "running", "StartedAt": f"2026-01-01T00:00:{self.starts:02}Z", "Pid": 4242}
        if self.runner is not None:
            container.run = self.runner(container)

    def end(self, container: Container, **state: Any) -> None:
        """It ends: by itself, or because it was asked to."""
        if container.run is not None:
            container.run.stop()
            container.run = None
        container.state |= {"Status": "exited", "ExitCode": 0, **state}

    def find(self, key: str) -> Container | None:
        """By id or name."""
        return next((c for c in self.containers.values() if key in {c.id, c.name}), None)


def _handler(engine: DockerStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._serve
            raise AttributeError(name)

        def _serve(self) -> None:
            if engine.closed:  # on a connection that was made before
                self.close_connection = True
                return
            split = urlsplit(self.path)
            path = re.sub(r"^/v\d+\.\d+", "", unquote(split.path))
            query = {key: values[0] for key, values in parse_qs(split.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            engine.calls.append(f"{self.command} {path}")
            self._route(path, query, body)

        def _route(self, path: str, query: dict[str, str], body: dict[str, Any]) -> None:
            parts = path.strip("/").split("/")
            match (self.command, parts):
                case (_, ["_ping"]):
                    self._answer(200, "OK")
                case (_, ["version"]):
                    self._answer(200, {"ApiVersion": VERSION, "Version": "27"})
                case ("GET", ["events"]):
                    self._past_events() if "until" in query else self._events()
                case ("GET", ["images", *name, "json"]):
                    found = "/".join(name) in engine.images
                    self._answer(200 if found else 404, {"Id": "sha256:1"} if found else {"message": "No such image"})
                case ("GET", ["containers", "json"]):
                    self._answer(200, [{"Id": c.id} for c in engine.containers.values() if _matches(c, query)])
                case ("POST", ["containers", "create"]):
                    name = query.get("name", f"unnamed-{engine.created}")
                    if engine.find(name):
                        self._answer(409, {"message": f"the name {name} is in use"})
                        return
                    engine.created += 1
                    container = Container(f"{engine.created:064x}", name, body)
                    engine.containers[container.id] = container
                    self._answer(201, {"Id": container.id, "Warnings": []})
                case (_, ["containers", key, *what]):
                    container = engine.find(key)
                    if container is None:
                        self._answer(404, {"message": f"No such container: {key}"})
                    else:
                        self._one(container, self.command, "/".join(what), query)
                case _:
                    self._answer(501, {"message": f"the stand-in does not know {self.command} {path}"})

        def _one(self, container: Container, command: str, what: str, query: dict[str, str]) -> None:
            match (command, what):
                case ("GET", "json"):
                    document = {"Id": container.id, "Name": container.name, "State": container.state}
                    self._answer(200, {**document, "Config": {**container.sent, "Tty": False}})
                case ("POST", "start"):
                    engine.begin(container)
                    self._answer(204)
                case ("POST", "stop"):
                    engine.end(container)
                    self._answer(204)
                case ("DELETE", ""):
                    if container.state["Status"] == "running" and query.get("force") not in {"1", "True", "true"}:
                        self._answer(409, {"message": "it runs: force is needed"})
                        return
                    engine.end(container)
                    del engine.containers[container.id]
                    self._answer(204)
                case ("GET", "logs"):
                    self._logs(container)
                case ("GET", "archive") if query["path"] in engine.files:
                    self._answer(200, {}, **{"X-Docker-Container-Path-Stat": "e30="})
                case ("GET", "archive"):
                    self._answer(404, {"message": f"no such file: {query['path']}"})
                case _:
                    self._answer(501, {"message": f"the stand-in does not know {command} {what}"})

        def _logs(self, container: Container) -> None:
            # Docker's framing: stream, three zeros, length.
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.docker.raw-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for line in container.lines:
                self.wfile.write(struct.pack(">BxxxL", 1, len(line)) + line)
            self.close_connection = True

        def _past_events(self) -> None:
            self._stream({"timeNano": int(each * 1e9)} for each in engine.out_of_memory)

        def _events(self) -> None:
            self._stream(iter(engine.happened.get, None))

        def _stream(self, documents: Iterable[dict[str, Any]]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for each in documents:
                line = json.dumps(each).encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

        def _answer(self, status: int, document: Any = None, **headers: str) -> None:
            content = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Api-Version", VERSION)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def _matches(container: Container, query: dict[str, str]) -> bool:
    wanted = json.loads(query.get("filters", "{}")).get("label", [])
    labels = {f"{key}={value}" for key, value in container.sent.get("Labels", {}).items()}
    running = container.state["Status"] == "running"
    return set(wanted) <= labels and (running or query.get("all") in {"1", "True", "true"})
