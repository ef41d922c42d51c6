"""A control API, tokens of each scope, and how to call it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from starlette.testclient import TestClient
from world import World

from policyctl.api.app import create
from policyctl.api.context import Api
from policyctl.api.server import Server
from policyctl.domain.tokens import Scope
from policyctl.services.control import Control
from policyctl.services.trust.tokens import create as create_token
from policyctl.settings import source

WALKER = "/v1/models/walker"


class ApiWorld:
    """One control API of one world."""

    def __init__(self, world: World, *, local: bool = True, tokens: bool = True, **settings: Any) -> None:
        self.world = world
        self.local, self.settings = local, settings
        self.said: list[str] = []
        scopes = tuple(Scope) if tokens else ()
        self.secrets = {s: create_token(world.control, name=f"my-{s}", scope=s).secret for s in scopes}
        self.start()

    def start(self) -> None:
        """A fresh process, as it were: nothing but the disk is known to it."""
        reading = source(repository=self.world.root, api=self.settings).read()
        self.control = Control.of(reading.require(), self.said.append)
        self.api = Api.of(self.control, local=self.local, reading=lambda: reading)
        self.app = create(self.api)
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8004", client=("127.0.0.1", 5))

    def headers(self, scope: Scope | str, key: str = "") -> dict[str, str]:
        """Those of a token of that scope, and of an idempotency key."""
        found = {"Authorization": f"Bearer {self.secrets[Scope(scope)]}"}
        return {**found, "Idempotency-Key": key} if key else found

    def post(self, path: str, body: Any, *, scope: str = "promote", key: str = "", **more: Any) -> Any:
        """Ask for a change of walker."""
        return self.client.post(WALKER + path, json=body, headers=self.headers(scope, key), **more)

    def intents(self) -> int:
        """How many moves the journal holds."""
        return sum(record.kind == "intent" for record in self.world.control.repository.journal.records())

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """Its address, while it answers over a real socket."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = Server(self.app)
            server.config.lifespan, server.capture_signals = "off", contextlib.nullcontext
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()
