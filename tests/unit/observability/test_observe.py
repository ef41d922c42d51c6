"""`make observe`: the committed files, for the ports of one machine, and a receiver that knows whom to believe."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pytest
from test_alert_rules import ALERTS

from policyctl.errors import ServerError, UnsupportedError
from policyctl.serving.ports import free_ports

sys.path.insert(0, str(ALERTS))

import observe

PORTS = observe.Ports(prometheus=19090, alertmanager=19093, webhook=19095)


def prepared(folder: Path, **options: object) -> str:
    """All that was prepared, as one text."""
    observe.prepare(folder, ports=PORTS, **options)
    return "".join(path.read_text() for path in sorted(folder.rglob("*.yml")))


def test_every_port_is_replaced_and_nothing_else(tmp_path) -> None:
    """With the default ones put back, the files are the committed ones."""
    targets = {"triton": "127.0.0.1:18002", "control": "127.0.0.1:18003"}
    text = prepared(tmp_path, targets=targets)
    assert not re.search(r"127\.0\.0\.1:(9\d{3}|8002|8003)\b", text)
    committed = "".join(p.read_text() for p in sorted(ALERTS.rglob("*.yml")) if "tests" not in p.parts)
    assert text.replace("127.0.0.1:1", "127.0.0.1:") == committed


def test_the_token_is_its_owners_alone_and_stays(tmp_path) -> None:
    """Who knows the token uses it after the next start too."""
    prepared(tmp_path)
    token = tmp_path / observe.TOKEN_FILE
    assert token.stat().st_mode & 0o777 == 0o600
    before = token.read_text()
    prepared(tmp_path)
    assert token.read_text() == before
    assert len(before) > 20


def test_without_a_server_the_default_ports_are_watched(tmp_path) -> None:
    """A server that is started later is found there."""
    assert observe.targets_of(tmp_path) == observe.DEFAULT_TARGETS


def test_what_is_not_installed_is_named_with_how_to_get_it() -> None:
    """The names of Debian's packages."""
    with pytest.raises(UnsupportedError, match="no-such-program is not installed") as refused:
        observe.program("no-such-program")
    assert "apt install prometheus prometheus-alertmanager" in refused.value.remedy


def test_a_port_that_is_taken_is_named_before_anything_is_started(tmp_path, monkeypatch) -> None:
    """And the option that chooses another."""
    monkeypatch.setattr(observe, "program", lambda *names: "/bin/false")
    (port,) = free_ports(1)
    with (
        observe.Webhook(port, "token").listening(),
        pytest.raises(ServerError, match=f"port {port}, for prometheus, is taken") as refused,
        observe.running(tmp_path, observe.Ports(prometheus=port)),
    ):
        pass
    assert "--prometheus-port" in refused.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sent", "status"), [("Bearer right", 200), ("Bearer wrong", 401), ("", 401)])
def test_the_receiver_believes_only_who_knows_the_token(sent: str, status: int) -> None:
    """An alert that anybody else sends is not kept."""
    (port,) = free_ports(1)
    alert = {"status": "firing", "labels": {"alertname": "A", "model": "walker"}, "annotations": {}}
    with observe.Webhook(port, "right").listening() as webhook:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/", json.dumps({"alerts": [alert]}).encode(), {"Authorization": sent}
        )
        try:
            got = urllib.request.urlopen(request, timeout=300).status
        except urllib.error.HTTPError as error:
            got = error.code
    assert (got, webhook.seen) == (status, [alert] if status == 200 else [])
    assert bool(webhook.firing("A", model="walker")) == (status == 200)
    assert not webhook.firing("A", model="hopper")


def test_default_ports_are_those_of_the_files() -> None:
    """What is replaced must be there."""
    text = "".join(path.read_text() for path in ALERTS.glob("*.yml"))
    assert all(f"127.0.0.1:{port}" in text for port in asdict(observe.Ports()).values())
