"""Faults in the real server, seen by the real Prometheus, sent by the real Alertmanager; and every dashboard's data.

One server for all: the tests run in the order of the file, from a healthy
server to one that is gone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import Embedded, allow_faults, embedded, wait_for
from test_api import running
from watched import DURATION, ROOT, Watched, needs_prometheus, quicker, watching

from faults import SPIN_US
from policyctl.client import PolicyClient
from policyctl.serving.memory import usage

pytestmark = [pytest.mark.server, needs_prometheus]

TIMES = 20
"""An hour is three minutes, half a minute one and a half seconds."""
SLOW_US = 60_000
"""Over the 50 ms that the latency objective allows."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Watched]:
    """1.0.0 of walker in production, asked by a client; 1.1.0 in staging, slowed down; a move there and back."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch, embedded(folder / "served", apart=True) as server:
        (folder / "served").mkdir()
        allow_faults(patch)
        for name, value in (
            ("POLICYCTL_SERVING__NATIVE", "off"),
            ("POLICYCTL_SCRUB__PAUSE_S", "0.2"),
            ("POLICYCTL_SCRUB__BYTES_PER_S", str(1 << 26)),
        ):
            patch.setenv(name, value)
        server.publish("1.0.0", 1)
        server.publish("1.1.0", 2)
        with pytest.MonkeyPatch.context() as configured:
            configured.setenv("POLICYCTL_CONFIG", str(settings_of(server)))
            settings_of(server).write_text("schema: 2\n")
            server.start()
        server.run("promote", "walker", "1.0.0")
        with (
            running(server.root, folder / "api.log") as api,
            watching(server, folder / "watching", api=api, times=TIMES) as found,
            asking(server.endpoint["grpc"]),
        ):
            wait_for(lambda: found.now("release:nv_inference_success:rate1m > 0"), every_s=0.2)
            server.run("promote", "walker", "1.1.0")
            server.run("rollback", "walker")
            with pytest.MonkeyPatch.context() as slowed:
                slowed.setenv("POLICYCTL_SERVING__PARAMETERS", json.dumps({SPIN_US: str(SLOW_US)}))
                server.run("promote", "walker", "1.1.0", "--alias", "staging")
            yield found


def settings_of(server: Embedded) -> Path:
    """The settings file that the server reads, and none of its commands."""
    return server.root.parent / "policyctl.yaml"


@contextmanager
def asking(url: str) -> Iterator[None]:
    """A client of production that asks five times a second, whatever it is answered."""
    stop = threading.Event()

    def ask() -> None:
        with PolicyClient("walker", url=url, deadline_s=30.0) as client:
            while not stop.wait(0.2):
                try:
                    client.act(np.zeros(4, np.float32))
                except Exception:
                    continue

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def kill_stub(watched: Watched, served: str) -> None:
    """Kill the process of a model's backend."""
    (stub,) = [u for name, u in usage(watched.server.endpoint["pid"]).items() if name.rsplit("_", 2)[0] == served]
    os.kill(stub.pid, signal.SIGKILL)


def arrives(watched: Watched, name: str, **labels: str) -> dict[str, Any]:
    """Wait until an alert has come to the webhook."""
    wait_for(lambda: watched.webhook.firing(name, **labels))
    return watched.webhook.firing(name, **labels)[0]


def test_what_is_made_quicker_is_the_same_but_for_its_durations() -> None:
    """Windows, offsets, `for` and intervals are divided; thresholds, labels and all else stay as committed."""
    for path in (ROOT / "alerts").glob("**/*.yml"):
        text = path.read_text()
        assert "".join(re.split(DURATION, text)[::4]) == "".join(re.split(DURATION, quicker(text, TIMES))[::4])
    assert (
        quicker("increase(x[5m] offset 1h) > 5\nfor: 30s", 20)
        == "increase(x[15000ms] offset 180000ms) > 5\nfor: 1500ms"
    )
    assert quicker("predict_linear(x[6h], 24 * 3600) < 0", 1) == "predict_linear(x[21600000ms], 24 * 3600) < 0"


def test_a_model_that_answers_late_is_told_and_a_move_is_no_fault(watched) -> None:
    """staging takes 60 ms where 50 are allowed; production, which moved there and back meanwhile, loses nothing."""
    alert = arrives(watched, "PolicySlowBurn1h", model="walker", alias="staging", server="local", severity="critical")
    assert re.match(r"walker \(staging\): [\d.]+% of answers took over 50 ms", alert["annotations"]["summary"])
    # On a machine that is busy enough, production is late as well, and scrapes fail.
    of_production = [a["labels"] for a in list(watched.webhook.seen) if a["labels"].get("alias") == "production"]
    assert [each["alertname"] for each in of_production if each.get("objective") != "latency"] == []


