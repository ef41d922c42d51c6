"""Ask a served policy for actions without a pause, and check every answer.

For the time around a promotion: each client is a thread with its own
connection. It sends golden observations one after the other, and compares each
answer with what the release that gave it must answer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from policyctl.client import IncompatibleReleaseError, PolicyClient, Protocol
from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.names import PRODUCTION
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl.measuring import load_records
from policyctl.measuring.load_records import LoadReport, Request
from policyctl.measuring.load_rows import Expected, Rows, rows_of
from policyctl.plain_files import DOCUMENT_BYTES, read_json, read_plain

_PAUSE_AFTER_ERROR_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How much to ask, and whom.

    Attributes:
        model: The policy's name.
        url: ``host:port``; of several, each client begins at another one, and goes on to the next where one is gone.
        protocol: gRPC or HTTP.
        alias: Which alias of it.
        clients: Threads, each with its own connection.
        rate_per_client: Requests a second of each; None for as fast as answers come.
        deadline_s: Of each request; one that is late has failed.
        duration_s: The load ends after this time at the latest.
    """

    model: str
    url: str | tuple[str, ...]
    protocol: Protocol = Protocol.GRPC
    alias: str = PRODUCTION
    clients: int = 4
    rate_per_client: float | None = None
    deadline_s: float = 1.0
    duration_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("clients", "deadline_s", "duration_s"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.rate_per_client is not None and self.rate_per_client <= 0:
            raise UsageError(f"rate_per_client is {self.rate_per_client}, expected more than 0")


class _Ready:
    """Calls back once, when every client has had an answer."""

    def __init__(self, clients: int, then: Callable[[], None]) -> None:
        self._waiting = set(range(clients))
        self._then = then
        self._lock = threading.Lock()

    def answered(self, index: int) -> None:
        with self._lock:
            if index not in self._waiting:
                return
            self._waiting.discard(index)
            complete = not self._waiting
        if complete:
            self._then()


class _Client:
    """One thread of the load."""

    def __init__(self, options: LoadOptions, rows: Rows, index: int, ready: _Ready) -> None:
        self.requests: list[Request] = []
        self.unfit = 0
        self._options = options
        self._rows = rows
        self._index = index
        self._ready = ready
        self._answered = False
        self._turn = index * 7919  # Clients begin at different observations.
        self._pool = 0
        self._due = 0.0

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set, and once in any case: a load that is stopped at once says how it was answered."""
        options, self._due = self._options, time.monotonic()
        url = options.url
        if not isinstance(url, str):
            first = self._index % len(url)
            url = (*url[first:], *url[:first])
        while True:
            # A client works by the contract of the first release that it met: for another one, another client.
            with (
                contextlib.suppress(IncompatibleReleaseError),
                PolicyClient(
                    options.model,
                    url=url,
                    protocol=options.protocol,
                    alias=options.alias,
                    deadline_s=options.deadline_s,
                ) as client,
            ):
                self._keep_asking(client, stop)
            if stop.is_set():
                return

    def _keep_asking(self, client: PolicyClient, stop: threading.Event) -> None:
        rate = self._options.rate_per_client
        interval_s = 0.0 if rate is None else 1.0 / rate
        while True:
            if self._ask(client):
                self._due += interval_s
                # A client that fell behind does not catch up in a burst.
                self._due = max(self._due, time.monotonic() - interval_s)
                if (wait_s := self._due - time.monotonic()) > 0:
                    stop.wait(wait_s)
            else:
                # A refused connection takes no time: do not spin on it.
                stop.wait(_PAUSE_AFTER_ERROR_S)
            if stop.is_set():
                return

    def _ask(self, client: PolicyClient) -> bool:
        pool = self._rows.pools[self._pool]
        row = pool[self._turn % len(pool)]
        self._turn += 1
        start_ns = time.monotonic_ns()
        try:
            action = client.act(row.observation, outputs=self._rows.outputs)
        except (UsageError, IncompatibleReleaseError) as error:
            if len(self._rows.pools) == 1:
                self._failed(start_ns, error)
                return False
            # The served contract is another release's: send what that one takes.
            self._pool = (self._pool + 1) % len(self._rows.pools)
            self.unfit += 1
            if isinstance(error, IncompatibleReleaseError):
                raise
            return False
        except ServerError as error:
            self._failed(start_ns, error)
            return False
        end_ns = time.monotonic_ns()
        right = self._rows.check(row, action.release, action.outputs)
        self.requests.append(
            Request(
                start_ns=start_ns,
                end_ns=end_ns,
                slot=action.slot,
                release=action.release,
                checked=right is not None,
                wrong=right is False,
                client=self._index,
                generation=action.generation,
            )
        )
        if not self._answered:
            self._answered = True
            self._ready.answered(self._index)
        return True

    def _failed(self, start_ns: int, error: PolicyctlError) -> None:
        self.requests.append(
            Request(start_ns=start_ns, end_ns=time.monotonic_ns(), error=f"{error.code}: {error.problem}")
        )


def run_load(
    options: LoadOptions,
    expected: Mapping[str, Expected],
    *,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> tuple[LoadReport, list[Request]]:
    """Load a server until `stop` is set or the options' duration is over.

    It shares this process's interpreter lock: around a promotion that this
    process itself runs, use `BackgroundLoad`.

    Args:
        options: How much, and whom.
        expected: What each release that may answer must answer.
        stop: Ends the load when set.
        on_ready: Called once, when every client has had an answer.

    Raises:
        UsageError: No golden set, or a name that is not allowed.
    """
    rows, stop = rows_of(expected), stop or threading.Event()
    ready = _Ready(options.clients, on_ready)
    clients = [_Client(options, rows, index, ready) for index in range(options.clients)]
    with ThreadPoolExecutor(options.clients) as executor:
        running = [executor.submit(client.run, stop) for client in clients]
        stop.wait(options.duration_s)
        stop.set()
        for each in running:
            # A defect in a client must not pass for a quiet load.
            each.result()
    requests = sorted(
        (request for client in clients for request in client.requests), key=lambda request: request.start_ns
    )
    return load_records.report(requests, unfit=sum(client.unfit for client in clients)), requests


def read_expected(folder: Path) -> Expected:
    """The contract and golden set in the folder of a release.

    Raises:
        UsageError: One of them is missing or not readable.
    """
    try:
        contract = Contract.from_json(read_json(folder / CONTRACT_FILE, most_bytes=DOCUMENT_BYTES))
        golden = read_plain(folder / GOLDEN_FILE, most_bytes=DOCUMENT_BYTES)
        return Expected(contract, Golden.from_bytes(golden, contract))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not the folder of a release: {error}") from error
