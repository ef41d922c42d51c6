"""The control plane's `/metrics`: an HTTP listener for Prometheus, and for what restarts processes and balances load.

It answers ``GET /metrics``, ``/livez`` and ``/readyz``, and changes nothing. A scrape
ends within `SCRAPE_S`. Where the values are not there by then (a disk that hangs), it
gets a 503, and the collection goes on alone. A client that has not sent its
request and read the answer after `CLIENT_S` is cut off. Where `MOST_AT_ONCE` are
connected, the one that came first makes room for the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from socket import AF_INET6, SHUT_RDWR, socket
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from policyctl.adapters.web import Web
from policyctl.domain.metrics import Histogram, Measured, MetricKind
from policyctl.errors import ServerError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SCRAPE_S: Final = 2.0
MOST_AT_ONCE: Final = 64
CLIENT_S: Final = 5.0
"""For a client to send its request, to wait for the values, and to read them."""

_MOST_BYTES: Final = 64 << 20

Collect = Callable[[], tuple[Measured, ...]]
Lacks = Callable[[], str]
"""Why the server should get no requests now, as a phrase; empty where it should."""
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def _family(value: Measured) -> _Family:
    family = value.family
    if family.kind is MetricKind.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for sample in value.samples:
            assert isinstance(sample.value, Histogram)  # noqa: S101 - the kind says so
            histogram.add_metric(sample.labels, sample.value.cumulative, sample.value.total)
        return histogram
    kind = CounterMetricFamily if family.kind is MetricKind.COUNTER else GaugeMetricFamily
    plain = kind(family.name, family.help, labels=family.labels)
    for sample in value.samples:
        assert isinstance(sample.value, float)  # noqa: S101 - the kind says so
        plain.add_metric(sample.labels, sample.value)
    return plain


class _Values(CollectorRegistry):
    """Values that were computed already, as prometheus_client takes them."""

    def __init__(self, values: Iterable[Measured]) -> None:
        super().__init__()
        self._values = tuple(values)

    def collect(self) -> Iterator[_Family]:
        return map(_family, self._values)


def text_of(values: Iterable[Measured]) -> str:
    """The values in Prometheus's text format."""
    return generate_latest(_Values(values)).decode()


def read_text(text: str) -> list[dict[str, Any]]:
    """What Prometheus's text format says, as plain JSON: a family an object, with its samples.

    Raises:
        ServerError: It is not that format.
    """
    try:
        return [
            {
                "name": family.name + ("_total" if family.type == "counter" else ""),
                "type": family.type,
                "help": family.documentation,
                "samples": [{"name": s.name, "labels": s.labels, "value": s.value} for s in family.samples],
            }
            for family in text_string_to_metric_families(text)
        ]
    except (ValueError, KeyError, IndexError) as error:
        raise ServerError(f"the exporter's answer is not in Prometheus's text format ({error})") from error


def fetch(address: str) -> str:
    """What the exporter at ``host:port`` answers, as text.

    Raises:
        ServerError: It does not answer, or has no values.
    """
    url = f"http://{address}/metrics"
    remedy = "Is the server up? See: policyctl status"
    try:
        answer = Web().send("GET", url, limit_s=SCRAPE_S + 1.0)
        with closing(answer):
            text = answer.read(_MOST_BYTES).decode(errors="replace")
    except HTTPError as error:
        raise ServerError(f"{url} does not answer ({type(error).__name__})", remedy=remedy) from error
    if answer.status != HTTPStatus.OK:
        raise ServerError(f"{url} answers {answer.status}: {' '.join(text.split())}", remedy=remedy)
    return text


