"""What is asked and concluded, in every order of events around a promotion; without a server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from policyctl.client import AsyncPolicyClient, DeadlineError, PolicyClient, TimingSource, form
from policyctl.client.calls import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.errors import (
    IncompatibleReleaseError,
    NotServedError,
    OverloadedError,
    RefusedError,
    UnknownReleaseError,
    UnreachableError,
    translate,
)
from policyctl.client.observation import inputs_of
from policyctl.client.served import ModelConfig
from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError

URL = "127.0.0.1:1"
RELEASES = {1: "1.0.0", 2: "2.0.0"}


VALUES = {1: 0, 2: 7}
"""The action of each slot."""


def contract(*, start: int = 0, inputs: int = 2, estimates: bool = False) -> Contract:
    """Of eight choices; one that also estimates a value can be asked by a caller who does not know of it."""
    value = (TensorSpec("value", "float32", (1,)),) * estimates
    return Contract(
        (TensorSpec("observation", "float32", (inputs,)),),
        (
            TensorSpec("action", "int64", (1,), low=float(start), high=float(start + 7)),
            TensorSpec("logits", "float32", (8,)),
            *value,
        ),
        ActionKind.DISCRETE,
        Distribution(DistributionKind.CATEGORICAL),
    )


class Server:
    """A server in memory that a script may change between any two calls."""

    def __init__(self) -> None:
        self.slot = 1
        self.contracts = {1: contract(), 2: contract(estimates=True)}
        self.releases = dict(RELEASES)
        self.parameters: dict[str, Any] = {}
        self.counters = Counters()
        self.calls: list[Call] = []
        self.before: list[Callable[[Call], None]] = []
        self.max_batch = 4
        self.closed = 0

    def perform(self, call: Call, timeout_s: float) -> Reply:
        self.calls.append(call)
        if self.before:
            self.before.pop(0)(call)
        match call:
            case FetchConfig(slot):
                if slot not in (None, self.slot):
                    raise NotServedError("gone")
                return config_of(self.contracts[self.slot], self.releases[self.slot], self.releases, self.max_batch)
            case FetchCounters():
                return self.counters
            case Infer(inputs, outputs, request_id):
                return self._answer(inputs["observation"], outputs, request_id)

    def close(self) -> None:
        self.closed += 1

    def _answer(self, x: np.ndarray, outputs: Sequence[str], request_id: str) -> Answer:
        served = self.contracts[self.slot]
        if x.shape[1:] != served.observations[0].shape:
            raise RefusedError("unexpected shape")
        choice = VALUES.get(self.slot, 0)
        found = {
            "action": np.full((len(x), 1), int(served.action.low or 0) + choice, dtype=np.int64),
            "logits": np.tile(np.where(np.arange(8) == choice, 1000, -1000).astype(np.float32), (len(x), 1)),
            "value": np.ones((len(x), 1), np.float32),
        }
        self.counters = dataclasses.replace(
            self.counters,
            requests=self.counters.requests + 1,
            queue_ns=self.counters.queue_ns + 3000,
            compute_ns=self.counters.compute_ns + 9000,
        )
        return Answer(self.slot, request_id, {name: found[name] for name in outputs}, self.parameters, 12.0)

    def switch(self, slot: int) -> Callable[[Call], None]:
        def then(_: Call) -> None:
            self.slot = slot

        return then


def config_of(contract_: Contract, release: str, releases: dict[int, str], max_batch: int = 4) -> ModelConfig:
    return ModelConfig(
        {
            "contract": json.dumps(contract_.to_json()),
            "release": release,
            "releases": json.dumps({str(slot): name for slot, name in releases.items()}),
            "manifest_digest": "sha256:00",
        },
        max_batch,
    )


def nothing(_: Call) -> None:
    """Leave the server as it is."""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> PolicyClient:
    return PolicyClient("walker", url=URL, transport=server)


def test_what_follows_from_the_contract_is_worked_out_once_for_each_kind_of_question(
    server: Server, client: PolicyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control loop pays for its observation alone."""
    server.contracts[1] = contract(estimates=True)
    made: list[object] = []
    monkeypatch.setattr(form, "inputs_of", lambda which: made.append(which) or inputs_of(which))
    for _ in range(3):
        client.act([0, 0])
        client.act_batch([[0, 0], [0, 0]])
        client.act([0, 0], outputs=["value"])
        client.act([0, 0], deterministic=False)
    assert len(made) == 3


