"""A policy's memory travels with its episode: no release goes on from what another one remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from client_fakes import model_config
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policyctl.client import AsyncPolicyClient, EpisodeInterruptedError, NotServedError, PolicyClient
from policyctl.client.calls import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.errors import IncompatibleReleaseError, RefusedError
from policyctl.domain.contract import ActionKind, Contract, State
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

URL = "127.0.0.1:1"


@dataclass(frozen=True)
class Release:
    """A policy that adds up what it saw, `factor` times, and acts on the sum; without a size it remembers nothing."""

    name: str
    factor: float
    size: int = 1
    initial: float = 0.0

    @property
    def contract(self) -> Contract:
        action = TensorSpec("action", "float32", (1,))
        observation = TensorSpec("observation", "float32", (1,))
        if not self.size:
            return Contract((observation,), (action,), ActionKind.CONTINUOUS)
        return Contract(
            (observation, TensorSpec("h_in", "float32", (self.size,))),
            (action, TensorSpec("h_out", "float32", (self.size,))),
            ActionKind.CONTINUOUS,
            states=(State("h_in", "h_out", self.initial),),
        )

    def step(self, memory: float, observation: float) -> float:
        return memory + self.factor * observation


ONE, TWO = Release("1.0.0", 1.0), Release("2.0.0", 100.0, initial=5.0)


@dataclass
class Server:
    """Serves releases in slots; the alias is one of them, and each pinned one has its number."""

    slots: dict[int, Release] = field(default_factory=lambda: {1: ONE, 2: TWO})
    slot: int = 1
    pinned: set[str] = field(default_factory=set)
    asked: list[Infer] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)

    def perform(self, call: Call, timeout_s: float) -> Reply:
        if self.before:
            self.before.pop(0)()
        slot = self._slot_of(call.model)
        release = self.slots[slot]
        match call:
            case FetchConfig(wanted):
                if wanted not in (None, slot):
                    raise NotServedError("gone")
                return model_config(release.contract, release.name, slot, manifest_digest=f"sha256:{slot}")
            case FetchCounters():
                return Counters()
            case Infer():
                self.asked.append(call)
                return self._answer(slot, release, call)

    def _slot_of(self, model: str) -> int:
        if not model:
            if self.slot not in self.slots:
                raise NotServedError("walker is not served")
            return self.slot
        name = model.removeprefix("walker.")
        if name not in self.pinned:
            raise NotServedError(f"{model} is not served")
        return next(slot for slot, release in self.slots.items() if release.name == name)

    def _answer(self, slot: int, release: Release, call: Infer) -> Answer:
        wanted = {spec.name: spec.shape for spec in release.contract.observations}
        if {name: array.shape[1:] for name, array in call.inputs.items()} != wanted:
            raise RefusedError("unexpected inputs")
        seen = call.inputs["observation"]
        memory = call.inputs.get("h_in", np.zeros_like(seen))
        after = memory + np.float32(release.factor) * seen
        found = {"action": after[:, :1].copy(), "h_out": after}
        return Answer(slot, call.request_id, {name: found[name] for name in call.outputs}, {}, 1.0)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> PolicyClient:
    return PolicyClient("walker", url=URL, transport=server)


def test_an_episode_remembers_and_a_reset_forgets(server: Server, client: PolicyClient) -> None:
    """The memory begins as the contract says, goes on from step to step, and begins again."""
    server.slot = 2
    with client.episode() as episode:
        assert [float(episode.act([1.0]).value[0]) for _ in range(3)] == [105.0, 205.0, 305.0]
        assert episode.release == "2.0.0"
        episode.reset()
        assert float(episode.act([1.0]).value[0]) == 105.0
    assert client.episode().release is None


def test_a_policy_with_memory_is_not_asked_without_an_episode(server: Server, client: PolicyClient) -> None:
    """It would forget at every step; the error says what to write."""
    with pytest.raises(UsageError, match="remembers its episode") as caught:
        client.act([1.0])
    assert "client.episode()" in caught.value.remedy
    assert not server.asked


def test_a_policy_without_memory_is_asked_within_an_episode_as_without(server: Server, client: PolicyClient) -> None:
    """One habit serves for all."""
    server.slots[1] = Release("1.0.0", 3.0, size=0)
    episode = client.episode()
    assert float(episode.act([2.0]).value[0]) == float(client.act([2.0]).value[0]) == 6.0
    server.slots[3], server.slot = Release("1.1.0", 4.0, size=0), 3
    assert float(episode.act([2.0]).value[0]) == 8.0
    server.slot = 2
    with pytest.raises(IncompatibleReleaseError, match="remembers its episode"):
        client.act([2.0])


def test_rows_of_a_batch_are_reset_apart(client: PolicyClient) -> None:
    """Each row has its episode."""
    episodes = [client.episode() for _ in range(3)]
    client.act_batch([[1.0], [2.0], [3.0]], episodes=episodes)
    episodes[1].reset()
    action = client.act_batch([[1.0], [2.0], [3.0]], episodes=episodes)
    assert action.value[:, 0].tolist() == [2.0, 2.0, 6.0]
    with pytest.raises(UsageError, match="2 observations and 3 episodes"):
        client.act_batch([[1.0], [2.0]], episodes=episodes)


def test_an_episode_goes_on_with_its_own_release_under_its_number(server: Server, client: PolicyClient) -> None:
    """The default; a new episode begins with the release that is served."""
    episode = client.episode()
    episode.act([1.0])
    server.slot, server.pinned = 2, {"1.0.0"}
    assert float(episode.act([1.0]).value[0]) == 2.0
    assert float(client.episode().act([1.0]).value[0]) == 105.0
    assert float(episode.act([1.0]).value[0]) == 3.0
    assert server.asked[-1].model == "walker.1.0.0"
    server.pinned.clear()
    with pytest.raises(EpisodeInterruptedError, match=r"began with release 1\.0\.0"):
        episode.act([1.0])
    episode.reset()
    assert float(episode.act([1.0]).value[0]) == 105.0


def test_an_episode_returns_to_the_alias_that_serves_its_release_again(server: Server, client: PolicyClient) -> None:
    """A rollback ends the drain; the episode goes on, and finishes under its number at the next promotion too."""
    episode = client.episode()
    episode.act([1.0])
    for total in (2.0, 5.0):
        server.slot, server.pinned = 2, {"1.0.0"}
        assert float(episode.act([1.0]).value[0]) == total
        server.slot, server.pinned = 1, set()
        assert float(episode.act([1.0]).value[0]) == total + 1
        assert server.asked[-1].model == ""
        assert float(episode.act([1.0]).value[0]) == total + 2


def test_an_episode_returns_where_a_promotion_fails_while_it_asks(server: Server, client: PolicyClient) -> None:
    """The alias is back and the pin is gone between two calls of one question."""
    episode = client.episode()
    episode.act([1.0])
    server.slot = 2
    # The alias answers and says three times what it serves, and is back before the number is asked.
    server.before = [lambda: None] * 4 + [lambda: setattr(server, "slot", 1)]
    assert float(episode.act([1.0]).value[0]) == 2.0
    assert not server.before


@pytest.mark.parametrize("requires", [None, "^1.0"])
@pytest.mark.parametrize("alias", ["other", "gone"])
def test_an_episode_that_cannot_return_is_interrupted_and_stands(
    server: Server, requires: str | None, alias: str
) -> None:
    """Whether the alias serves another release, one that the client does not accept, or none."""
    client = PolicyClient("walker", url=URL, transport=server, requires=requires)
    server.slots[3] = Release("1.1.0", 10.0)
    episode = client.episode()
    episode.act([1.0])
    server.slot, server.pinned = 3, {"1.0.0"}
    episode.act([1.0])
    server.slot, server.pinned = 2 if alias == "other" else 0, set()
    with pytest.raises(EpisodeInterruptedError, match=r"began with release 1\.0\.0"):
        episode.act([1.0])
    server.pinned = {"1.0.0"}
    assert float(episode.act([1.0]).value[0]) == 3.0


def test_a_row_of_the_release_that_is_served_asks_the_alias(server: Server, client: PolicyClient) -> None:
    """Also where another row of its batch has to ask its own number, and no number serves the first one's."""
    episodes = [client.episode() for _ in range(2)]
    episodes[0].act([1.0])
    server.slot, server.pinned = 2, {"1.0.0"}
    episodes[1].act([1.0])
    action = client.act_batch([[1.0], [1.0]], episodes=episodes)
    assert action.value[:, 0].tolist() == [2.0, 205.0]
    assert [infer.model for infer in server.asked[-2:]] == ["", "walker.1.0.0"]


