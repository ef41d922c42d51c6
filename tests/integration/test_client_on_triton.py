"""The client against the real Triton, over both protocols, blocking and by asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from embedded import PATIENCE_S, wait_for
from toy_triton import (
    HELD,
    MAX_BATCH,
    SLEEP_S,
    SLEEPY,
    ToyModel,
    ToyTriton,
    continuous_contract,
    discrete_contract,
    toy_triton,
)

from policyctl.client import (
    Action,
    AsyncPolicyClient,
    DeadlineError,
    IncompatibleReleaseError,
    NotServedError,
    PolicyClient,
    TimingSource,
    UnknownReleaseError,
    UnreachableError,
)
from policyctl.domain.contract import Contract
from policyctl.errors import ServerError, UsageError

pytestmark = pytest.mark.server

both = pytest.mark.parametrize("protocol", ["grpc", "http"])

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
WALKER = ToyModel(discrete_contract(start=5), {1: WEIGHTS, 2: -WEIGHTS}, {1: "1.0.0", 2: "1.1.0"})
SECOND = [0.0, 1.0, 0.0, 0.0]
SLOW = [SLEEPY, 0.0, 0.0, 0.0]
LATE = [HELD, 0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyTriton]:
    with toy_triton(tmp_path_factory.mktemp("client")) as running:
        running.serve("walker", WALKER, 1)
        yield running


@pytest.fixture
def fresh(server: ToyTriton) -> ToyTriton:
    """The server, with slot 1 of walker served."""
    server.serve("walker", WALKER, 1)
    return server


@both
def test_an_action_says_who_decided_it(fresh: ToyTriton, protocol: str) -> None:
    """A discrete action is a Python int that begins at the space's start, with its release, slot and id."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        began = time.perf_counter_ns()
        action = client.act(SECOND, request_id="turn-7")
        took_us = (time.perf_counter_ns() - began) / 1e3
    assert type(action.value) is int
    assert (action.value, action.release, action.slot, action.request_id) == (6, "1.0.0", 1, "turn-7")
    assert 0 < action.round_trip_us <= took_us
    assert list(action.outputs) == ["action"]


@both
def test_a_batch_is_one_request_with_a_row_for_each_observation(fresh: ToyTriton, protocol: str) -> None:
    """Rows come back in order, and outputs asked for beside the action come with them."""
    observations = np.eye(4)[[2, 0, 1]]
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        action = client.act_batch(observations, outputs=["logits"])
        with pytest.raises(UsageError, match=f"at most {MAX_BATCH}"):
            client.act_batch(np.zeros((MAX_BATCH + 1, 4)))
    np.testing.assert_array_equal(action.value, [7, 5, 6])
    np.testing.assert_array_equal(action.outputs["logits"], observations[:, :3])


@both
def test_a_continuous_action_is_an_array_that_may_be_written_to(fresh: ToyTriton, protocol: str) -> None:
    """Of the contract's dtype and shape; drawn ones are reproduced by their seed and lie within the bounds."""
    weights = np.ones((4, 2), dtype=np.float32)
    fresh.serve("arm.staging", ToyModel(continuous_contract(), {3: weights}, {3: "0.3.0"}), 3)
    with PolicyClient(
        "arm", alias="staging", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S
    ) as client:
        action = client.act([0.1, 0.2, 0.3, 0.4])
        drawn = [client.act([0.5, 0.5, 0.5, 0.4], deterministic=False, seed=9).value for _ in range(2)]
    assert isinstance(action.value, np.ndarray) and action.value.dtype == np.float32
    np.testing.assert_allclose(action.value, [1.0, 1.0], rtol=1e-6)
    action.value[0] = 0.0
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0]).max() <= 2.0


