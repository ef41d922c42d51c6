"""What an episode does besides carrying memory: chunks, frames, what it knows itself, fallbacks and blending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from client_fakes import model_config
from hypothesis import given
from hypothesis import strategies as st

from policyctl.client import AsyncPolicyClient, DeadlineError, PolicyClient, RefusedError, UnreachableError
from policyctl.client.calls import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.domain.chunk import Chunk, ChunkQueue
from policyctl.domain.contract import ActionKind, Contract, State
from policyctl.domain.drive import Drive, DriveKind
from policyctl.domain.history import History
from policyctl.domain.tensor import Role, TensorSpec
from policyctl.errors import UsageError

WAIT_S = 60.0
"""For what has to happen; never for how long it takes."""
OBSERVATION = TensorSpec("observation", "float32", (1,))
PLAIN = Contract((OBSERVATION,), (TensorSpec("action", "float32", (1,)),), ActionKind.CONTINUOUS)
CHUNKED = Contract(
    (OBSERVATION,), (TensorSpec("action", "float32", (4, 1)),), ActionKind.CONTINUOUS, chunk=Chunk(4, execute=2)
)

Policy = Callable[[dict[str, Any]], Any]


def plan(inputs: dict[str, Any]) -> Any:
    """Four actions: the observation, and 0.1, 0.2 and 0.3 more."""
    return inputs["observation"][:, None, :] + np.arange(4, dtype=np.float32)[:, None] / 10


def same(inputs: dict[str, Any]) -> Any:
    return inputs["observation"]


@dataclass
class Server:
    """One alias; what it serves and whether it answers is the test's to say."""

    contract: Contract = CHUNKED
    policy: Policy = plan
    release: str = "1.0.0"
    slot: int = 1
    errors: list[Exception | None] = field(default_factory=list)
    asked: list[Infer] = field(default_factory=list)
    gate: threading.Event | None = None
    reached: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def perform(self, call: Call, timeout_s: float) -> Reply:
        match call:
            case FetchConfig():
                return model_config(self.contract, self.release, self.slot)
            case FetchCounters():
                return Counters()
            case Infer():
                self.asked.append(call)
                self.reached.release()
                if self.gate is not None:
                    assert self.gate.wait(WAIT_S)
                if self.errors and (error := self.errors.pop(0)) is not None:
                    raise error
                outputs = {"action": np.asarray(self.policy(dict(call.inputs)), self.contract.action.dtype)}
                if "h_in" in call.inputs:
                    outputs["h_out"] = call.inputs["h_in"] + np.float32(1)
                return Answer(self.slot, call.request_id, outputs, {}, 1.0)

    def promote(self, release: str, policy: Policy) -> None:
        self.release, self.slot, self.policy = release, self.slot + 1, policy

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> PolicyClient:
    return PolicyClient("arm", url="127.0.0.1:1", transport=server)


def values(actions: list[Any]) -> list[float]:
    return [round(float(np.asarray(action.value).reshape(-1)[0]), 4) for action in actions]


def test_a_chunk_is_handed_out_one_action_at_a_time(server: Server, client: PolicyClient) -> None:
    """As many as the contract says are carried out, and then the policy is asked again."""
    with client.episode() as episode:
        actions = [episode.act([float(step)]) for step in range(5)]
    assert values(actions) == [0.0, 0.1, 2.0, 2.1, 4.0]
    assert [action.step for action in actions] == [0, 1, 0, 1, 0]
    assert [action.value.shape for action in actions] == [(1,)] * 5
    assert len(server.asked) == 3
    assert actions[1].request_id == actions[0].request_id, "it names the request that it came with"
    assert client.act([7.0]).value.shape == (4, 1), "without an episode the answer is the whole chunk"


def test_a_reset_drops_what_is_left_of_a_chunk(client: PolicyClient) -> None:
    """The first action of an episode answers its first observation."""
    episode = client.episode()
    episode.act([0.0])
    episode.reset()
    assert values([episode.act([5.0])]) == [5.0]


