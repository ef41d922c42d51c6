"""A real server that real Prometheus and Alertmanager watch by the committed files, with time made quicker.

An alert that waits for minutes is the same alert, with the same expression and
the same thresholds, when every duration in the files is divided by one number:
windows, offsets, `for`, and the intervals of scraping, evaluating and
notifying. `quicker` does that and nothing else.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from embedded import PATIENCE_S, Embedded
from test_api import Running

from policyctl.serving.ports import free_ports

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "alerts"))

import observe  # noqa: E402

INSTALLED = bool(shutil.which("prometheus")) and any(map(shutil.which, ("alertmanager", "prometheus-alertmanager")))
needs_prometheus = pytest.mark.skipif(
    not INSTALLED,
    reason="Prometheus and Alertmanager are not installed: apt install prometheus prometheus-alertmanager",
)
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = re.compile(r"(\[|\boffset |\b(?:for|\w*interval|group_wait): )(\d+)(ms|s|m|h|d)\b")


def quicker(text: str, times: int) -> str:
    """`text` of rules or a configuration with every duration divided by `times`."""
    return DURATION.sub(lambda m: f"{m[1]}{round(int(m[2]) * _MS[m[3]] / times)}ms", text)


@dataclass(slots=True)
class Watched:
    """What watches, and what it has seen.

    Attributes:
        server: What is watched.
        api: Its control API.
        webhook: Where alerts arrive.
        prometheus: Its URL.
        alertmanager: Its URL.
        since: When watching began, Unix seconds.
    """

    server: Embedded
    api: Running
    webhook: observe.Webhook
    prometheus: str
    alertmanager: str
    since: float

    def get(self, path: str, **parameters: Any) -> Any:
        """What Prometheus' API answers; a query that it refuses fails the test."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def now(self, query: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        return self.get("query", query=query)["result"]

    def over_time(self, query: str) -> list[dict[str, Any]]:
        """The series of a query over all the time that was watched."""
        return self.get("query_range", query=query, start=self.since, end=time.time(), step="1s")["result"]

    def silent(self) -> list[dict[str, str]]:
        """The labels of those alerts that Alertmanager keeps to itself now, because of others."""
        with urllib.request.urlopen(f"{self.alertmanager}/api/v2/alerts", timeout=PATIENCE_S) as answer:
            alerts = json.load(answer)
        return [a["labels"] for a in alerts if a["status"]["inhibitedBy"]]


@contextmanager
def watching(server: Embedded, folder: Path, *, api: Running, times: int) -> Iterator[Watched]:
    """Watch a running server and its control API, by the committed files made quicker `times`."""
    ports = observe.Ports(*free_ports(3))
    with ExitStack() as stack:
        targets = {"triton": server.endpoint["metrics"], "control": server.endpoint["control_metrics"]}
        targets["api"] = api.url.removeprefix("http://")
        folder.mkdir()
        observe.prepare(folder, ports=ports, targets=targets)
        for path in (*folder.glob("*.yml"), *folder.glob("rules/*.yml")):
            path.write_text(quicker(path.read_text(), times))
        token = (folder / observe.TOKEN_FILE).read_text()
        webhook = stack.enter_context(observe.Webhook(ports.webhook, token).listening())
        stack.enter_context(observe.running(folder, ports))
        url = "http://127.0.0.1:{}".format
        yield Watched(server, api, webhook, url(ports.prometheus), url(ports.alertmanager), time.time())