def test_a_move_that_fails_is_told(watched, monkeypatch) -> None:
    """A promotion whose backend cannot load is reverted; the incumbent stays."""
    monkeypatch.setenv("POLICYCTL_SERVING__PARAMETERS", json.dumps({SPIN_US: "-1"}))
    assert watched.server.run("promote", "walker", "1.1.0", check=False).returncode == 7
    alert = arrives(watched, "PolicyMoveFailed", model="walker", alias="production", kind="promotion")
    assert alert["annotations"]["summary"] == "A promotion of walker (production) failed and was reverted"


def test_a_broken_settings_file_is_told(watched) -> None:
    """It is refused, and the server goes on with the settings that it has."""
    settings_of(watched.server).write_text("schema: 2\nscrub: {pause_s: soon}\n")
    arrives(watched, "PolicySettingsRefused", server="local", severity="warning")


def test_a_dead_stub_behind_a_ready_flag_is_told(watched) -> None:
    """Clients' errors burn the budget, the prober hears nothing and has the model loaded again: three alerts."""
    kill_stub(watched, "walker")
    arrives(watched, "PolicyBackendDead", model="walker", alias="production")
    arrives(watched, "PolicyBackendReloaded", model="walker", alias="production", severity="warning")
    alert = arrives(watched, "PolicyErrorsBurn1h", model="walker", alias="production", severity="critical")
    assert alert["annotations"]["runbook_url"] == "docs/runbooks/availability.md#policyerrorsburn1h"


def test_a_corrupt_release_is_told_and_so_is_its_refusal(watched) -> None:
    """The scrub finds the byte; when the backend dies, staging is refused; with the byte restored it is well again."""
    path = watched.server.root / "walker" / "2" / "model.onnx"
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    arrives(watched, "PolicyFilesWrong", server="local", scope="repository")
    kill_stub(watched, "walker.staging")
    arrives(watched, "PolicyAliasRefused", alias="staging")
    path.write_bytes(good)
    wait_for(lambda: _resolved(watched, "PolicyFilesWrong"))


def _resolved(watched: Watched, name: str) -> bool:
    return any((a["status"], a["labels"]["alertname"]) == ("resolved", name) for a in list(watched.webhook.seen))


BOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
VALUES = {
    "$__rate_interval": "4s",
    "$__range": "1m",
    "$__interval": "1s",
    "$server": "local",
    "$model": "walker",
    "$alias": ".*",
    "$release": ".*",
}


def filled(query: str) -> str:
    """A query as Grafana sends it: for this server, one model, all its aliases and releases."""
    for name, value in VALUES.items():
        query = query.replace(name, value)
    assert "$" not in query.replace('"$1"', ""), query
    return query


def has_data(series: list[dict[str, Any]]) -> bool:
    """Whether there is a number in it."""
    points = [p for s in series for p in (s["values"] if "values" in s else [s["value"]])]
    return any(value != "NaN" for _, value in points)


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_has_data(watched, path: Path) -> None:
    """Each panel's, variable's and annotation's, after moves, load and faults."""
    assert not has_data(watched.over_time("policyctl_nothing"))
    board = json.loads(path.read_text())
    empty = []
    for panel in board["panels"]:
        for target in panel["targets"]:
            ask = watched.now if target["instant"] else watched.over_time
            if not has_data(ask(filled(target["expr"]))):
                empty.append(f"{panel['title']}: {target['expr']}")
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            if not watched.get(f"label/{label}/values", **{"match[]": filled(selector)}):
                empty.append(f"variable {variable['name']}")
    for annotation in board["annotations"]["list"]:
        if not has_data(watched.over_time(filled(annotation["expr"]))):
            empty.append(f"annotation {annotation['name']}")
    assert empty == []


def test_a_server_that_is_gone_silences_what_follows_from_it(watched) -> None:
    """Each target has its alert, the API's too; what alerts say of its models is kept back while that is so."""
    metrics = watched.server.endpoint["metrics"]
    watched.server.stop()
    watched.api.process.terminate()
    arrives(watched, "PolicyApiDown", job="policyctl-api", severity="warning")
    arrives(watched, "PolicyTargetDown", job="policyctl-triton", instance=metrics)
    arrives(watched, "PolicyTargetDown", job="policyctl-control")
    wait_for(watched.silent, every_s=0.3)
    assert all(alert["scope"] == "model" for alert in watched.silent())