def test_rows_with_chunks_are_asked_about_when_each_is_due(server: Server, client: PolicyClient) -> None:
    """Rows that are reset apart need their next chunk at another step."""
    episodes = [client.episode(), client.episode()]
    taken = []
    for step in range(4):
        if step == 1:
            episodes[1].reset()
        taken.append(client.act_batch([[float(step)], [10.0 + step]], episodes=episodes))
    assert [[round(float(v), 4) for v in action.value[:, 0]] for action in taken] == [
        [0.0, 10.0],
        [0.1, 11.0],
        [2.0, 11.1],
        [2.1, 13.0],
    ]
    assert [len(call.inputs["observation"]) for call in server.asked] == [2, 1, 1, 1]


@given(
    st.tuples(st.integers(2, 8), st.integers(1, 8), st.integers(0, 7))
    .map(lambda shape: (Chunk(shape[0], min(shape[:2])), shape[2]))
    .map(lambda pair: (pair[0], min(pair[1], pair[0].most_ahead))),
    st.lists(st.integers(0, 12), min_size=1, max_size=20),
)
def test_an_action_is_for_its_step_however_late_its_answer_comes(plan: tuple[Chunk, int], delays: list[int]) -> None:
    """Of each answer only the actions of steps that are still to come are used, and so many as the contract says."""
    chunk, ahead = plan
    queue, flying = ChunkQueue[int](ahead), list[tuple[int, int]]()
    used: dict[int, int] = {}
    for step in range(60):
        if not flying and (queue.is_due if not ahead else queue.is_empty or queue.is_due_ahead):
            flying.append((step, step + delays[step % len(delays)]))
        for asked, arrives in list(flying):
            if arrives <= step:
                flying.remove((asked, arrives))
                queue.put(chunk, asked, np.arange(asked, asked + chunk.horizon), asked)
        if not queue.is_empty:
            action, place, asked = queue.take()
            assert action == step == asked + place
            used[asked] = used.get(asked, 0) + 1
        queue.advance()
    if set(delays) <= {0, ahead}:
        assert all(count <= chunk.execute for count in used.values()), "an early answer waits for its turn"


def test_the_next_chunk_is_requested_while_the_loop_goes_on(server: Server, client: PolicyClient) -> None:
    """What comes late replaces the rest of the old chunk, without its stale actions."""
    episode = client.episode(ahead_steps=1)
    first = episode.act([0.0])
    server.gate = threading.Event()
    second = episode.act([1.0])
    assert server.reached.acquire(timeout=WAIT_S)
    assert server.reached.acquire(timeout=WAIT_S), "the question about step 1 is with the server"
    third = episode.act([2.0])
    assert values([first, second, third]) == [0.0, 0.1, 0.2], "nothing waited"
    server.gate.set()
    pending = episode.course.pending
    assert pending is not None
    pending.task.result(WAIT_S)  # type: ignore[attr-defined]
    fourth = episode.act([3.0])
    assert values([fourth]) == [1.2], "the answer to step 1 has its third action for step 3"
    assert fourth.step == 2


def settled(episode: Any) -> None:
    """Wait until the question that was sent ahead has its answer, or its error."""
    if episode.course.pending is not None:
        episode.course.pending.task.exception(WAIT_S)


def test_an_answer_that_comes_early_waits_for_its_turn(server: Server, client: PolicyClient) -> None:
    """As many actions of each answer are carried out as the contract says, and no observation is sent twice."""
    episode = client.episode(ahead_steps=1)
    actions = []
    for step in range(8):
        actions.append(episode.act([float(step)]))
        settled(episode)
    assert values(actions) == [0.0, 0.1, 1.1, 1.2, 3.1, 3.2, 5.1, 5.2]
    assert [float(call.inputs["observation"][0, 0]) for call in server.asked] == [0.0, 1.0, 3.0, 5.0, 7.0]
    episode.reset()
    assert values([episode.act([50.0])]) == [50.0], "an answer to an earlier episode is dropped"


