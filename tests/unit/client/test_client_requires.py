"""A client that asks for a range of releases is refused every other one, whenever it appears."""

from __future__ import annotations

import asyncio

import pytest
from test_client_exchange import URL, Server, contract, kinds, nothing

from policyctl.client import AsyncPolicyClient, IncompatibleReleaseError, PolicyClient
from policyctl.client.calls import Call, Reply
from policyctl.domain import versions
from policyctl.errors import ServerError, UsageError


@pytest.fixture
def server() -> Server:
    return Server()


def _client(server: Server, requires: str | None = "^1.0") -> PolicyClient:
    return PolicyClient("walker", url=URL, requires=requires, transport=server)


def test_a_release_that_is_not_required_is_refused_before_anything_is_asked(server: Server) -> None:
    """When the contract is read: no inference is made, and the error names release and range."""
    server.slot = 2
    for ask in (lambda c: c.act([0, 0]), lambda c: c.act_batch([[0, 0]]), lambda c: c.served()):
        with pytest.raises(IncompatibleReleaseError, match=r"walker is served by 2\.0\.0, this client requires \^1\.0"):
            ask(_client(server))
    assert "Infer" not in kinds(server)
    assert issubclass(IncompatibleReleaseError, ServerError)


@pytest.mark.parametrize("same_contract", [True, False])
@pytest.mark.parametrize("moment", range(4))
@pytest.mark.parametrize("knows", [False, True])
def test_a_switch_at_any_moment_hands_out_no_action_of_the_other(
    server: Server, knows: bool, moment: int, same_contract: bool
) -> None:
    """Whatever is answered after the switch is refused, also where its contract is the same."""
    if same_contract:
        server.contracts[2] = contract()
    client = _client(server)
    if knows:
        client.act([0, 0])
    server.before = [nothing] * moment + [server.switch(2)]
    refused = 0
    for _ in range(6):
        try:
            assert client.act([0, 0]).release == "1.0.0"
        except IncompatibleReleaseError:
            refused += 1
    assert refused >= 2
    server.before = []
    server.slot = 1
    assert client.act([0, 0]).release == "1.0.0"


def test_a_switch_to_another_required_release_is_followed(server: Server) -> None:
    """The range is held against releases, not against the one that was served first."""
    server.releases = {1: "1.0.0", 2: "1.1.0"}
    client = _client(server)
    assert client.act([0, 0]).release == "1.0.0"
    server.slot = 2
    assert client.act([0, 0]).release == "1.1.0"


def test_requiring_costs_nothing_while_nothing_moves(server: Server, monkeypatch) -> None:
    """One look at the contract, then inferences alone; the range is asked once for each release."""
    asked = []
    matches = versions.Range.matches
    monkeypatch.setattr(
        versions.Range, "matches", lambda self, release: asked.append(release) or matches(self, release)
    )
    client = _client(server)
    for _ in range(50):
        client.act([0, 0])
    assert kinds(server) == ["FetchConfig"] + ["Infer"] * 50
    assert asked == ["1.0.0"]


@pytest.mark.parametrize(
    ("requires", "release", "fits"),
    [
        ("1.2.3", "1.2.3", True),
        ("1.2.3", "1.2.4", False),
        ("~1.2.0", "1.2.9", True),
        ("~1.2.0", "1.3.0", False),
        ("^1.2", "1.3.0-rc.1", False),
        ("^1.3.0-rc.1", "1.3.0-rc.1", True),
        ("^1.2", "not a version", False),
        (None, "not a version", True),
    ],
)
def test_ranges_are_those_of_the_command_line(server: Server, requires: str | None, release: str, fits: bool) -> None:
    """The same reader as everywhere; an unknown version satisfies no range."""
    server.releases = {1: release}
    if fits:
        assert _client(server, requires).act([0, 0]).release == release
    else:
        with pytest.raises(IncompatibleReleaseError, match=release):
            _client(server, requires).act([0, 0])


@pytest.mark.parametrize("requires", ["latest", "production", "1.2", "", ">=1"])
def test_what_is_no_range_is_refused_when_the_client_is_made(server: Server, requires: str) -> None:
    """An alias is chosen with another argument, and the message says so."""
    with pytest.raises(UsageError, match="requires=") as refusal:
        _client(server, requires)
    assert "alias=" in refusal.value.remedy
    assert server.calls == []


def test_the_asyncio_client_refuses_the_same(server: Server) -> None:
    """Before and after a switch."""

    class Transport:
        async def perform(self, call: Call, timeout_s: float) -> Reply:
            return server.perform(call, timeout_s)

        async def close(self) -> None: ...

    async def run() -> None:
        async with AsyncPolicyClient("walker", url=URL, requires="^1.0", transport=Transport()) as client:
            assert (await client.act([0, 0])).release == "1.0.0"
            server.slot = 2
            with pytest.raises(IncompatibleReleaseError, match=r"2\.0\.0.*\^1\.0"):
                await client.act([0, 0])

    asyncio.run(run())


def test_a_pinned_release_is_asked_by_its_number(server: Server) -> None:
    """``alias`` takes a number; the Triton model is the pin's."""
    seen = []

    class Seen(Server):
        def perform(self, call: Call, timeout_s: float) -> Reply:
            seen.append(call)
            return super().perform(call, timeout_s)

    client = PolicyClient("walker", url=URL, alias="1.0.0", requires="~1.0.0", transport=Seen())
    assert client.act([0, 0]).release == "1.0.0"
    assert client._model == "walker.1.0.0"
    with pytest.raises(UsageError):
        PolicyClient("walker", url=URL, alias="1.0.0+gpu", transport=Server())
