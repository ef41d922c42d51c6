"""Tensors through shared memory, against the real Triton."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from embedded import PATIENCE_S, wait_for
from toy_triton import HELD, ToyModel, ToyTriton, discrete_contract, toy_triton
from tritonclient.utils import InferenceServerException

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.client import AsyncPolicyClient, DeadlineError, PolicyClient, grpc_memory, regions
from policyctl.errors import UnsupportedError
from policyctl.services.supervise.leftovers import sweep

pytestmark = pytest.mark.server

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
WALKER = ToyModel(discrete_contract(start=5), {1: WEIGHTS, 2: -WEIGHTS}, {1: "1.0.0", 2: "1.1.0"})
SECOND = [0.0, 1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyTriton]:
    with toy_triton(tmp_path_factory.mktemp("shared")) as running:
        running.serve("walker", WALKER, 1)
        yield running


@pytest.fixture
def url(server: ToyTriton) -> str:
    server.serve("walker", WALKER, 1)
    return server.url("grpc")


def mine() -> list[str]:
    """Regions of this process."""
    return sorted(p.name for p in regions.FOLDER.glob(f"{regions.PREFIX}{os.getpid()}-*"))


def registered(url: str) -> set[str]:
    with triton_grpc.InferenceServerClient(url) as client:
        return set(client.get_system_shared_memory_status().regions)


def test_answers_are_those_that_come_over_the_wire(url: str) -> None:
    """Alone and in batches, drawn or not, with more outputs: to the last bit the same, and from the same release."""
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    with (
        PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as wire,
        PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as memory,
    ):
        for ask in (
            lambda c: c.act(SECOND, outputs=["logits"]),
            lambda c: c.act_batch(rows, outputs=["logits"]),
            lambda c: c.act_batch(rows, deterministic=False, seed=3),
            lambda c: c.act_batch(rows[:2]),
        ):
            one, other = ask(wire), ask(memory)
            assert (one.release, one.slot) == (other.release, other.slot)
            np.testing.assert_array_equal(one.value, other.value)
            assert one.outputs.keys() == other.outputs.keys()
            for name in one.outputs:
                np.testing.assert_array_equal(one.outputs[name], other.outputs[name])
        assert len(mine()) == 1  # one call at a time: one region, used again
        other.outputs["action"][...] = 0  # a copy of ours


def test_closing_leaves_nothing_on_either_side(url: str) -> None:
    """The server knows no region any more, and no file is left."""
    client = PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S)
    client.act(SECOND)
    assert set(mine()) <= registered(url)
    client.close()
    assert mine() == []
    assert not [name for name in registered(url) if name.startswith(f"{regions.PREFIX}{os.getpid()}-")]


@pytest.mark.parametrize("kind", [PolicyClient, AsyncPolicyClient])
def test_closing_waits_for_a_request_that_still_has_a_region(
    server: ToyTriton, url: str, kind: type[PolicyClient | AsyncPolicyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton refuses to forget a region that is in use: it is asked again until it is not."""
    monkeypatch.setattr(grpc_memory, "_UNREGISTER_S", PATIENCE_S)

    async def leave() -> None:
        client = kind("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S)
        with server.holding() as let_go:
            with pytest.raises(DeadlineError):
                if isinstance(asked := client.act([HELD, 0.0, 0.0, 0.0], deadline_s=0.5), Awaitable):
                    await asked
            later = threading.Timer(0.3, let_go)
            later.start()
            if (closed := client.close()) is not None:
                await closed
            later.join()

    asyncio.run(leave())
    assert not [name for name in registered(url) if name.startswith(f"{regions.PREFIX}{os.getpid()}-")]


def test_threads_that_share_a_client_never_get_each_others_answers(url: str) -> None:
    """Each call has a region to itself."""
    wrong: list[tuple[int, object]] = []

    def ask(client: PolicyClient, choice: int) -> None:
        row = np.eye(4)[choice]
        wrong.extend((choice, v) for v in (client.act(row).value for _ in range(200)) if v != 5 + choice)

    with PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as client:
        threads = [threading.Thread(target=ask, args=(client, index % 3)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(mine()) <= 6
    assert wrong == []


def test_a_server_that_knows_the_region_no_more_is_told_again(url: str) -> None:
    """A server that was started anew has no regions: the same call is answered all the same."""
    with PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        with triton_grpc.InferenceServerClient(url) as other:
            wait_for(lambda: forgets_every_region(other))
            assert not other.get_system_shared_memory_status().regions
        assert client.act(SECOND).value == 6


def forgets_every_region(server: triton_grpc.InferenceServerClient) -> bool:
    """Triton 2.51 refuses for a moment: a request whose answer has just come still has its region."""
    try:
        server.unregister_system_shared_memory()
    except InferenceServerException as error:
        assert "Failed to unregister" in str(error)
        return False
    return True


def test_an_answer_that_comes_too_late_spoils_no_later_one(server: ToyTriton, url: str) -> None:
    """The region of a call that timed out is not used again while the server may still write to it."""
    with PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as client:
        client.act(SECOND)
        with server.holding(), pytest.raises(DeadlineError):
            client.act([HELD, 0.0, 0.0, 0.0], deadline_s=0.25)
        assert [client.act(np.eye(4)[i]).value for i in (0, 1, 2, 1)] == [5, 6, 7, 6]
        assert len(mine()) == 2
    assert mine() == []


def test_a_swap_that_changes_the_contract_is_survived(server: ToyTriton, url: str) -> None:
    """No answer is read by the contract of another release."""
    model = ToyModel(
        discrete_contract(),
        {1: WEIGHTS, 2: np.roll(WEIGHTS, 1, axis=1)},
        {1: "1.0.0", 2: "1.1.0"},
        contracts={2: discrete_contract(more=True)},
    )
    server.serve("moving", model, 1)
    with PolicyClient("moving", url=url, shared_memory=True, deadline_s=PATIENCE_S) as client:
        seen = []
        for slot in (1, 2, 1):
            server.serve("moving", model, slot)
            action = client.act(SECOND)
            seen.append((action.release, action.value))
    assert seen == [("1.0.0", 1), ("1.1.0", 2), ("1.0.0", 1)]


def test_asyncio_has_it_too(url: str) -> None:
    """Many calls at once share the client's regions and get their own answers."""

    async def ask() -> list[object]:
        async with AsyncPolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as client:
            found = await asyncio.gather(*(client.act(np.eye(4)[i % 3]) for i in range(60)))
            return [action.value for action in found]

    assert asyncio.run(ask()) == [5 + i % 3 for i in range(60)]
    assert mine() == []


def test_a_server_that_cannot_open_the_memory_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from another machine or container: the error says what shared memory needs."""
    monkeypatch.setattr(regions.Regions.__init__, "__defaults__", (tmp_path,))
    with (
        PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as client,
        pytest.raises(UnsupportedError, match="cannot open this client's shared memory"),
    ):
        client.act(SECOND)


def test_what_a_killed_client_left_is_swept(url: str) -> None:
    """Its file goes and the server forgets its region; a living client's stays."""
    code = f"""
        import os, signal
        from policyctl.client import PolicyClient
        client = PolicyClient("walker", url={url!r}, shared_memory=True, deadline_s={PATIENCE_S})
        client.act([0.0, 1.0, 0.0, 0.0])
        print(next(iter(client._servers.chosen.transport._shared.regions.all())).name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    left = done.stdout.strip()
    assert left in registered(url), done.stderr
    control = Triton(Endpoint(http="", grpc=url, metrics="", api_key="", server_id="", pid=0, supervisor_pid=0))
    with PolicyClient("walker", url=url, shared_memory=True, deadline_s=PATIENCE_S) as living:
        living.act(SECOND)
        assert left in sweep(control)
        assert left not in registered(url)
        assert not (regions.FOLDER / left).exists()
        assert set(mine()) <= registered(url)
        assert living.act(SECOND).value == 6
    control.close()