def test_memory_goes_on_by_one_answer_after_another(server: Server, client: PolicyClient) -> None:
    """Also where each is requested ahead: none begins from a memory that another question has moved on already."""
    memory, after = TensorSpec("h_in", "float32", (1,)), TensorSpec("h_out", "float32", (1,))
    server.contract = replace(
        CHUNKED,
        observations=(OBSERVATION, memory),
        outputs=(CHUNKED.action, after),
        states=(State("h_in", "h_out"),),
    )
    server.policy = lambda inputs: plan({"observation": inputs["h_in"] * 10})
    for ahead in (0, 1):
        episode = client.episode(ahead_steps=ahead)
        actions = []
        for step in range(6):
            actions.append(episode.act([float(step)]))
            settled(episode)
        assert [round(value) for value in values(actions)] == [0, 0, 10, 10, 20, 20]


def test_a_question_ahead_is_about_the_observation_as_it_was(server: Server, client: PolicyClient) -> None:
    """A loop may write the next step into the same array before the question is sent."""
    episode, observation = client.episode(ahead_steps=1), np.float32([0.0])
    server.gate = threading.Event()
    server.gate.set()
    for step in range(20):
        observation[:] = step
        action = episode.act(observation)
        observation[:] = -99.0
        assert values([action]) == [round(step - action.step + action.step / 10, 4)]


def test_what_a_caller_does_to_an_action_stays_with_the_caller(server: Server, client: PolicyClient) -> None:
    """The episode keeps a copy for its fallback, and gives one."""
    server.contract, server.policy = PLAIN, same
    episode = client.episode(fallback="last")
    server.errors = [None, *[DeadlineError("late")] * 3]
    for _ in range(4):
        action = episode.act([4.0])
        assert values([action]) == [4.0]
        action.value *= 0.5


def test_a_frame_that_is_not_finite_is_refused_before_it_is_remembered(server: Server, client: PolicyClient) -> None:
    """Also in a step that needs no answer: it would stay in the history."""
    observation = TensorSpec("observation", "float32", (3,))
    server.contract = replace(CHUNKED, observations=(observation,), histories=(History("observation", 3),))
    server.policy = lambda inputs: plan({"observation": inputs["observation"].sum(axis=1, keepdims=True)})
    episode = client.episode(frames=True)
    assert values([episode.act([1.0])]) == [1.0]
    with pytest.raises(UsageError, match="not finite"):
        episode.act([np.nan])
    assert values([episode.act([2.0]), episode.act([3.0])]) == [1.1, 6.0]


def test_a_batch_has_an_episode_a_row(server: Server, client: PolicyClient) -> None:
    """Neither a row too many nor one too few is acted on."""
    for rows in (1, 3):
        with pytest.raises(UsageError, match=f"{rows} observations and 2 episodes"):
            client.act_batch([[1.0]] * rows, episodes=[client.episode(), client.episode()])
    assert not server.asked


def test_a_chunk_goes_on_with_an_observation_that_is_a_number(client: PolicyClient) -> None:
    """A space of one number takes it."""
    episode = client.episode()
    assert values([episode.act(2.0), episode.act(3.0)]) == [2.0, 2.1]


def test_a_batch_says_which_of_its_rows_fall_back_and_how(server: Server, client: PolicyClient) -> None:
    """One row still has a chunk, and of the others each has its own fallback."""
    fresh, spent, still = (client.episode(fallback=how) for how in ("last", "last", "zero"))
    for episode in (spent, still):
        server.errors = [None, DeadlineError("late"), DeadlineError("late")]
        values([episode.act([1.0]) for _ in range(4)])
    fresh.act([5.0])
    server.errors = [DeadlineError("late")]
    action = client.act_batch([[5.0], [1.0], [1.0]], episodes=[fresh, spent, still])
    assert (action.fallback, action.fallbacks) == ("last", ("", "last", "zero"))
    assert action.value[:, 0].tolist() == pytest.approx([5.1, 1.3, 0.0])


