"""Ask a served policy for actions without a pause, and check every answer.

For the time around a promotion: each client is a thread with a connection of
its own, sends golden observations one after the other, and holds each answer
against what the release that gave it must answer. As a program
(``python -m policyctl_benchmarks.load``) it writes JSON lines on stdout: one
``{"event": "ready"}`` when every client has had an answer, and the report when
it ends, which is at ``--duration-s``, at SIGTERM, or when its standard input
closes (so that it does not outlive whoever started it).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from policyctl.client import PolicyClient, Protocol
from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.names import PRODUCTION
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl_benchmarks import load_records
from policyctl_benchmarks.load_records import LoadReport, Request
from policyctl_benchmarks.load_rows import Expected, Rows, rows_of

_PAUSE_AFTER_ERROR_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How much to ask, and whom.

    Attributes:
        model: The policy's name.
        url: ``host:port``.
        protocol: gRPC or HTTP.
        alias: Which alias of it.
        clients: Threads, each with a connection of its own.
        rate_per_client: Requests a second of each; None for as fast as answers come.
        deadline_s: Of each request; one that is late has failed.
        duration_s: The load ends after this time at the latest.
    """

    model: str
    url: str
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

    def run(self, stop: threading.Event) -> None:
        options = self._options
        interval_s = 0.0 if options.rate_per_client is None else 1.0 / options.rate_per_client
        due = time.monotonic()
        with PolicyClient(
            options.model,
            url=options.url,
            protocol=options.protocol,
            alias=options.alias,
            deadline_s=options.deadline_s,
        ) as client:
            while not stop.is_set():
                if self._ask(client):
                    due += interval_s
                    # A client that fell behind does not catch up in a burst.
                    due = max(due, time.monotonic() - interval_s)
                    if (wait_s := due - time.monotonic()) > 0:
                        stop.wait(wait_s)
                else:
                    # A refused connection takes no time: do not spin on it.
                    stop.wait(_PAUSE_AFTER_ERROR_S)

    def _ask(self, client: PolicyClient) -> bool:
        pool = self._rows.pools[self._pool]
        row = pool[self._turn % len(pool)]
        self._turn += 1
        start_ns = time.monotonic_ns()
        try:
            action = client.act(row.observation, outputs=self._rows.outputs)
        except UsageError as error:
            if len(self._rows.pools) == 1:
                self._failed(start_ns, error)
                return False
            # The served contract is another release's: send what that one takes.
            self._pool = (self._pool + 1) % len(self._rows.pools)
            self.unfit += 1
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
        contract = Contract.from_json(json.loads((folder / CONTRACT_FILE).read_bytes()))
        return Expected(contract, Golden.from_bytes((folder / GOLDEN_FILE).read_bytes(), contract))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not the folder of a release: {error}") from error


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m policyctl_benchmarks.load", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", required=True, help="host:port")
    parser.add_argument("--protocol", default=Protocol.GRPC, type=Protocol, choices=list(Protocol))
    parser.add_argument("--alias", default=PRODUCTION)
    parser.add_argument("--clients", default=4, type=int)
    parser.add_argument("--rate", default=None, type=float, help="requests a second of each client")
    parser.add_argument("--deadline-s", default=1.0, type=float)
    parser.add_argument("--duration-s", default=60.0, type=float)
    parser.add_argument("--stop-on-eof", action="store_true", help="end when standard input closes")
    parser.add_argument("--records", type=Path, help="write every request to this .npz file")
    parser.add_argument(
        "--golden", action="append", required=True, metavar="RELEASE=FOLDER", help="what a release must answer"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns its exit code."""
    given, stop = _arguments(arguments), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if given.stop_on_eof:
        threading.Thread(target=_stop_at_eof, args=(stop,), daemon=True).start()
    try:
        pairs = (pair.partition("=") for pair in given.golden)
        result, requests = run_load(
            LoadOptions(
                model=given.model,
                url=given.url,
                protocol=given.protocol,
                alias=given.alias,
                clients=given.clients,
                rate_per_client=given.rate,
                deadline_s=given.deadline_s,
                duration_s=given.duration_s,
            ),
            {release: read_expected(Path(folder)) for release, _, folder in pairs},
            stop=stop,
            on_ready=lambda: _say({"event": "ready"}),
        )
    except PolicyctlError as error:
        sys.stderr.write(f"{error.problem}\n{error.remedy}\n")
        return error.exit_code
    if given.records is not None:
        load_records.save(requests, given.records)
    _say({"event": "report", "report": result.to_json()})
    return 0


def _stop_at_eof(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def _say(event: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