class _Once:
    """One collection at a time; all who ask meanwhile share it."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._running: Future[tuple[Measured, ...]] | None = None
        self._lock = threading.Lock()

    def values(self) -> tuple[Measured, ...]:
        """Values of now, or of a collection that is under way.

        Raises:
            TimeoutError: They cannot be had in time.
        """
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                # No pool: the interpreter would wait at its end for one that hangs.
                threading.Thread(target=self._run, args=(self._running,), name="collect", daemon=True).start()
            running = self._running
        return running.result(timeout=SCRAPE_S)

    def _run(self, running: Future[tuple[Measured, ...]]) -> None:
        try:
            running.set_result(self._collect())
        except Exception as error:  # noqa: BLE001 - the scrapes that wait get it
            running.set_exception(error)


def _application(collect: Collect, lacks: Lacks) -> WSGIApplication:
    """Answers ``GET /metrics`` with the values as prometheus_client writes them, in the format that is asked for."""
    once = _Once(collect)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/livez":
                return words(start_response, HTTPStatus.OK, "The process answers.")
            case "/readyz":
                return readiness(start_response)
        return words(start_response, HTTPStatus.NOT_FOUND, "There are /metrics, /livez and /readyz, and nothing else.")

    def metrics(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            values = once.values()
        except TimeoutError:
            said = f"The values could not be had within {SCRAPE_S:g} s."
            return words(start_response, HTTPStatus.SERVICE_UNAVAILABLE, said)
        except Exception as error:  # noqa: BLE001 - a defect in here must show as a failed scrape, and end nothing
            return words(start_response, HTTPStatus.INTERNAL_SERVER_ERROR, type(error).__name__)
        answer: Iterable[bytes] = make_wsgi_app(_Values(values))({**environ, "QUERY_STRING": ""}, start_response)
        return answer

    def readiness(start_response: StartResponse) -> Iterable[bytes]:
        if why := lacks():
            return words(start_response, HTTPStatus.SERVICE_UNAVAILABLE, f"Not ready: {why}.")
        return words(start_response, HTTPStatus.OK, "Ready.")

    def words(start_response: StartResponse, status: HTTPStatus, text: str) -> Iterable[bytes]:
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    return application


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """A scrape a second is not worth a line."""


class _Listener(ThreadingWSGIServer):
    """prometheus_client's server, which ends the connections of clients that let it wait."""

    request_queue_size = 2 * MOST_AT_ONCE

    def __init__(self, address: tuple[str, int], collect: Collect, lacks: Lacks) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        self._since: dict[socket, float] = {}
        super().__init__(address, _Handler)
        self.set_app(_application(collect, lacks))

    def server_bind(self) -> None:
        """Without the look-up of a name that HTTPServer makes, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        assert isinstance(request, socket)  # noqa: S101 - a TCP server's
        if len(self._since) >= MOST_AT_ONCE:
            self._cut_off(next(iter(self._since)))
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Several times a second, by the listening thread."""
        late = time.monotonic() - CLIENT_S
        for request in [each for each, since in self._since.copy().items() if since < late]:
            self._cut_off(request)

    def _cut_off(self, request: socket) -> None:
        """End a connection under the thread that reads or writes it, which then ends too."""
        self._since.pop(request, None)
        with suppress(OSError):
            request.shutdown(SHUT_RDWR)

    def shutdown_request(self, request: socket | tuple[bytes, socket]) -> None:
        assert isinstance(request, socket)  # noqa: S101 - a TCP server's
        self._since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that went away is not worth a line."""


@contextmanager
def exporting(collect: Collect, *, lacks: Lacks = lambda: "", host: str, port: int) -> Iterator[str]:
    """Answer scrapes and probes while the block runs.

    Args:
        collect: Gives the values of now; called on a thread of the listener, never twice at a time.
        lacks: Says why the server should get no requests; called on threads of the listener, so it may not wait.
        host: Address to listen on.
        port: 0 takes a free one.

    Yields:
        ``host:port`` where it listens.

    Raises:
        ServerError: It cannot listen there.
    """
    try:
        listener = _Listener((host, port), collect, lacks)
    except OSError as error:
        raise ServerError(
            f"the control plane's metrics cannot listen on {host}:{port} ({error.strerror})",
            remedy="Choose another port: policyctl serve --control-metrics-port N (0 takes a free one).",
        ) from error
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.2}, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"{host}:{listener.server_address[1]}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join(timeout=2.0)
