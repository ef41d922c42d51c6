"""The load generator against the real Triton, while releases are swapped and servers die."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from embedded import PATIENCE_S, wait_for
from toy_triton import ToyModel, ToyTriton, discrete_contract, toy_triton

from policyctl.domain.golden import Golden
from policyctl.domain.parity import Tolerance
from policyctl.errors import ServerError, UsageError
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, run_load
from policyctl.measuring.load_records import AliasSpan, LoadReport, Request, answers_outside_aliases
from policyctl.measuring.load_rows import Expected

pytestmark = pytest.mark.server

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
WALKER = ToyModel(discrete_contract(), {1: WEIGHTS, 2: -WEIGHTS}, {1: "1.0.0", 2: "1.1.0"})


def expected(model: ToyModel, slot: int, *, answers_of: int | None = None) -> Expected:
    """The golden set of `slot`, or a false one with the answers of another."""
    contract = model.contract_of(slot)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(32, *contract.observations[0].shape)).astype(np.float32)
    outputs = model.outputs(slot if answers_of is None else answers_of, observations)
    return Expected(contract, Golden({"observation": observations}, outputs, Tolerance()))


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyTriton]:
    with toy_triton(tmp_path_factory.mktemp("load")) as running:
        yield running


@pytest.fixture
def server(shared_server: ToyTriton) -> ToyTriton:
    """The server, with slot 1 of walker served."""
    shared_server.serve("walker", WALKER, 1)
    return shared_server


def options(server: ToyTriton, **changes: object) -> LoadOptions:
    """A load of two clients that have all the time that they need."""
    facts = {"model": "walker", "url": server.grpc_url, "duration_s": PATIENCE_S, "clients": 2, "deadline_s": 60.0}
    return LoadOptions(**{**facts, **changes})


def load_once(server: ToyTriton, known: dict[str, Expected]) -> tuple[LoadReport, list[Request]]:
    """A load that ends when every client has had an answer."""
    stop = threading.Event()
    return run_load(options(server), known, stop=stop, on_ready=stop.set)


def wait_for_answers(server: ToyTriton, slot: int, count: int) -> None:
    """Wait until this slot has answered so many requests more."""
    enough = server.answered("walker", slot) + count
    wait_for(lambda: server.answered("walker", slot) >= enough)


def test_a_load_over_swaps_checks_every_answer_against_the_release_that_gave_it(server: ToyTriton) -> None:
    """Both releases answer, nothing fails, nothing is wrong, and no answer is outside what was served."""
    both = {"1.0.0": expected(WALKER, 1), "1.1.0": expected(WALKER, 2)}
    spans = []
    with BackgroundLoad(options(server), both) as load:
        begin = 0
        for slot in (2, 1, 2):
            wait_for_answers(server, 3 - slot, 30)
            switching = time.monotonic_ns()
            server.serve("walker", WALKER, slot)
            # While a load is under way either may answer.
            spans.append(AliasSpan(WALKER.releases[3 - slot], begin, time.monotonic_ns()))
            begin = switching
        wait_for_answers(server, 2, 30)
        report = load.stop()
        spans.append(AliasSpan(WALKER.releases[2], begin))
    assert report.clean
    assert report.unchecked == 0
    assert set(report.by_release) == {"1.0.0", "1.1.0"}
    assert report.requests == len(load.requests) == sum(report.by_release.values()) > 100
    assert 0 < report.p50_us <= report.p99_us <= report.max_us
    assert answers_outside_aliases(load.requests, spans) == 0
    assert answers_outside_aliases(load.requests, spans[:1]) > 0


def test_a_release_that_answers_with_anothers_actions_is_found_out(server: ToyTriton) -> None:
    """Wrong answers are counted, and an answered load of wrong answers is not clean."""
    false = {"1.0.0": expected(WALKER, 1, answers_of=2)}
    report, requests = load_once(server, false)
    assert report.wrong == report.requests - report.failed > 0
    assert not report.clean
    assert all(request.wrong for request in requests)


def test_answers_of_a_release_without_a_golden_set_are_not_called_right(server: ToyTriton) -> None:
    """They count as unchecked."""
    report, _ = load_once(server, {"1.1.0": expected(WALKER, 2)})
    assert report.unchecked == report.requests > 0


def test_a_rate_is_not_exceeded(server: ToyTriton) -> None:
    """Two clients at 50 a second are 100 a second, not as many as answers come; who falls behind does not hurry."""
    limited = options(server, duration_s=1.0, rate_per_client=50.0)
    report, requests = run_load(limited, {"1.0.0": expected(WALKER, 1)})
    took_s = (requests[-1].start_ns - requests[0].start_ns) / 1e9
    assert 0 < report.requests <= 2 * (50.0 * took_s + 3)


def test_a_swap_to_another_contract_is_followed_with_observations_that_fit(server: ToyTriton) -> None:
    """Observations that the served release does not take are replaced, not counted as failures."""
    model = ToyModel(
        discrete_contract(),
        {1: WEIGHTS, 2: np.arange(15.0).reshape(5, 3)},
        {1: "1.0.0", 2: "2.0.0"},
        contracts={2: discrete_contract(inputs=5)},
    )
    server.serve("walker", model, 1)
    with BackgroundLoad(options(server), {"1.0.0": expected(model, 1), "2.0.0": expected(model, 2)}) as load:
        server.serve("walker", model, 2)
        wait_for_answers(server, 2, 2)
        report = load.stop()
    assert report.clean and report.unchecked == 0
    assert min(report.by_release.values()) > 0 and len(report.by_release) == 2
    assert report.unfit > 0


def test_the_death_of_a_server_shows_as_failures_with_their_reason(server: ToyTriton) -> None:
    """Killed under load: requests fail, the load goes on, and its report says why."""
    try:
        with BackgroundLoad(options(server), {"1.0.0": expected(WALKER, 1)}) as load:
            server.kill()
            with socket.create_server(("127.0.0.1", server.grpc_port)) as nobody:
                nobody.settimeout(PATIENCE_S)
                nobody.accept()[0].close()  # somebody asked meanwhile
            report = load.stop()
    finally:
        server.start()
    assert report.failed > 0 and not report.clean
    assert any("unreachable" in text for text, _ in report.errors)
    assert report.by_release.keys() == {"1.0.0"}


def test_a_load_without_a_server_does_not_begin(server: ToyTriton) -> None:
    """Entering fails, in the words of the error that every request met."""
    nobody = options(server, model="nobody")
    with (
        pytest.raises(ServerError, match="not served"),
        BackgroundLoad(nobody, {"1.0.0": expected(WALKER, 1)}, ready_timeout_s=2.0),
    ):
        pass


def test_a_report_before_the_end_is_refused(server: ToyTriton) -> None:
    """A load that is still running has no report."""
    with (
        BackgroundLoad(options(server), {"1.0.0": expected(WALKER, 1)}) as load,
        pytest.raises(UsageError, match="not been stopped"),
    ):
        _ = load.report