def kinds(server: Server) -> list[str]:
    return [type(call).__name__ for call in server.calls]


def test_the_contract_is_fetched_once_and_only_what_is_needed_is_asked_for(
    server: Server, client: PolicyClient
) -> None:
    """One call more for the first action, none for the next; the action alone if it is deterministic."""
    client.act([0, 0])
    client.act([0, 0])
    client.act([0, 0], deterministic=False, seed=1)
    client.act([0, 0], outputs=["logits", "action"])
    assert kinds(server) == ["FetchConfig", "Infer", "Infer", "Infer", "Infer"]
    asked = [call.outputs for call in server.calls if isinstance(call, Infer)]
    assert asked == [("action",), ("action",), ("logits",), ("action", "logits")]


def test_every_request_has_an_id_of_its_own(server: Server, client: PolicyClient) -> None:
    """Unless the caller gives one."""
    for _ in range(3):
        client.act([0, 0])
    ids = {call.request_id for call in server.calls if isinstance(call, Infer)}
    assert len(ids) == 3 and all(len(each) == 32 for each in ids)
    assert client.act([0, 0], request_id="mine").request_id == "mine"


def test_a_swap_between_two_questions_costs_one_look_and_one_repeat(server: Server, client: PolicyClient) -> None:
    """The answer of the other contract is thrown away, and the question asked again under the right one."""
    client.act([0, 0])
    server.slot = 2
    server.calls.clear()
    action = client.act([0, 0], deterministic=False)
    assert (action.release, action.slot, action.value) == ("2.0.0", 2, 7)
    assert kinds(server) == ["Infer", "FetchConfig", "FetchConfig", "Infer"]
    server.calls.clear()
    client.act([0, 0])
    assert kinds(server) == ["Infer"]


def test_a_swap_that_keeps_the_contract_repeats_nothing(server: Server, client: PolicyClient) -> None:
    """Whose answer it is has to be looked up once for a slot; the answer itself is good."""
    server.contracts[2] = server.contracts[1]
    client.act([0, 0])
    server.slot = 2
    assert client.act([0, 0]).release == "2.0.0"
    server.slot = 1
    server.calls.clear()
    assert client.act([0, 0]).release == "1.0.0"
    assert kinds(server) == ["Infer"]


@pytest.mark.parametrize("moment", range(4))
@pytest.mark.parametrize("knows", [False, True])
def test_a_swap_before_any_call_never_mixes_releases(
    server: Server, client: PolicyClient, moment: int, knows: bool
) -> None:
    """Wherever the swap falls: value, release and slot are those of one release, and nothing fails."""
    if knows:
        client.act([0, 0])
    server.before = [nothing] * moment + [server.switch(2)]
    for _ in range(4):
        action = client.act([0, 0], deterministic=False)
        assert (action.slot, action.release, action.value) in {(1, "1.0.0", 0), (2, "2.0.0", 7)}
    server.before = []
    assert client.act([0, 0]).release == "2.0.0"


@pytest.mark.parametrize("moment", range(5))
def test_a_swap_there_and_back_in_one_question_is_survived(server: Server, client: PolicyClient, moment: int) -> None:
    """A slot that answered and was gone before it could be asked about: the question is asked again."""
    client.act([0, 0])
    server.before = [nothing] * moment + [server.switch(2), server.switch(1)]
    action = client.act([0, 0], deterministic=False)
    assert (action.release, action.value) in {("1.0.0", 0), ("2.0.0", 7)}
    assert client.act([0, 0]).release == "1.0.0"


def test_a_contract_that_never_rests_is_an_error(server: Server, client: PolicyClient) -> None:
    """Three rounds, then a server error: no endless loop, and no answer by a guess."""
    client.act([0, 0])
    server.before = [server.switch(2 - (n % 2)) for n in range(40)]
    with pytest.raises(ServerError):
        client.act([0, 0])
    assert len(server.calls) < 15