@both
def test_a_swap_is_noticed_by_the_answers_and_nothing_else(fresh: ToyTriton, protocol: str) -> None:
    """The release of each answer is that of the slot that gave it, before and after a swap and back."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        seen = []
        for slot in (1, 2, 1):
            fresh.serve("walker", WALKER, slot)
            action = client.act(SECOND)
            seen.append((action.slot, action.release, action.value))
    assert seen == [(1, "1.0.0", 6), (2, "1.1.0", 5), (1, "1.0.0", 6)]


@both
def test_threads_that_share_a_client_survive_swaps_that_change_the_contract(fresh: ToyTriton, protocol: str) -> None:
    """Under load, no request fails, and no answer is read by the contract of another release."""
    # Logits so far apart that a draw is certain; the second release gives an output more, and chooses otherwise.
    model = ToyModel(
        discrete_contract(),
        {1: 1000 * WEIGHTS, 2: 1000 * np.roll(WEIGHTS, 1, axis=1)},
        {1: "1.0.0", 2: "1.1.0"},
        contracts={2: discrete_contract(more=True)},
    )
    right = {"1.0.0": 1, "1.1.0": 2}
    fresh.serve("walker", model, 1)
    seen: list[tuple[str, object]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def ask(client: PolicyClient) -> None:
        while not stop.is_set():
            try:
                action = client.act(SECOND, deterministic=False, deadline_s=PATIENCE_S)
                seen.append((action.release, action.value))
            except Exception as error:
                failures.append(error)

    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for slot in (2, 1, 2, 1, 2):
            fresh.serve("walker", model, slot)
            before = len(seen)
            wait_for(lambda slot=slot, at=before: failures or model.releases[slot] in dict(seen[at:]))
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert set(seen) == set(right.items())


@pytest.mark.parametrize("style", ["blocking", "asyncio"])
@pytest.mark.parametrize(("protocol", "shared_memory"), [("grpc", False), ("http", False), ("grpc", True)])
@pytest.mark.parametrize(
    ("observation", "change"),
    [
        (np.zeros(4), discrete_contract(inputs=3)),  # it takes less
        (np.zeros(4), discrete_contract(start=10)),  # it means something else by the same number
        (np.zeros(4), continuous_contract()),  # it answers otherwise
        (np.zeros(4, np.float32), discrete_contract(inputs=4000)),  # more room than a region has
    ],
    ids=["inputs", "meaning", "kind", "size"],
)
def test_a_breaking_release_is_a_server_error_until_it_is_rolled_back(
    fresh: ToyTriton, protocol: str, shared_memory: bool, style: str, observation: np.ndarray, change: Contract
) -> None:
    """Over every wire, at each call, so that `except ServerError` takes the safe action; the client then goes on."""
    weights = np.ones((change.observations[0].shape[0], change.outputs[1].shape[0]))
    model = ToyModel(discrete_contract(), {1: WEIGHTS, 2: weights}, {1: "1.0.0", 2: "2.0.0"}, contracts={2: change})
    fresh.serve("walker", model, 1)
    kind = {"blocking": PolicyClient, "asyncio": AsyncPolicyClient}[style]

    async def session() -> None:
        client = kind(
            "walker", url=fresh.url(protocol), protocol=protocol, shared_memory=shared_memory, deadline_s=PATIENCE_S
        )

        async def release() -> str:
            found = client.act(observation)
            return (await found if inspect.isawaitable(found) else found).release

        assert await release() == "1.0.0"
        fresh.serve("walker", model, 2)
        for _ in range(3):
            with pytest.raises(ServerError) as caught:
                await release()
            assert isinstance(caught.value, IncompatibleReleaseError)
        fresh.serve("walker", model, 1)
        assert await release() == "1.0.0"
        closing = client.close()
        if closing is not None:
            await closing

    asyncio.run(session())


@both
def test_observations_are_held_against_the_contract_that_is_served_now(fresh: ToyTriton, protocol: str) -> None:
    """After a swap to a release that takes five numbers, five are accepted; a new client's four are refused."""
    model = ToyModel(
        discrete_contract(),
        {1: WEIGHTS, 2: np.ones((5, 3))},
        {1: "1.0.0", 2: "2.0.0"},
        contracts={2: discrete_contract(inputs=5)},
    )
    fresh.serve("walker", model, 1)
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(np.zeros(4))
        fresh.serve("walker", model, 2)
        assert client.act(np.zeros(5)).release == "2.0.0"
    with (
        PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client,
        pytest.raises(UsageError, match=r"takes \(5,\)"),
    ):
        client.act(np.zeros(4))


