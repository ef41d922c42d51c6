"""Ranges and pins on the real Triton: what clients require, and releases side by side."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from embedded import PATIENCE_S, wait_for

from policyctl.client import AsyncPolicyClient, IncompatibleReleaseError, NotServedError, PolicyClient
from policyctl.errors import ServerError, UnsupportedError
from policyctl.services.control import Control
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.pins import pin, unpin
from policyctl.services.rollout.promote import promote
from policyctl.settings import load

pytestmark = pytest.mark.server

OBSERVATION = np.zeros(4, np.float32)
PROTOCOLS = ("grpc", "http")


def _client(served, protocol: str, **kwargs) -> PolicyClient:
    return PolicyClient("walker", url=served.endpoint[protocol], protocol=protocol, deadline_s=PATIENCE_S, **kwargs)


def _promote(served, release: str) -> None:
    promote(served.control, model="walker", release=release, alias="production")


def test_a_client_refuses_what_it_does_not_require_over_promotions(served) -> None:
    """From 1.0.0 to 1.1.0 it goes on; switched to 2.0.0 in the middle, it is told so; rolled back, it goes on."""
    served.publish("2.0.0", 2)
    clients = [_client(served, protocol, requires="^1.0") for protocol in PROTOCOLS]
    for release in ("1.0.0", "1.1.0"):
        _promote(served, release)
        assert [c.act(OBSERVATION).release for c in clients] == [release] * 2
    _promote(served, "2.0.0")
    for client in [*clients, _client(served, "grpc", requires="~1.1.0")]:
        with pytest.raises(IncompatibleReleaseError, match=r"served by 2\.0\.0, this client requires"):
            client.act(OBSERVATION)

    async def ask(protocol: str) -> None:
        url = served.endpoint[protocol]
        async with AsyncPolicyClient(
            "walker", url=url, protocol=protocol, deadline_s=PATIENCE_S, requires="^1"
        ) as client:
            with pytest.raises(IncompatibleReleaseError, match=r"2\.0\.0"):
                await client.act(OBSERVATION)

    for protocol in PROTOCOLS:
        asyncio.run(ask(protocol))
    rollback(served.control, model="walker", alias="production", to="~1.0")
    assert [c.act(OBSERVATION).release for c in clients] == ["1.0.0"] * 2
    for client in clients:
        client.close()


def test_a_breaking_release_stops_its_clients_in_words_that_a_safe_action_catches(served) -> None:
    """Refused without --breaking; with it, live clients get a `ServerError` at each call, until it is rolled back."""
    served.publish("3.0.0", 3, inputs=3)
    _promote(served, "1.0.0")
    clients = [_client(served, protocol) for protocol in PROTOCOLS]
    assert [c.act(OBSERVATION).release for c in clients] == ["1.0.0"] * 2
    refused = served.run("promote", "walker", "3.0.0", "--dry-run", check=False)
    assert (refused.returncode, "had shape (4,), has (3,)" in refused.stderr) == (4, True)
    assert served.run("promote", "walker", "3.0.0", check=False).returncode == 4
    assert [c.act(OBSERVATION).release for c in clients] == ["1.0.0"] * 2
    done = served.json("promote", "walker", "3.0.0", "--breaking")
    assert (done["to"], done["breaking"]) == ("3.0.0", True)
    for client in clients * 2:
        with pytest.raises(ServerError, match=r"breaks that of 1\.0\.0") as caught:
            client.act(OBSERVATION)
        assert isinstance(caught.value, IncompatibleReleaseError)
    served.run("rollback", "walker")
    assert [c.act(OBSERVATION).release for c in clients] == ["1.0.0"] * 2
    for client in clients:
        client.close()


def test_pins_are_served_beside_aliases_and_survive_the_server(served) -> None:
    """Each answers under its own number over both protocols, whatever production does, and after a new start too."""
    served.publish("1.2.0-RC.1+build.7", 2)
    pins = {"1.1.0": "1.1.0", "1.2.0-RC.1": "1.2.0-RC.1+build.7"}
    for release in pins.values():
        pin(served.control, model="walker", release=release)
    _promote(served, "1.1.0")
    rollback(served.control, model="walker", alias="production")
    served.stop()
    served.start()
    for protocol in PROTOCOLS:
        for alias, release in pins.items():
            with _client(served, protocol, alias=alias, requires=release) as client:
                assert client.act(OBSERVATION).release == release
    wait_for(lambda: served.json("status", "walker")["healthy"])
    found = served.json("status", "walker")
    assert {a["served"] for a in found["aliases"]} == {"walker", "walker.1.1.0", "walker.1.2.0-RC.1"}
    assert found["memory"]["left_bytes"] > 0
    assert served.run("verify").returncode == 0
    for alias, release in pins.items():
        unpin(served.control, model="walker", release=release)
        with _client(served, "grpc", alias=alias) as client, pytest.raises(NotServedError):
            client.act(OBSERVATION)
    assert sorted(p.name for p in served.root.iterdir() if p.name != ".policyctl") == ["walker"]
    assert served.answered_by() == "1.0.0"


def test_what_does_not_fit_is_refused_and_nothing_is_loaded(served) -> None:
    """With more kept free than the machine has, a pin is refused before the server hears of it."""
    control = Control.of(load(repository=served.root, serving={"memory_reserve_mib": 1 << 30}))
    with pytest.raises(UnsupportedError, match=r"does not fit in memory: while it is moved it takes \d+ MiB"):
        pin(control, model="walker", release="1.1.0")
    with served.control.triton() as client:
        assert {s.name for s in client.index()} & {"walker.1.1.0", "walker.candidate"} == set()