def test_rows_of_a_batch_fall_back_together_and_blend(server: Server, client: PolicyClient) -> None:
    """No row moves on where one has no answer."""
    server.contract, server.policy = PLAIN, same
    episodes = [client.episode(fallback="last", blend_steps=1) for _ in range(2)]
    server.errors = [None, DeadlineError("late"), None]
    rows = [client.act_batch([[a], [b]], episodes=episodes) for a, b in ((1.0, 2.0), (3.0, 4.0))]
    assert [row.value[:, 0].tolist() for row in rows] == [[1.0, 2.0], [1.0, 2.0]]
    assert [row.fallback for row in rows] == ["", "last"]
    assert [row.fallbacks for row in rows] == [(), ("last", "last")]
    server.promote("1.1.0", lambda inputs: inputs["observation"] + 8)
    mixed = client.act_batch([[1.0], [2.0]], episodes=episodes)
    assert mixed.value[:, 0].tolist() == [5.0, 6.0]
    assert mixed.blended_from == "1.0.0"


def test_a_closed_client_says_so_to_whoever_waits(server: Server, client: PolicyClient) -> None:
    """Also where a question ahead could not be sent."""
    episode = client.episode(ahead_steps=1)
    episode.act([0.0])
    client.close()
    with pytest.raises(UsageError, match="closed"):
        episode.act([1.0])


def test_a_question_ahead_that_failed_is_asked_again(server: Server, client: PolicyClient) -> None:
    """It costs nothing while the old chunk lasts."""
    episode = client.episode(ahead_steps=1)
    server.errors = [None, UnreachableError("gone"), None]
    episode.act([0.0])
    episode.act([1.0])
    pending = episode.course.pending
    assert pending is not None
    assert isinstance(pending.task.exception(WAIT_S), UnreachableError)  # type: ignore[attr-defined]
    episode.act([2.0])
    pending = episode.course.pending
    assert pending is not None
    pending.task.result(WAIT_S)  # type: ignore[attr-defined]
    assert values([episode.act([3.0])]) == [2.1]


def test_a_question_ahead_that_is_refused_is_an_error(server: Server, client: PolicyClient) -> None:
    """A wrong question does not become right by waiting."""
    episode = client.episode(ahead_steps=1, fallback="last")
    server.errors = [None, RefusedError("wrong")]
    episode.act([0.0])
    episode.act([1.0])
    pending = episode.course.pending
    assert pending is not None
    pending.task.exception(WAIT_S)  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="wrong"):
        episode.act([2.0])


def test_the_asyncio_client_asks_ahead_as_well(server: Server) -> None:
    """Its loop goes on while the answer is on its way."""

    @dataclass
    class Slow:
        gate: asyncio.Event = field(default_factory=asyncio.Event)
        asked: int = 0

        async def perform(self, call: Call, timeout_s: float) -> Reply:
            if isinstance(call, Infer):
                self.asked += 1
                if self.asked == 2:
                    await self.gate.wait()
            return server.perform(call, timeout_s)

        async def close(self) -> None:
            """Nothing is open."""

    async def drive() -> list[Any]:
        transport = Slow()
        async with AsyncPolicyClient("arm", url="127.0.0.1:1", transport=transport) as client:
            episode = client.episode(ahead_steps=1)
            actions = [await episode.act([float(step)]) for step in range(3)]
            transport.gate.set()
            pending = episode.course.pending
            assert pending is not None
            await asyncio.wait_for(asyncio.shield(pending.task), WAIT_S)  # type: ignore[call-overload]
            return [*actions, await episode.act([3.0])]

    assert values(asyncio.run(drive())) == [0.0, 0.1, 0.2, 1.2]