@both
def test_a_late_answer_is_an_error_in_time_and_is_never_taken_for_another(fresh: ToyTriton, protocol: str) -> None:
    """A deadline ends the wait, and the next answer on the same client is the next question's."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        with fresh.holding(), pytest.raises(DeadlineError):
            client.act(LATE, deadline_s=0.2)
        assert client.act(SECOND).value == 6


@both
def test_a_stopped_server_is_a_deadline_and_its_return_needs_no_new_client(fresh: ToyTriton, protocol: str) -> None:
    """SIGSTOP leaves connections open and silent; after SIGCONT the same client is answered again."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        fresh.stop()
        try:
            with pytest.raises(DeadlineError):
                client.act(SECOND, deadline_s=0.2)
        finally:
            fresh.resume()
        assert client.act(SECOND, deadline_s=PATIENCE_S).value == 6


@both
def test_a_dead_server_is_unreachable_and_its_successor_is_asked_afresh(fresh: ToyTriton, protocol: str) -> None:
    """After SIGKILL every call fails long before its deadline; the server that takes its place is found soon."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        fresh.kill()
        try:
            begin = time.monotonic()
            for _ in range(3):
                with pytest.raises(UnreachableError):
                    client.act(SECOND, deadline_s=PATIENCE_S)
            assert time.monotonic() - begin < PATIENCE_S
        finally:
            fresh.start()
            fresh.serve("walker", WALKER, 2)
        seen: list[str] = []

        def answers() -> bool:
            # gRPC looks for a lost server every half second.
            with contextlib.suppress(UnreachableError):
                seen.append(client.act(SECOND).release)
            return bool(seen)

        wait_for(answers)
        assert seen == ["1.1.0"]


@both
def test_a_restart_between_two_questions_is_not_noticed(fresh: ToyTriton, protocol: str) -> None:
    """A connection that died while it was idle is opened again without an error."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        fresh.kill()
        fresh.start()
        fresh.serve("walker", WALKER, 2)
        assert client.act(SECOND, deadline_s=PATIENCE_S).release == "1.1.0"