def test_rows_of_several_releases_return_apart(server: Server, client: PolicyClient) -> None:
    """The row whose release the alias serves again returns; the others finish where they are."""
    server.slots[3] = Release("1.1.0", 10.0)
    episodes = [client.episode() for _ in range(3)]
    for slot, episode in zip((1, 2, 3), episodes, strict=True):
        server.slot = slot
        episode.act([1.0])
    server.pinned = {"1.0.0", "2.0.0"}
    client.act_batch([[1.0]] * 3, episodes=episodes)
    server.slot, server.pinned = 1, {"1.1.0", "2.0.0"}
    for step in (3, 4):
        action = client.act_batch([[1.0]] * 3, episodes=episodes)
        assert action.value[:, 0].tolist() == [step * 1.0, 5.0 + step * 100.0, step * 10.0]
        assert action.releases == ("1.0.0", "2.0.0", "1.1.0")
    assert [infer.model for infer in server.asked[-3:]] == ["", "walker.1.1.0", "walker.2.0.0"]
    server.pinned.discard("1.1.0")
    with pytest.raises(EpisodeInterruptedError, match=r"began with release 1\.1\.0"):
        client.act_batch([[1.0]] * 3, episodes=episodes)
    server.slot, server.pinned = 3, {"1.0.0", "2.0.0"}
    action = client.act_batch([[1.0]] * 3, episodes=episodes)
    assert action.value[:, 0].tolist() == [5.0, 505.0, 50.0]