def test_observations_of_the_next_contract_are_not_refused_by_the_last(server: Server, client: PolicyClient) -> None:
    """A caller that knows of the swap before the client does is heard."""
    server.contracts[2] = contract(inputs=3)
    client.act([0, 0])
    server.slot = 2
    assert client.act([0, 0, 0]).release == "2.0.0"


def test_a_request_refused_after_a_swap_is_explained_by_the_new_contract(server: Server, client: PolicyClient) -> None:
    """Not by Triton's words: the contract that is served now says what it takes."""
    server.contracts[2] = contract(inputs=3)
    client.act([0, 0])
    server.slot = 2
    with pytest.raises(IncompatibleReleaseError, match=r"2\.0\.0 .* breaks that of 1\.0\.0.* takes \(3,\)"):
        client.act([0, 0])


def test_a_refusal_without_a_swap_is_passed_on(server: Server, client: PolicyClient) -> None:
    """A request that the contract allows and the server does not is the server's error, asked once."""

    def refuse(_: Call) -> None:
        raise RefusedError("no")

    client.act([0, 0])
    server.before = [refuse]
    server.calls.clear()
    with pytest.raises(RefusedError):
        client.act([0, 0])
    assert kinds(server).count("Infer") == 1


def test_a_wrong_observation_is_refused_without_an_inference(server: Server, client: PolicyClient) -> None:
    """Nothing is sent but the look at the contract."""
    with pytest.raises(UsageError, match="shape"):
        client.act([0, 0, 0])
    with pytest.raises(UsageError, match="output value"):
        client.act([0, 0], outputs=["value"])
    with pytest.raises(UsageError, match="at most 4"):
        client.act_batch(np.zeros((5, 2)))
    assert "Infer" not in kinds(server)


def test_a_slot_without_a_release_is_never_handed_out(server: Server, client: PolicyClient) -> None:
    """The configuration that is served must list the slot that answers, as its own."""
    server.contracts[3] = contract()
    server.releases = {1: "1.0.0"}
    client.act([0, 0])

    def change(_: Call) -> None:
        server.slot = 3
        server.releases = {1: "1.0.0", 3: "1.0.0"}

    server.before = [change, lambda _: server.releases.update({3: "9.0.0"})]
    assert client.act([0, 0]).release == "9.0.0"

    class Unlisted(Server):
        def perform(self, call: Call, timeout_s: float) -> Reply:
            reply = super().perform(call, timeout_s)
            return dataclasses.replace(reply, slot=7) if isinstance(reply, Answer) else reply

    with pytest.raises(UnknownReleaseError, match="slot 7"):
        PolicyClient("walker", url=URL, transport=Unlisted()).act([0, 0])


def test_a_release_that_the_answer_names_is_believed_over_the_map(server: Server, client: PolicyClient) -> None:
    """A backend that names its release settles it; one that contradicts the map is not handed out."""
    server.parameters = {"release": "1.0.0"}
    assert client.act([0, 0]).release == "1.0.0"
    server.parameters = {"release": "6.6.6"}
    with pytest.raises(UnknownReleaseError):
        client.act([0, 0])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"request_id": "another"}, "answered with the answer to another"),
        ({"request_id": ""}, "none"),
        ({"outputs": {}}, "action is nothing"),
        ({"outputs": {"action": np.zeros((2, 1), np.int64)}}, r"action is int64\(2, 1\)"),
        ({"outputs": {"action": np.zeros((1, 1), np.int32)}}, "action is int32"),
    ],
)
def test_an_answer_that_is_not_to_this_question_is_not_handed_out(change: dict[str, Any], problem: str) -> None:
    """Another request's id, a missing output, another shape, another dtype."""

    class Mixed(Server):
        def perform(self, call: Call, timeout_s: float) -> Reply:
            reply = super().perform(call, timeout_s)
            return dataclasses.replace(reply, **change) if isinstance(reply, Answer) else reply

    with pytest.raises(ServerError, match=problem):
        PolicyClient("walker", url=URL, transport=Mixed()).act([0, 0])