FALLBACKS = [
    ("last", None, 3.0),
    ("zero", None, 0.0),
    ("hold", Drive(DriveKind.POSITION), 3.0),
    ("hold", Drive(DriveKind.VELOCITY, in_graph=True), 0.0),
    ("hold", Drive(DriveKind.VELOCITY, scale=0.5, offset=0.25, in_graph=False), -0.5),
]


@pytest.mark.parametrize(("fallback", "drive", "value"), FALLBACKS)
def test_a_declared_action_stands_in_where_no_answer_comes(
    server: Server, client: PolicyClient, fallback: str, drive: Drive | None, value: float
) -> None:
    """It says so, it names no release that did not act, and the next answer ends it."""
    server.contract, server.policy = replace(PLAIN, drive=drive), same
    episode = client.episode(fallback=fallback)
    server.errors = [None, DeadlineError("late"), UnreachableError("gone"), None]
    actions = [episode.act([step]) for step in (3.0, 4.0, 5.0, 6.0)]
    assert values(actions) == [3.0, value, value, 6.0]
    assert [action.fallback for action in actions] == ["", fallback, fallback, ""]
    assert actions[1].value.dtype == np.float32
    assert actions[1].release == "1.0.0"


def test_a_fallback_ends_after_so_many_steps(server: Server, client: PolicyClient) -> None:
    """A machine whose server is gone is not kept going by an old action for ever."""
    server.contract, server.policy = PLAIN, same
    episode = client.episode(fallback="last", most_fallbacks=2)
    server.errors = [None, *[DeadlineError("late")] * 3, None, DeadlineError("late")]
    episode.act([3.0])
    assert [episode.act([4.0]).fallback for _ in range(2)] == ["last", "last"]
    with pytest.raises(DeadlineError):
        episode.act([5.0])
    assert not episode.act([6.0]).fallback
    assert episode.act([7.0]).fallback == "last", "an answer counts them from the start again"


def test_without_a_fallback_an_error_is_raised(server: Server, client: PolicyClient) -> None:
    """That is the default; and before any answer nothing is known that could stand in."""
    server.contract, server.policy = PLAIN, same
    server.errors = [DeadlineError("late")] * 2
    for options in ({}, {"fallback": "zero"}):
        with pytest.raises(DeadlineError):
            client.episode(**options).act([1.0])  # type: ignore[arg-type]


def test_the_rest_of_a_chunk_comes_before_a_fallback(server: Server, client: PolicyClient) -> None:
    """The old plan still has actions for these steps."""
    episode = client.episode(fallback="zero")
    server.errors = [None, *[DeadlineError("late")] * 3]
    actions = [episode.act([1.0]) for _ in range(5)]
    assert values(actions) == [1.0, 1.1, 1.2, 1.3, 0.0]
    assert [action.fallback for action in actions] == [""] * 4 + ["zero"]


def test_another_release_takes_over_step_by_step(server: Server, client: PolicyClient) -> None:
    """Blending goes from the last action of the old release to those of the new one."""
    server.contract, server.policy = PLAIN, same
    episode, other = client.episode(blend_steps=3), client.episode()
    before = [episode.act([0.0]), other.act([0.0])]
    server.promote("1.1.0", lambda inputs: inputs["observation"] + 8)
    after = [episode.act([0.0]) for _ in range(5)]
    assert values([*before, *after]) == [0.0, 0.0, 2.0, 4.0, 6.0, 8.0, 8.0]
    assert [action.blended_from for action in after] == ["1.0.0"] * 3 + [""] * 2
    assert {action.release for action in after} == {"1.1.0"}
    assert values([other.act([0.0])]) == [8.0], "off unless it is asked for"


