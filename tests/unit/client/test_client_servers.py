"""A client of several servers asks another where one has no answer; what it knows of each stays apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from client_fakes import model_config

from policyctl.client import (
    AsyncPolicyClient,
    DeadlineError,
    EpisodeInterruptedError,
    IncompatibleReleaseError,
    NotServedError,
    PolicyClient,
    RefusedError,
    StaleError,
    UnreachableError,
)
from policyctl.client.calls import GENERATION, Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.domain.contract import ActionKind, Contract, State
from policyctl.domain.protocol import Protocol
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError

ONE, TWO = "one:8001", "two:8001"


def contract(*, memory: bool = False, size: int = 1) -> Contract:
    observations = [TensorSpec("observation", "float32", (1,))]
    outputs = [TensorSpec("action", "float32", (size,))]
    if not memory:
        return Contract(tuple(observations), tuple(outputs), ActionKind.CONTINUOUS)
    return Contract(
        (*observations, TensorSpec("h_in", "float32", (1,))),
        (*outputs, TensorSpec("h_out", "float32", (1,))),
        ActionKind.CONTINUOUS,
        states=(State("h_in", "h_out"),),
    )


@dataclass
class Machine:
    """One server: its alias has a release in a slot; an error is what every call gets instead."""

    release: str = "1.0.0"
    slot: int = 1
    contract: Contract = field(default_factory=contract)
    error: Exception | None = None
    generation: Any = None
    configured: int = 0
    mixes_up: bool = False
    before_answer: Callable[[], object] = lambda: None
    pinned: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    closed: bool = False

    def perform(self, call: Call, timeout_s: float) -> Reply:
        if self.error is not None:
            raise self.error
        release, slot = self.release, self.slot
        if call.model:
            release = call.model.partition(".")[2]
            if release not in self.pinned:
                raise NotServedError(f"{call.model} is not served")
            slot = self.pinned[release]
        match call:
            case FetchConfig():
                more = {"generation": str(self.configured)} if self.configured else {}
                return model_config(self.contract, release, slot, manifest_digest=f"sha256:{release}", **more)
            case FetchCounters():
                return Counters()
            case Infer():
                self.asked += 1
                total = call.inputs["observation"] + call.inputs.get("h_in", np.float32(0))
                found = {"action": np.repeat(total, self.contract.action.size, axis=1), "h_out": total}
                named = {} if self.generation is None else {GENERATION: self.generation}
                self.before_answer()
                answers_to = "another" if self.mixes_up else call.request_id
                return Answer(slot, answers_to, {name: found[name] for name in call.outputs}, named, 1.0)

    def close(self) -> None:
        self.closed = True


@dataclass
class Fleet:
    """Two servers, and the clients of both."""

    machines: dict[str, Machine] = field(default_factory=lambda: {ONE: Machine(), TWO: Machine()})

    def client(self, first: str = ONE, **options: Any) -> PolicyClient:
        fleet = self

        class Client(PolicyClient):
            def _connect(self, protocol: Protocol, url: str, *, shared_memory: bool) -> Any:
                return fleet.machines[url]

        client = Client("walker", url=[ONE, TWO], **{"deadline_s": 60.0, **options})
        client._servers._chosen = [ONE, TWO].index(first)
        return client


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_what_a_client_has_seen_is_never_answered_by_anything_older(fleet: Fleet) -> None:
    """A node that lags, or names no generation, is passed over; else the error says what it named."""
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    one.generation, two.generation = 7, 4
    client = fleet.client()
    assert client.act([1.0]).generation == 7
    one.error = UnreachableError("gone")
    with pytest.raises(StaleError, match=r"generation 4 of the alias, this client has seen 7"):
        client.act([1.0])
    two.generation = None
    with pytest.raises(StaleError, match="no generation"):
        client.act([1.0])
    two.generation = 9
    assert client.act([1.0]).generation == 9
    one.error, two.error = None, UnreachableError("gone")
    with pytest.raises(StaleError):
        client.act([1.0])


def test_where_the_backend_names_no_generation_the_configuration_does(fleet: Fleet) -> None:
    """It is read before the question, so the answer is of no older one; once for all questions."""
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    one.generation, two.configured = 7, 7
    client = fleet.client()
    client.act([1.0])
    one.error = UnreachableError("gone")
    assert [client.act([1.0]).generation for _ in range(3)] == [7] * 3
    assert two.asked == 3
    one.error, one.generation = None, 9
    two.error = UnreachableError("gone")
    assert client.act([1.0]).generation == 9
    one.error, two.error = UnreachableError("gone"), None
    with pytest.raises(StaleError, match="generation 7 of the alias, this client has seen 9"):
        client.act([1.0])
    two.configured = 9
    assert client.act([1.0]).generation == 9


def test_an_answer_that_is_refused_raises_nothing(fleet: Fleet) -> None:
    """A proxy mixes answers up: the generation of another's is not taken for one that was seen."""
    one = fleet.machines[ONE]
    one.generation = 4
    client = fleet.client()
    client.act([1.0])
    one.generation, one.mixes_up = 9, True
    with pytest.raises(ServerError, match="answered with the answer to another"):
        client.act([1.0])
    one.generation, one.mixes_up = 4, False
    assert client.act([1.0]).generation == 4