def test_an_action_that_is_not_finite_is_an_error(server: Server) -> None:
    """NaN moves no robot."""
    continuous = Contract(
        (TensorSpec("observation", "float32", (2,)),),
        (TensorSpec("action", "float32", (1,)),),
        ActionKind.CONTINUOUS,
    )

    class Broken(Server):
        def _answer(self, x: np.ndarray, outputs: Sequence[str], request_id: str) -> Answer:
            return Answer(1, request_id, {"action": np.array([[np.nan]], np.float32)}, {}, 1.0)

    broken = Broken()
    broken.contracts[1] = continuous
    client = PolicyClient("walker", url=URL, transport=broken)
    with pytest.raises(ServerError, match="not finite"):
        client.act([0, 0])
    with pytest.raises(UsageError, match="deterministic"):
        client.act([0, 0], deterministic=False)


def test_a_batch_and_its_rows_have_the_same_meaning(client: PolicyClient) -> None:
    """One observation gives an int and outputs without a batch dimension; n give arrays of n."""
    one, many = client.act([0, 0], outputs=["logits"]), client.act_batch(np.zeros((3, 2)), outputs=["logits"])
    assert one.value == 0 and one.outputs["logits"].shape == (8,)
    np.testing.assert_array_equal(many.value, [0, 0, 0])
    assert many.outputs["logits"].shape == (3, 8)


def test_timing_by_statistics_is_the_mean_over_what_ran_in_between(server: Server, client: PolicyClient) -> None:
    """Another request in between shows in `requests`; counters that lag are read again."""
    client.act([0, 0])
    timing = client.act([0, 0], timing=True).server
    assert timing is not None
    assert (timing.queue_us, timing.compute_us, timing.requests) == (3.0, 9.0, 1)
    assert timing.source is TimingSource.STATISTICS

    def other(_: Call) -> None:
        server.counters = Counters(
            server.counters.requests + 1, server.counters.queue_ns + 1000, server.counters.compute_ns
        )

    server.before = [nothing, nothing, other]
    timing = client.act([0, 0], timing=True).server
    assert timing is not None and (timing.requests, timing.queue_us, timing.compute_us) == (2, 2.0, 4.5)


def test_a_request_before_this_one_that_is_counted_late_is_left_out(server: Server, client: PolicyClient) -> None:
    """The counters are read until they rest before the request is sent."""
    client.act([0, 0])
    counted = server.counters

    def lag(_: Call) -> None:
        server.counters = Counters()

    def catch_up(_: Call) -> None:
        server.counters = counted

    server.before = [lag, catch_up]
    timing = client.act([0, 0], timing=True).server
    assert timing is not None and (timing.requests, timing.compute_us) == (1, 9.0)


def test_counters_that_never_move_give_no_timing(server: Server, client: PolicyClient) -> None:
    """After a few readings there is no number rather than a wrong one."""
    client.act([0, 0])
    frozen = Counters(5, 5, 5)

    def freeze(_: Call) -> None:
        server.counters = frozen

    server.before = [freeze] * 20
    action = client.act([0, 0], timing=True)
    assert action.server is None and action.value == 0
    assert kinds(server).count("FetchCounters") < 10


def test_timing_in_the_answer_is_used_and_the_counters_left_alone(server: Server, client: PolicyClient) -> None:
    """From the second such answer on no counter is read at all."""
    server.parameters = {"compute_us": 7.5, "queue_us": 2}
    for _ in range(2):
        timing = client.act([0, 0], timing=True).server
        assert timing is not None
        assert (timing.queue_us, timing.compute_us, timing.source) == (2.0, 7.5, TimingSource.RESPONSE)
    assert kinds(server).count("FetchCounters") == 2


def test_a_swap_within_a_timed_request_gives_the_action_without_a_timing(server: Server, client: PolicyClient) -> None:
    """Two slots have two sets of counters, which do not compare."""
    server.contracts[2] = server.contracts[1]
    client.act([0, 0])
    server.before = [nothing, nothing, server.switch(2)]
    action = client.act([0, 0], timing=True)
    assert action.release == "2.0.0" and action.server is None


def test_the_deadline_bounds_all_calls_together(server: Server) -> None:
    """Each call gets what is left, and an answer that comes late all the same is not handed out."""
    left: list[float] = []

    class Slow(Server):
        def perform(self, call: Call, timeout_s: float) -> Reply:
            left.append(timeout_s)
            time.sleep(0.03)
            return super().perform(call, timeout_s)

    client = PolicyClient("walker", url=URL, transport=Slow(), deadline_s=10.0)
    client.act([0, 0])
    assert left[0] <= 10.0 and left[1] <= left[0] - 0.03
    with pytest.raises(DeadlineError, match=r"did not answer within the deadline of 0\.01 s"):
        client.act([0, 0], deadline_s=0.01)