def test_an_episode_makes_its_histories_itself(server: Server, client: PolicyClient) -> None:
    """One step at a time goes in; a step that failed is given once more."""
    observation = TensorSpec("observation", "float32", (3,))
    server.contract = replace(PLAIN, observations=(observation,), histories=(History("observation", 3),))
    server.policy = lambda inputs: inputs["observation"] @ np.float32([[100], [10], [1]])
    episodes = [client.episode(frames=True) for _ in range(2)]
    server.errors = [None, DeadlineError("late")]
    assert values([episodes[0].act([1.0])]) == [1.0]
    with pytest.raises(DeadlineError):
        episodes[0].act([2.0])
    assert values([episodes[0].act([2.0])]) == [12.0]
    both = client.act_batch([[3.0], [7.0]], episodes=episodes)
    assert [float(v) for v in both.value[:, 0]] == [123.0, 7.0]
    episodes[0].reset()
    assert values([episodes[0].act([4.0])]) == [4.0]
    assert values([client.act([1.0, 2.0, 3.0])]) == [123.0], "whole observations go in as before"


def test_an_episode_gives_what_it_knows_itself(server: Server, client: PolicyClient) -> None:
    """The action before and the number of the step, unless the caller gives them."""
    before = TensorSpec("last", "float32", (1,), role=Role.PREVIOUS_ACTION)
    time = TensorSpec("t", "int64", (1,), role=Role.TIME_STEP)
    server.contract = replace(PLAIN, observations=(OBSERVATION, before, time))
    server.policy = lambda inputs: inputs["observation"] + 10 * inputs["last"] + 1000 * inputs["t"]
    with client.episode() as episode:
        assert values([episode.act([step]) for step in (1.0, 2.0)]) == [1.0, 1012.0]
        assert values([episode.act({"observation": [3.0], "t": [7], "last": [0.0]})]) == [7003.0]
        episode.reset()
        assert values([episode.act([1.0])]) == [1.0]
    with pytest.raises(UsageError, match="last"):
        client.act([1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fallback": "stop"}, "fallback is 'stop', expected one of last, zero, hold"),
        ({"on_switch": "stay"}, "on_switch is 'stay', expected one of finish, reset, refuse"),
        ({"most_fallbacks": 0}, "most_fallbacks is 0, expected 1 or more"),
        ({"blend_steps": -1}, "blend_steps is -1, expected 0 or more"),
        ({"blend": 3}, "unknown option blend"),
        ({"frames": True}, "the contract states no histories"),
        ({"ahead_steps": 1}, "the contract states no chunk"),
        ({"ahead_steps": -1}, "ahead_steps is -1, expected 0 or more"),
        ({"fallback": "hold"}, "what the action commands is unknown"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    server: Server, client: PolicyClient, options: dict[str, Any], message: str
) -> None:
    """Before a step is taken; the error says what goes."""
    server.contract, server.policy = PLAIN, same
    with pytest.raises(UsageError, match=message):
        client.episode(**options).act([1.0])
    assert not server.asked


def test_a_chunk_that_is_too_short_is_not_requested_ahead(server: Server, client: PolicyClient) -> None:
    """An answer would be requested before the one before it is used."""
    with pytest.raises(UsageError, match="ahead_steps is 2, expected 1 or less: 4 actions an answer"):
        client.episode(ahead_steps=2).act([1.0])
    assert not server.asked


def test_only_numbers_that_mean_an_amount_are_blended(server: Server, client: PolicyClient) -> None:
    """Half of choice 2 is not choice 1."""
    server.contract = Contract((OBSERVATION,), (TensorSpec("action", "int64", (1,)),), ActionKind.DISCRETE)
    with pytest.raises(UsageError, match="the action is discrete"):
        client.episode(blend_steps=2).act([1.0])


def test_a_batch_is_not_asked_about_ahead(client: PolicyClient) -> None:
    """Its rows would need answers at different steps."""
    with pytest.raises(UsageError, match="one observation at a time"):
        client.act_batch([[1.0]], episodes=[client.episode(ahead_steps=1)])