def test_a_question_that_was_under_way_is_answered_all_the_same(fleet: Fleet) -> None:
    """Another thread saw a later generation meanwhile: nothing is lost, and later questions get nothing older."""
    one = fleet.machines[ONE]
    one.generation = 4
    client = fleet.client()
    client.act([1.0])

    def another_thread() -> None:
        one.before_answer, one.generation = (lambda: None), 5
        assert client.act([1.0]).generation == 5

    one.before_answer = another_thread
    assert client.act([1.0]).generation == 4
    one.generation, fleet.machines[TWO].generation = 4, 4
    with pytest.raises(StaleError):
        client.act([1.0])


def test_a_generation_that_is_no_number_is_an_error(fleet: Fleet) -> None:
    """A proxy, or a server of another kind."""
    fleet.machines[ONE].generation = "latest"
    with pytest.raises(ServerError, match="'latest', expected a whole number"):
        fleet.client().act([1.0])


def test_a_client_stays_with_a_server_and_goes_to_the_next_where_that_is_gone(fleet: Fleet) -> None:
    """No call fails, and a server that comes back is not asked before the present one fails."""
    client = fleet.client()
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    for _ in range(3):
        client.act([1.0])
    assert (one.asked, two.asked) == (3, 0)
    one.error = UnreachableError("gone")
    for _ in range(3):
        client.act([1.0])
    one.error = None
    client.act([1.0])
    assert (one.asked, two.asked) == (3, 4)
    two.error = NotServedError("walker is not served")
    client.act([1.0])
    assert one.asked == 4
    assert client.served().release == "1.0.0"
    client.close()
    assert one.closed
    assert two.closed


def test_clients_of_one_list_spread_over_it(fleet: Fleet) -> None:
    """Each stays with one; not all with the first."""

    class Client(PolicyClient):
        def _connect(self, protocol: Protocol, url: str, *, shared_memory: bool) -> Any:
            return fleet.machines[url]

    for _ in range(200):
        Client("walker", url=[ONE, TWO]).act([1.0])
    assert min(machine.asked for machine in fleet.machines.values()) > 0


def test_a_slot_means_another_release_on_another_server(fleet: Fleet) -> None:
    """An action is attributed by what its own server says."""
    client = fleet.client()
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    two.release = "1.1.0"
    assert client.act([1.0]).release == "1.0.0"
    one.error = UnreachableError("gone")
    assert client.act([1.0]).release == "1.1.0"
    one.error, two.error = None, UnreachableError("gone")
    assert client.act([1.0]).release == "1.0.0"


def test_another_contract_on_another_server_is_noticed(fleet: Fleet) -> None:
    """What the callers work by holds for the whole client."""
    client = fleet.client()
    client.act([1.0])
    fleet.machines[ONE].error = UnreachableError("gone")
    fleet.machines[TWO].release, fleet.machines[TWO].contract = "2.0.0", contract(size=2)
    with pytest.raises(IncompatibleReleaseError, match=r"2\.0\.0"):
        client.act([1.0])


def test_a_server_that_lets_a_deadline_pass_is_not_asked_again_next(fleet: Fleet) -> None:
    """The deadline is over, so that call is an error; the next one does not wait for the same server."""
    client = fleet.client()
    fleet.machines[ONE].error = DeadlineError("late")
    with pytest.raises(DeadlineError):
        client.act([1.0])
    client.act([1.0])
    assert fleet.machines[TWO].asked == 1


def test_a_question_that_is_refused_is_not_asked_elsewhere(fleet: Fleet) -> None:
    """It is wrong everywhere."""
    client = fleet.client()
    fleet.machines[ONE].error = RefusedError("wrong")
    with pytest.raises(RefusedError):
        client.act([1.0])
    assert fleet.machines[TWO].asked == 0