@pytest.mark.parametrize("size", [1, 4])
def test_a_switch_resets_or_is_refused_where_the_caller_says_so(
    server: Server, client: PolicyClient, size: int
) -> None:
    """Also where the memory of the new release has another shape, and the server refuses the old one."""
    server.slots[2] = Release("2.0.0", 100.0, size=size, initial=5.0)
    resets, refuses = client.episode(on_switch="reset"), client.episode(on_switch="refuse")
    for episode in (resets, refuses):
        episode.act([1.0])
    server.slot = 2
    assert float(resets.act([1.0]).value[0]) == 105.0
    with pytest.raises(EpisodeInterruptedError, match=r"2\.0\.0 is served now"):
        refuses.act([1.0])
    with pytest.raises(UsageError, match="expected one of finish, reset, refuse"):
        client.episode(on_switch="hope")


def test_an_answer_that_another_release_gave_to_the_memory_is_thrown_away(server: Server, client: PolicyClient) -> None:
    """Though shapes and contracts are the same, and the switch came after the question was sent."""
    server.slots[2] = Release("1.1.0", 10.0)
    episode = client.episode(on_switch="reset")
    episode.act([1.0])
    server.before = [lambda: setattr(server, "slot", 2)]
    action = episode.act([1.0])
    assert (float(action.value[0]), action.release) == (10.0, "1.1.0")


def test_a_failed_question_leaves_the_episode_where_it_stood(server: Server, client: PolicyClient) -> None:
    """Asking again is safe, for no row has gone on alone."""
    episodes = [client.episode() for _ in range(2)]
    client.act_batch([[1.0], [1.0]], episodes=episodes)
    server.slot, server.pinned = 2, {"1.0.0"}
    episodes[0].reset()
    server.before = [lambda: None, lambda: None, lambda: None, server.pinned.clear]
    with pytest.raises(EpisodeInterruptedError):
        client.act_batch([[1.0], [1.0]], episodes=episodes)
    server.pinned.add("1.0.0")
    action = client.act_batch([[1.0], [1.0]], episodes=episodes)
    assert action.value[:, 0].tolist() == [105.0, 2.0]
    assert action.releases == ("2.0.0", "1.0.0")


def test_the_asyncio_client_has_episodes_too(server: Server) -> None:
    """The same ones, to be awaited."""

    class Transport:
        async def perform(self, call: Call, timeout_s: float) -> Reply:
            return server.perform(call, timeout_s)

        async def close(self) -> None:
            """Nothing is open."""

    async def play() -> list[float]:
        async with AsyncPolicyClient("walker", url=URL, transport=Transport()) as client:
            episode = client.episode()
            return [float((await episode.act([1.0])).value[0]) for _ in range(3)]

    assert asyncio.run(play()) == [1.0, 2.0, 3.0]


