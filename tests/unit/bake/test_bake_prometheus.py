"""What is read of a Prometheus, and what is done when it is not there."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from policyctl.adapters import prometheus
from policyctl.adapters.prometheus import Prometheus
from policyctl.domain.bake import Reading
from policyctl.domain.verdict import Verdict
from policyctl.errors import ServerError
from policyctl.services.rollout.promote import promote


def series(name: str, values: list[tuple[float, float]], **labels: str) -> dict:
    """One row of a matrix, as Prometheus writes it."""
    return {"metric": {"__name__": name, **labels}, "values": [[at, str(value)] for at, value in values]}


class Fake:
    """A Prometheus that answers by the first word of a query."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict]] = {}
        self.asked: list[tuple[str, str]] = []
        self.url = ""


@pytest.fixture
def fake() -> Iterator[Fake]:
    """One, on loopback."""
    found = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)["query"][0]
            found.asked.append((query, self.headers.get("Authorization") or ""))
            rows = found.rows.get(query.partition("{")[0], [])
            body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX-A: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad",
    ],
)
def test_a_prometheus_that_drips_or_sends_on_is_an_error_in_time(monkeypatch, answer: bytes) -> None:
    """A bake does not wait for an answer without an end, and the token is carried nowhere else."""
    monkeypatch.setattr(prometheus, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.sendall(answer)
                while True:
                    time.sleep(0.02)
                    connection.sendall(b"a")

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(ServerError, match="cannot be asked"):
            Prometheus(f"http://127.0.0.1:{listener.getsockname()[1]}", token="t").require()


def test_counters_come_server_by_server_with_reasons_added_up(fake) -> None:
    """Two servers stay apart; REJECTED and BACKEND of one are one number."""
    one, two = {"instance": "a", "model": "walker"}, {"instance": "b", "model": "walker"}
    fake.rows = {
        "nv_inference_request_success": [
            series("nv_inference_request_success", [(10, 100), (25, 160)], **one),
            series("nv_inference_request_success", [(12, 7)], **two),
        ],
        "nv_inference_request_failure": [
            series("nv_inference_request_failure", [(10, 1), (25, 2)], reason="BACKEND", **one),
            series("nv_inference_request_failure", [(10, 0), (25, 5)], reason="REJECTED", **one),
        ],
        "nv_inference_request_duration_us": [
            series("nv_inference_request_duration_us", [(10, 6e4), (25, 9e4)], **one),
            series("nv_inference_request_duration_us", [(12, 4e3)], **two),
        ],
        "policyctl_refused_requests_total": [
            series("policyctl_refused_requests_total", [(10, 2), (25, 3)], reason="policy", process="7", **one),
            series("policyctl_refused_requests_total", [(10, 0), (25, 1)], reason="request", process="8", **one),
        ],
    }
    found = Prometheus(fake.url, "secret").slot("walker.staging", 3, since=5.0, until=30.0)
    assert found == ((Reading(10, 100, 1, 6e4, 2), Reading(25, 160, 7, 9e4, 4)), (Reading(12, 7, 0, 4e3),))
    names = [f"nv_inference_request_{what}" for what in ("success", "failure", "duration_us")]
    names.append("policyctl_refused_requests_total")
    asked = {q.replace(',reason!="CANCELED"', "") for q, _ in fake.asked}
    assert asked == {f'{n}{{model="walker.staging",version="3"}}[25000ms]' for n in names}
    assert sum("CANCELED" in query for query, _ in fake.asked) == 1
    assert {token for _, token in fake.asked} == {"Bearer secret"}


def test_a_prometheus_that_does_not_answer_says_so_without_its_password() -> None:
    """Credentials in the URL are in no message."""
    with pytest.raises(ServerError, match=r"Prometheus at 127\.0\.0\.1:1 cannot be asked") as error:
        Prometheus("http://user:hidden@127.0.0.1:1").require()
    assert "hidden" not in error.value.problem


def test_a_bake_goes_by_prometheus_where_it_answers(world, fake) -> None:
    """Nobody waits for the incumbent's figures; without samples the bake is inconclusive, by that source."""
    world.failing["1.1.0"] = 0.5  # which Triton's own statistics would tell, and Prometheus has not scraped
    moved = promote(world.baking(prometheus=fake.url), model="walker", release="1.1.0", alias="production")
    assert moved.bake.source == f"Prometheus at {fake.url.removeprefix('http://')}"
    assert moved.bake.verdict is Verdict.INCONCLUSIVE
    assert any('version="2"' in query for query, _ in fake.asked)


def test_where_it_does_not_answer_at_the_start_our_own_figures_are_taken_and_it_is_said(world) -> None:
    """The words name both."""
    control = world.baking(prometheus="http://127.0.0.1:1")
    moved = promote(control, model="walker", release="1.1.0", alias="production")
    assert moved.bake.verdict is Verdict.PASSED
    assert moved.bake.source.startswith("Triton's statistics")
    assert any("Prometheus at 127.0.0.1:1 cannot be asked" in words for words in world.said)