def test_where_no_server_answers_the_error_names_what_each_said(fleet: Fleet) -> None:
    """And it has the kind that they share."""
    client = fleet.client()
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    one.error, two.error = NotServedError("one does not serve it"), NotServedError("two does not serve it")
    with pytest.raises(NotServedError, match=r"none of 2 servers has an answer: one does not.*; two does not"):
        client.act([1.0])
    two.error = UnreachableError("two is gone")
    with pytest.raises(NotServedError, match="two is gone"):
        client.act([1.0])
    one.error = UnreachableError("one is gone")
    with pytest.raises(UnreachableError, match="one is gone"):
        client.act([1.0])


def test_a_fallback_stands_in_where_no_server_answers(fleet: Fleet) -> None:
    """Not before each was asked, and after a deadline the next question begins elsewhere."""
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    episode = fleet.client().episode(fallback="last")
    episode.act([1.0])
    one.error = UnreachableError("gone")
    assert not episode.act([2.0]).fallback
    two.error = DeadlineError("late")
    one.error = None
    assert episode.act([3.0]).fallback == "last"
    assert not episode.act([4.0]).fallback
    one.error = UnreachableError("gone")
    two.error = UnreachableError("gone")
    assert episode.act([5.0]).fallback == "last"


def test_a_release_that_is_not_required_is_asked_for_elsewhere(fleet: Fleet) -> None:
    """Servers are promoted one after another."""
    fleet.machines[ONE].release = "2.0.0"
    client = fleet.client(requires="^1")
    assert client.act([1.0]).release == "1.0.0"
    fleet.machines[TWO].release = "2.0.1"
    fresh = fleet.client(requires="^1")
    with pytest.raises(IncompatibleReleaseError, match="none of 2 servers"):
        fresh.act([1.0])


def test_an_episode_survives_the_death_of_its_server(fleet: Fleet) -> None:
    """Its memory goes to the next one, if that serves the same release."""
    for machine in fleet.machines.values():
        machine.contract = contract(memory=True)
    episode = fleet.client().episode()
    assert [float(episode.act([1.0]).value[0]) for _ in range(3)] == [1.0, 2.0, 3.0]
    fleet.machines[ONE].error = UnreachableError("gone")
    assert float(episode.act([1.0]).value[0]) == 4.0
    assert fleet.machines[TWO].asked == 1


def test_an_episode_finishes_under_its_number_on_another_server(fleet: Fleet) -> None:
    """There its release may be in another slot; another release never gets its memory."""
    for machine in fleet.machines.values():
        machine.contract = contract(memory=True)
    one, two = fleet.machines[ONE], fleet.machines[TWO]
    two.release, two.slot = "1.1.0", 7
    episode = fleet.client().episode()
    episode.act([1.0])
    one.error = UnreachableError("gone")
    with pytest.raises(EpisodeInterruptedError, match=r"not served any more"):
        episode.act([1.0])
    two.pinned = {"1.0.0": 4}
    action = episode.act([1.0])
    assert (float(action.value[0]), action.release, action.slot) == (2.0, "1.0.0", 4)
    one.error, two.error = None, UnreachableError("gone")
    assert float(episode.act([1.0]).value[0]) == 3.0, "the alias of the first one serves its release"


def test_an_episode_that_no_server_can_go_on_with_is_interrupted(fleet: Fleet) -> None:
    """All of them have moved."""
    for machine in fleet.machines.values():
        machine.contract = contract(memory=True)
    episode = fleet.client().episode(on_switch="refuse")
    episode.act([1.0])
    for machine in fleet.machines.values():
        machine.release, machine.slot = "1.1.0", 2
    with pytest.raises(EpisodeInterruptedError):
        episode.act([1.0])


def test_the_asyncio_client_asks_elsewhere_too(fleet: Fleet) -> None:
    """Both clients are driven by the same steps."""

    @dataclass
    class Awaited:
        machine: Machine

        async def perform(self, call: Call, timeout_s: float) -> Reply:
            return self.machine.perform(call, timeout_s)

        async def close(self) -> None:
            self.machine.close()

    class Client(AsyncPolicyClient):
        def _connect(self, protocol: Protocol, url: str, *, shared_memory: bool) -> Any:
            return Awaited(fleet.machines[url])

    async def ask() -> None:
        async with Client("walker", url=[ONE, TWO]) as client:
            for gone in (ONE, TWO):
                for url, machine in fleet.machines.items():
                    machine.error = UnreachableError("gone") if url == gone else None
                assert (await client.act([1.0])).release == "1.0.0"

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("url", "message"),
    [([], "names no server"), ([ONE, ONE], "names a server twice"), ([ONE, "http://two"], "is not host:port")],
)
def test_a_list_of_servers_is_checked(url: list[str], message: str) -> None:
    """Before anything is connected."""
    with pytest.raises(UsageError, match=message):
        PolicyClient("walker", url=url)
