"""The control plane's `/metrics`: an HTTP listener of its own, for Prometheus.

It answers ``GET /metrics`` and nothing else, and changes nothing. A scrape ends
within `SCRAPE_S`: where the values cannot be had by then (a disk that hangs), it
gets a 503, and no second attempt is begun beside the first. A request that
dawdles is cut off, and more than `MOST_AT_ONCE` of them are turned away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, socket
from socketserver import TCPServer
from typing import Any, Final

import urllib3
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from policyctl.domain.metrics import Histogram, Measured, MetricKind
from policyctl.errors import ServerError

SCRAPE_S: Final = 2.0
MOST_AT_ONCE: Final = 8
_REQUEST_S: Final = 5.0
"""For a client to send its request, and to take the answer."""

Collect = Callable[[], tuple[Measured, ...]]
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _Values(Collector):
    """Hands values that were computed already to prometheus_client."""

    def __init__(self, values: Iterable[Measured]) -> None:
        self._values = tuple(values)

    def collect(self) -> Iterator[_Family]:
        for value in self._values:
            yield _family(value)


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


def text_of(values: Iterable[Measured]) -> str:
    """The values in Prometheus's text format."""
    return generate_latest(_registry(values)).decode()


def _registry(values: Iterable[Measured]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Values(values))
    return registry


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
        answer = urllib3.request("GET", url, timeout=SCRAPE_S + 1.0, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise ServerError(f"{url} does not answer ({type(error).__name__})", remedy=remedy) from error
    text = answer.data.decode(errors="replace")
    if answer.status != HTTPStatus.OK:
        raise ServerError(f"{url} answers {answer.status}: {' '.join(text.split())}", remedy=remedy)
    return text


class _Once:
    """One collection at a time; whoever asks meanwhile shares it."""

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
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            running.set_exception(error)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_S
    server_version = "policyctl"
    sys_version = ""
    server: _Listener

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"There is /metrics, and nothing else.\n")
            return
        try:
            values = self.server.once.values()
        except TimeoutError:
            words = f"The values could not be had within {SCRAPE_S:g} s.\n"
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", words.encode())
            return
        except Exception as error:  # noqa: BLE001 - a defect in here must show as a failed scrape, and end nothing
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{type(error).__name__}\n".encode())
            return
        encoder, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, content_type, encoder(_registry(values)))

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """A scrape a second is not worth a line."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * MOST_AT_ONCE

    def __init__(self, address: tuple[str, int], collect: Collect) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        self.once = _Once(collect)
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without the look-up of a name that HTTPServer makes, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def exporting(collect: Collect, *, host: str, port: int) -> Iterator[str]:
    """Answer scrapes while the block runs.

    Args:
        collect: Gives the values of now; called on a thread of the listener, never twice at a time.
        host: Address to listen on.
        port: 0 takes a free one.

    Yields:
        ``host:port`` where it listens.

    Raises:
        ServerError: It cannot listen there.
    """
    try:
        listener = _Listener((host, port), collect)
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