def test_a_lost_server_is_forgotten(server: Server, client: PolicyClient) -> None:
    """Its successor at the same address is asked what it serves before it is believed."""

    def lose(_: Call) -> None:
        raise UnreachableError("gone")

    client.act([0, 0])
    server.before = [lose]
    with pytest.raises(UnreachableError):
        client.act([0, 0])
    server.calls.clear()
    client.act([0, 0])
    assert kinds(server) == ["FetchConfig", "Infer"]


def test_a_closed_client_asks_no_more(server: Server) -> None:
    """Closing twice closes once."""
    with PolicyClient("walker", url=URL, transport=server) as client:
        client.act([0, 0])
    client.close()
    assert server.closed == 1
    with pytest.raises(UsageError, match="closed"):
        client.act([0, 0])


def test_the_asyncio_client_drives_the_same_exchange(server: Server) -> None:
    """A swap that changes the contract, and an error, as the blocking client has them."""

    class Awaited:
        async def perform(self, call: Call, timeout_s: float) -> Reply:
            return server.perform(call, timeout_s)

        async def close(self) -> None:
            server.close()

    async def session() -> None:
        async with AsyncPolicyClient("walker", url=URL, transport=Awaited()) as client:
            assert (await client.act([0, 0])).release == "1.0.0"
            server.slot = 2
            assert (await client.act_batch(np.zeros((2, 2)))).release == "2.0.0"
            assert (await client.served()).release == "2.0.0"
            with pytest.raises(UsageError):
                await client.act([0])
            server.slot, server.contracts[1] = 1, contract(inputs=3)
            for _ in range(2):
                with pytest.raises(IncompatibleReleaseError):
                    await client.act([0, 0])

    asyncio.run(session())
    assert server.closed == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "Walker"},
        {"url": "http://127.0.0.1:8000"},
        {"url": "127.0.0.1"},
        {"protocol": "carrier pigeon"},
        {"alias": "../up"},
        {"deadline_s": 0.0},
        {"deadline_s": float("nan")},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_at_once(arguments: dict[str, Any]) -> None:
    """Before anything is connected."""
    with pytest.raises(UsageError):
        PolicyClient(**{"model": "walker", "url": URL, **arguments})


@pytest.mark.parametrize("missing", ["contract", "release", "releases"])
def test_a_configuration_without_what_policyctl_writes_is_refused(server: Server, missing: str) -> None:
    """The model at this name was put there by something else."""

    class Foreign(Server):
        def perform(self, call: Call, timeout_s: float) -> Reply:
            reply = super().perform(call, timeout_s)
            assert isinstance(reply, ModelConfig)
            return ModelConfig({k: v for k, v in reply.parameters.items() if k != missing}, 4)

    with pytest.raises(ServerError, match=missing):
        PolicyClient("walker", url=URL, transport=Foreign()).act([0, 0])


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineError),
        ("StatusCode.UNAVAILABLE", "Request timeout expired", DeadlineError),
        ("503", "Request timeout expired", DeadlineError),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'x' is not found", NotServedError),
        ("404", "Request for unknown model: 'x' is not found", NotServedError),
        ("StatusCode.UNAVAILABLE", "Request for unknown model: 'x' version 3 is not at ready state", NotServedError),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", UnreachableError),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", OverloadedError),
        ("503", "Exceeds maximum queue size", OverloadedError),
        ("StatusCode.INVALID_ARGUMENT", "unexpected shape", RefusedError),
        ("400", "unexpected shape", RefusedError),
        ("StatusCode.INTERNAL", "the backend failed", ServerError),
        ("500", "the backend failed", ServerError),
    ],
)
def test_both_protocols_statuses_mean_the_same_errors(status: str, message: str, kind: type[ServerError]) -> None:
    """A full queue is not an unreachable server, and an expired request is a deadline."""
    error = translate(status, message, model="walker", url=URL)
    assert type(error) is kind
    assert isinstance(error, ServerError) and error.exit_code == 6