class Episodes(RuleBasedStateMachine):
    """Every answer is that of the episode's own release to the episode's own memory, whatever is promoted when."""

    @initialize(on_switch=st.sampled_from(["finish", "reset", "refuse"]), size=st.sampled_from([1, 3]))
    def begin(self, on_switch: str, size: int) -> None:
        releases = [ONE, Release("1.1.0", 10.0, initial=2.0), Release("2.0.0", 100.0, size=size)]
        self.server = Server(dict(enumerate(releases, 1)))
        self.client = PolicyClient("walker", url=URL, transport=self.server)
        self.on_switch = on_switch
        self.episodes = [self.client.episode(on_switch=on_switch) for _ in range(3)]
        self.expected: list[tuple[Release, float] | None] = [None] * 3
        self.left = self.server.slot

    def soon(self, delay: int, happens: Callable[[], object]) -> None:
        """At once, or between two calls of a later question."""
        if delay:
            self.server.before = [lambda: None] * (delay - 1) + [happens]
        else:
            happens()

    @rule(slot=st.integers(1, 3), delay=st.integers(0, 2))
    def promote(self, slot: int, delay: int) -> None:
        self.soon(delay, lambda: setattr(self.server, "slot", slot))

    @rule(slot=st.integers(1, 3))
    def promote_and_drain(self, slot: int) -> None:
        self.left = self.server.slot
        self.server.pinned.add(self.server.slots[self.left].name)
        self.server.slot = slot

    @rule(delay=st.integers(0, 4))
    def the_alias_returns(self, delay: int) -> None:
        """A promotion that fails puts the alias back, and takes its pin back."""
        left = self.left

        def fail() -> None:
            self.server.slot = left
            self.server.pinned.discard(self.server.slots[left].name)

        self.soon(delay, fail)

    @rule(name=st.sampled_from(["1.0.0", "1.1.0", "2.0.0"]))
    def pin(self, name: str) -> None:
        self.server.pinned.add(name)

    @rule(name=st.sampled_from(["1.0.0", "1.1.0", "2.0.0"]), delay=st.integers(0, 4))
    def the_pin_goes(self, name: str, delay: int) -> None:
        self.soon(delay, lambda: self.server.pinned.discard(name))

    @rule(index=st.integers(0, 2))
    def reset(self, index: int) -> None:
        self.episodes[index].reset()
        self.expected[index] = None

    @rule(rows=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True), seen=st.integers(1, 9))
    def act(self, rows: list[int], seen: int) -> None:
        quiet = not self.server.before
        try:
            action = self.client.act_batch([[float(seen)]] * len(rows), episodes=[self.episodes[row] for row in rows])
        except EpisodeInterruptedError:
            assert self.on_switch != "reset"
            assert not quiet or any(self.is_stranded(row) for row in rows)
            return
        except RefusedError:
            # The alias went there and back while one question was asked.
            assert not quiet
            for row in rows:
                if self.episodes[row].release is None:
                    self.expected[row] = None
            return
        names = action.releases or (action.release,) * len(rows)
        for value, name, row in zip(action.value[:, 0].tolist(), names, rows, strict=True):
            release = next(each for each in self.server.slots.values() if each.name == name)
            before = self.expected[row]
            if before is None or before[0] != release:
                assert before is None or self.on_switch == "reset"
                before = (release, release.initial)
            begins = [before[1]]
            if self.on_switch == "reset" and not quiet:
                begins.append(release.initial)  # it may have begun again before the alias came back
            assert value in [release.step(memory, seen) for memory in begins]
            self.expected[row] = (release, value)

    def is_stranded(self, row: int) -> bool:
        """Whether nothing that the episode may ask serves its release."""
        name = self.episodes[row].release
        reachable = {self.server.slots[self.server.slot].name}
        if self.on_switch == "finish":
            reachable |= self.server.pinned
        return name is not None and name not in reachable

    @invariant()
    def knows_its_release(self) -> None:
        if hasattr(self, "expected"):
            for episode, expected in zip(self.episodes, self.expected, strict=True):
                if self.on_switch != "reset":
                    assert episode.release == (None if expected is None else expected[0].name)


TestEpisodes = Episodes.TestCase
TestEpisodes.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