@both
def test_a_model_that_is_not_served_is_said_to_be_that(fresh: ToyTriton, protocol: str) -> None:
    """An unknown name is told from an unreachable server and from a bad observation."""
    with (
        PolicyClient("nobody", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client,
        pytest.raises(NotServedError, match="nobody"),
    ):
        client.act(SECOND)


@both
def test_an_answer_of_an_unlisted_slot_is_not_handed_out(fresh: ToyTriton, protocol: str) -> None:
    """A slot that the configuration names no release for has no release, so its answer is an error."""
    model = ToyModel(discrete_contract(), {1: WEIGHTS, 7: WEIGHTS}, {1: "1.0.0", 7: "7.0.0"})
    fresh.serve("walker", model, 1)
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        config = fresh.folder / "repository/walker/config.pbtxt"
        fresh.serve("walker", model, 7, edit=lambda text: text.replace(r"\"7\": \"7.0.0\"", r"\"6\": \"6.0.0\""))
        assert "6.0.0" in config.read_text()
        with pytest.raises(UnknownReleaseError, match="slot 7"):
            client.act(SECOND)


@both
def test_a_model_that_policyctl_did_not_put_there_is_refused(fresh: ToyTriton, protocol: str) -> None:
    """Without a contract in its configuration nothing can be checked, so nothing is asked."""
    fresh.serve("walker", WALKER, 1, edit=lambda text: text.replace('key: "releases"', 'key: "other"'))
    with (
        PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client,
        pytest.raises(ServerError, match="releases"),
    ):
        client.act(SECOND)


@both
def test_server_timing_is_that_of_the_request_for_a_lone_client(fresh: ToyTriton, protocol: str) -> None:
    """A slow answer's slowness is in its server time, and a quick one's server time is shorter."""
    with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        quick, slow = alone(client, SECOND), alone(client, SLOW)
    assert quick.server is not None and slow.server is not None
    assert quick.server.source is TimingSource.STATISTICS
    assert quick.server.queue_us is not None
    assert 0 < quick.server.compute_us + quick.server.queue_us < slow.server.compute_us
    # Not simply below the round trip: Triton's clock stops after the answer was sent.
    assert SLEEP_S * 1e6 <= slow.server.compute_us < 2 * slow.round_trip_us


def alone(client: PolicyClient, observation: list[float]) -> Action:
    """A timed action of one request; on a busy machine it, or the one before it, may be counted late."""
    found: list[Action] = []

    def is_alone() -> bool:
        found.append(client.act(observation, timing=True))
        return found[-1].server is not None and found[-1].server.requests == 1

    wait_for(is_alone)
    return found[-1]


@both
def test_threads_that_come_and_go_leave_no_connection_behind(fresh: ToyTriton, protocol: str) -> None:
    """A shared client answers many threads at once, and no file descriptor outlives them and it."""
    me = psutil.Process()
    values: list[object] = []

    def ask(client: PolicyClient) -> None:
        values.extend(client.act(SECOND, deadline_s=PATIENCE_S).value for _ in range(5))

    def session() -> None:
        with PolicyClient("walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S) as client:
            threads = [threading.Thread(target=ask, args=(client,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    session()  # The libraries keep some of their own for good.
    before = me.num_fds()
    for _ in range(3):
        session()
    # gRPC closes its sockets a moment later, in a thread of its own.
    wait_for(lambda: me.num_fds() <= before)
    assert values == [6] * (4 * 8 * 5)


@both
def test_the_asyncio_client_answers_like_the_blocking_one(fresh: ToyTriton, protocol: str) -> None:
    """Many questions at once, a batch, a deadline, a bad observation and a swap: the same as blocking."""

    async def session() -> None:
        async with AsyncPolicyClient(
            "walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S
        ) as client:
            actions = await asyncio.gather(*(client.act(SECOND, deadline_s=PATIENCE_S) for _ in range(32)))
            assert {(action.value, action.release) for action in actions} == {(6, "1.0.0")}
            batch = await client.act_batch(np.eye(4)[:3])
            np.testing.assert_array_equal(batch.value, [5, 6, 7])
            # Triton may count an answer later than the client looks for it.
            while (timed := await client.act(SECOND, timing=True)).server is None:
                await asyncio.sleep(0.05)
            assert timed.server.compute_us > 0
            with fresh.holding(), pytest.raises(DeadlineError):
                await client.act(LATE, deadline_s=0.2)
            with pytest.raises(UsageError, match="takes"):
                await client.act([1.0, 2.0])
            fresh.serve("walker", WALKER, 2)
            assert (await client.act(SECOND, deadline_s=PATIENCE_S)).release == "1.1.0"
        with pytest.raises(UsageError, match="closed"):
            await client.act(SECOND)

    asyncio.run(session())


@both
def test_the_asyncio_client_tells_a_stopped_server_from_a_dead_one(fresh: ToyTriton, protocol: str) -> None:
    """SIGSTOP is a deadline and SIGKILL is unreachable, as for the blocking client."""

    async def session() -> None:
        async with AsyncPolicyClient(
            "walker", url=fresh.url(protocol), protocol=protocol, deadline_s=PATIENCE_S
        ) as client:
            await client.act(SECOND)
            fresh.stop()
            try:
                with pytest.raises(DeadlineError):
                    await client.act(SECOND, deadline_s=0.2)
            finally:
                fresh.resume()
            await client.act(SECOND, deadline_s=PATIENCE_S)
            fresh.kill()
            try:
                with pytest.raises(UnreachableError):
                    await client.act(SECOND, deadline_s=PATIENCE_S)
            finally:
                fresh.start()

    asyncio.run(session())
