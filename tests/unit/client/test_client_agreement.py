"""A contract that breaks under a running client is an error of the server's, however often it is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_client_exchange import URL, Server, contract, kinds

from policyctl.client import IncompatibleReleaseError, PolicyClient
from policyctl.client.agreement import breaking
from policyctl.client.calls import Call
from policyctl.client.errors import UnreachableError
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.drive import Drive
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> PolicyClient:
    return PolicyClient("walker", url=URL, transport=server)


def _arm(**action: object) -> Contract:
    """Two joints and one torque."""
    spec = TensorSpec("action", "float32", (1,), low=-1.0, high=1.0)
    observation = TensorSpec("observation", "float32", (2,), low=-5.0, high=5.0)
    value = TensorSpec("value", "float32", (1,))
    return Contract((observation,), (replace(spec, **action), value), ActionKind.CONTINUOUS)


@pytest.mark.parametrize(
    "broken",
    [
        contract(inputs=3),
        contract(start=3),
        replace(contract(), observations=(TensorSpec("state", "float32", (2,)),)),
        replace(contract(), outputs=(replace(contract().action, dtype="int32"), contract().outputs[1])),
    ],
)
def test_every_call_after_a_breaking_switch_is_a_server_error(
    server: Server, client: PolicyClient, broken: Contract
) -> None:
    """`except ServerError` around a safe action catches the first call and all that follow, until it is rolled back."""
    client.act([0, 0])
    server.contracts[2] = broken
    server.slot = 2
    for _ in range(4):
        with pytest.raises(ServerError) as caught:
            client.act([0, 0])
        assert isinstance(caught.value, IncompatibleReleaseError)
        assert "2.0.0" in caught.value.problem and "1.0.0" in caught.value.problem
    server.slot = 1
    assert client.act([0, 0]).release == "1.0.0"


def test_a_first_question_that_does_not_fit_is_the_callers_mistake(server: Server, client: PolicyClient) -> None:
    """Nothing changed under it: it was never answered."""
    for _ in range(2):
        with pytest.raises(UsageError):
            client.act([0, 0, 0])
    client.act([0, 0])
    server.contracts[2], server.slot = contract(inputs=3), 2
    with pytest.raises(UsageError):  # right for neither release
        client.act([0, 0, 0, 0])


def test_a_caller_who_knows_the_new_contract_goes_on_by_it(server: Server, client: PolicyClient) -> None:
    """A question that only the new release takes was made for it; from then on the old one is the other."""
    client.act([0, 0])
    server.contracts[2], server.slot = contract(inputs=3), 2
    assert client.act([0, 0, 0]).release == "2.0.0"
    server.slot = 1
    with pytest.raises(IncompatibleReleaseError):
        client.act([0, 0, 0])


def test_a_rollback_stops_nobody_who_does_not_use_what_it_takes_away(server: Server, client: PolicyClient) -> None:
    """1.1.0 gives a value as well and takes more: its clients go on with 1.0.0, but for those who ask for the value."""
    server.slot = 2
    uses_it = PolicyClient("walker", url=URL, transport=server)
    client.act([0, 0])
    uses_it.act([0, 0], outputs=["value"])
    server.slot = 1
    assert client.act([0, 0]).release == "1.0.0"
    with pytest.raises(IncompatibleReleaseError, match="output value"):
        uses_it.act([0, 0], outputs=["value"])
    assert uses_it.act([0, 0]).release == "1.0.0"


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        ({"high": 2.0}, True),
        ({"features": ("hip",)}, False),
        ({}, False),
    ],
)
def test_what_an_action_means_is_part_of_the_contract(server: Server, change: dict[str, object], breaks: bool) -> None:
    """A wider torque is read wrongly by who scales it; a name where there was none changes nothing."""

    class Arm(Server):
        def _answer(self, x, outputs, request_id):  # type: ignore[no-untyped-def]
            answer = super()._answer(x, (), request_id)
            return replace(answer, outputs={name: np.zeros((len(x), 1), np.float32) for name in outputs})

    arm = Arm()
    arm.contracts = {1: _arm(), 2: _arm(**change)}
    client = PolicyClient("arm", url=URL, transport=arm)
    client.act([0, 0])
    arm.slot = 2
    if breaks:
        with pytest.raises(IncompatibleReleaseError, match="was -1 to 1, is -1 to 2"):
            client.act([0, 0])
    else:
        assert client.act([0, 0]).release == "2.0.0"


@pytest.mark.parametrize(("before", "after", "breaks"), [(0.25, 0.5, True), (None, 0.5, False), (0.25, None, False)])
def test_another_scale_of_the_action_is_a_breaking_release(before, after, breaks) -> None:
    """No shape changes, and the robot would move otherwise; what only one of the two states breaks nothing."""

    def contract(scale):
        return replace(_arm(), drive=None if scale is None else Drive(scale=scale))

    found = breaking(contract(before), contract(after), (), deterministic=True)
    assert [difference.what for difference in found] == ["drive"] * breaks


@pytest.mark.parametrize(("before", "after", "breaks"), [("rad", "deg", True), ("", "deg", False), ("rad", "", False)])
@pytest.mark.parametrize("which", ["action", "observation"])
def test_another_unit_is_a_breaking_release(which, before, after, breaks) -> None:
    """A caller would read it, or send it, wrongly; what only one of the two states breaks nothing."""

    def contract(unit):
        arm = _arm(units=unit if which == "action" else "")
        (observation,) = arm.observations
        # The other element is in metres for both.
        units = (unit, "m") if which == "observation" else ""
        return replace(arm, observations=(replace(observation, units=units),))

    found = breaking(contract(before), contract(after), (), deterministic=True)
    assert [difference.name for difference in found] == [which] * breaks


def test_another_server_at_the_address_is_held_against_the_same_contract(server: Server, client: PolicyClient) -> None:
    """What the caller works by outlives the server that answered it."""

    def lose(_: Call) -> None:
        raise UnreachableError("gone")

    client.act([0, 0])
    server.before = [lose]
    with pytest.raises(UnreachableError):
        client.act([0, 0])
    server.contracts[1] = contract(inputs=3)
    with pytest.raises(IncompatibleReleaseError):
        client.act([0, 0])


def test_a_compatible_release_costs_nothing_once_it_is_known(server: Server, client: PolicyClient, monkeypatch) -> None:
    """Two contracts are compared once, and no call is added."""
    from policyctl.client import agreement

    compared: list[object] = []
    compare = agreement.compare
    monkeypatch.setattr(agreement, "compare", lambda *pair: compared.append(pair) or compare(*pair))
    client.act([0, 0])
    server.slot = 2
    client.act([0, 0])
    server.calls.clear()
    for _ in range(20):
        assert client.act([0, 0]).release == "2.0.0"
    assert kinds(server) == ["Infer"] * 20
    assert len(compared) == 1


def test_a_batch_that_became_too_large_is_the_servers_doing(server: Server, client: PolicyClient) -> None:
    """It fitted the release before; a release that is served with smaller batches came under it."""
    client.act_batch(np.zeros((4, 2)))
    server.slot, server.max_batch = 2, 2
    for _ in range(2):
        with pytest.raises(IncompatibleReleaseError, match="at most 2"):
            client.act_batch(np.zeros((4, 2)))
    assert client.act([0, 0]).release == "2.0.0"
