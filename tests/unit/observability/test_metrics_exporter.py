"""The listener: GET /metrics, in time, whatever happens behind it."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from policyctl.adapters import exporter
from policyctl.adapters.exporter import exporting, fetch, read_text, text_of
from policyctl.domain.metrics import CATALOGUE, Histogram, Sample, measured
from policyctl.errors import ServerError

VALUES = measured(
    {
        "policyctl_server_up": (Sample((), 1.0),),
        "policyctl_moves_total": (Sample(('a"\\\nb', "production", "promotion", "done"), 3.0),),
        "policyctl_probe_duration_seconds": (
            Sample(("walker", "production"), Histogram.empty((0.1, 1.0)).observe(0.1)),
        ),
    }
)


def test_what_is_told_is_read_back() -> None:
    """Names, labels with odd characters, values and buckets survive Prometheus's own text format."""
    found = {s.name: s for f in text_string_to_metric_families(text_of(VALUES)) for s in f.samples}
    assert found["policyctl_server_up"].value == 1
    assert found["policyctl_moves_total"].labels["model"] == 'a"\\\nb'
    assert found["policyctl_probe_duration_seconds_sum"].value == 0.1
    plain = {f["name"]: f for f in read_text(text_of(VALUES))}
    buckets = {s["labels"].get("le"): s["value"] for s in plain["policyctl_probe_duration_seconds"]["samples"]}
    assert buckets == {"0.1": 1.0, "1.0": 1.0, "+Inf": 1.0, None: 0.1}
    assert set(plain) == set(CATALOGUE)


def test_it_answers_get_metrics_and_nothing_else() -> None:
    """Another path is not found, another method is refused, and after the block nobody listens."""
    with exporting(lambda: VALUES, host="127.0.0.1", port=0) as address:
        assert fetch(address) == text_of(VALUES)
        openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = urllib3.request("GET", f"http://{address}/metrics", headers=openmetrics)
        assert answer.data.endswith(b"# EOF\n")
        assert urllib3.request("GET", f"http://{address}/").status == 404
        for method in ("POST", "PUT", "DELETE"):
            assert urllib3.request(method, f"http://{address}/metrics").status >= 400
        assert address.startswith("127.0.0.1:")
    with pytest.raises(ServerError, match="does not answer"):
        fetch(address)


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    """Before anything else is started."""
    with (
        exporting(lambda: VALUES, host="127.0.0.1", port=0) as address,
        pytest.raises(ServerError, match=address) as refused,
        exporting(lambda: VALUES, host="127.0.0.1", port=int(address.rpartition(":")[2])),
    ):
        pass
    assert "--control-metrics-port" in refused.value.remedy


def test_a_scrape_ends_in_time_where_the_values_do_not_come(monkeypatch) -> None:
    """503, one attempt for however many scrapes, and values again when it is over."""
    monkeypatch.setattr(exporter, "SCRAPE_S", 0.2)
    go, begun = threading.Event(), []

    def collect():
        begun.append(1)
        go.wait(300)
        return VALUES

    with exporting(collect, host="127.0.0.1", port=0) as address:
        before = time.monotonic()
        for _ in range(2):
            with pytest.raises(ServerError, match="503"):
                fetch(address)
        assert time.monotonic() - before < 60
        assert begun == [1]
        go.set()
        while any(thread.name == "collect" for thread in threading.enumerate()):
            time.sleep(0.01)
        monkeypatch.setattr(exporter, "SCRAPE_S", 60.0)
        assert fetch(address) == text_of(VALUES)


def test_scrapes_that_come_together_share_one_collection(monkeypatch) -> None:
    """A crowd of scrapers costs what one does."""
    monkeypatch.setattr(exporter, "SCRAPE_S", 300.0)
    begun, waiting, all_there = [], [], threading.Event()

    class Counted(Future):
        def result(self, timeout=None):
            waiting.append(1)
            if len(waiting) == 6:
                all_there.set()
            return super().result(timeout)

    def collect():
        begun.append(1)
        assert all_there.wait(300)
        return VALUES

    monkeypatch.setattr(exporter, "Future", Counted)
    with exporting(collect, host="127.0.0.1", port=0) as address, ThreadPoolExecutor(6) as pool:
        assert set(pool.map(fetch, [address] * 6)) == {text_of(VALUES)}
    assert begun == [1]


def test_a_defect_behind_it_fails_the_scrape_and_nothing_else() -> None:
    """The answer names the kind of the error, and not its words."""

    def collect():
        raise RuntimeError("secret")

    with exporting(collect, host="127.0.0.1", port=0) as address:
        for _ in range(2):
            with pytest.raises(ServerError, match=r"500: RuntimeError$"):
                fetch(address)


@pytest.mark.parametrize("sent", [b"", b"GET /metr"])
def test_clients_that_let_it_wait_keep_nobody_out(sent: bytes) -> None:
    """However many they are: the one that came first makes room."""
    with exporting(lambda: VALUES, host="127.0.0.1", port=0) as address, ExitStack() as opened:
        for _ in range(3 * exporter.MOST_AT_ONCE):
            opened.enter_context(closing(_dial(address, sent)))
        assert fetch(address) == text_of(VALUES)


def test_a_client_that_drips_is_cut_off(monkeypatch) -> None:
    """A byte now and then does not begin the time again."""
    monkeypatch.setattr(exporter, "CLIENT_S", 0.5)
    with exporting(lambda: VALUES, host="127.0.0.1", port=0) as address, closing(_dial(address, b"GET /")) as dripping:
        until = time.monotonic() + 300
        with pytest.raises(OSError):
            while time.monotonic() < until:
                dripping.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() < until


def _dial(address: str, sent: bytes) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(sent)
    return connection
