"""The control API on the real Triton: under load, twice, by URL, and killed in the middle."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
from embedded import PATIENCE_S, Embedded, exported, wait_for

from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected

pytestmark = pytest.mark.server

EXPECTED = {"1.0.0": 1, "1.1.0": 2}


class Running:
    """`policyctl api` on a repository, as a process of its own."""

    def __init__(self, repository: Path, log: Path) -> None:
        self._log = log
        log.write_text("")
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "policyctl", "api", "--port", "0", "-r", str(repository)],
                stdout=stream,
                stderr=stream,
            )
        wait_for(lambda: self.process.poll() is not None or "Ctrl-C stops" in log.read_text())
        found = re.search(r"at (http://\S+), for", log.read_text())
        assert found, log.read_text()
        self.url = found[1]

    def call(self, method: str, path: str, token: str, body: Any = None, *, key: str = "") -> tuple[int, Any]:
        """One request: status and document."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        headers |= {"Idempotency-Key": key} if key else {}
        content = None if body is None else json.dumps(body).encode()
        answer = urllib3.request(
            method, self.url + path, body=content, headers=headers, retries=False, timeout=PATIENCE_S
        )
        return answer.status, answer.json()

    def command(self, *arguments: str, token: str) -> subprocess.CompletedProcess[str]:
        """The command line by URL."""
        return subprocess.run(
            [sys.executable, "-m", "policyctl", "--api", self.url, *arguments],
            env={**os.environ, "POLICYCTL_API__TOKEN": token},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


@contextmanager
def running(repository: Path, log: Path) -> Iterator[Running]:
    """A control API, stopped in good order at the end unless it has ended."""
    api = Running(repository, log)
    try:
        yield api
        if api.process.poll() is None:
            api.process.terminate()
            assert api.process.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        if api.process.poll() is None:
            api.process.kill()
            api.process.wait(PATIENCE_S)


def _load(server: Embedded) -> BackgroundLoad:
    options = LoadOptions(model="walker", url=server.endpoint["grpc"], clients=4, deadline_s=60, duration_s=3600)
    return BackgroundLoad(options, {r: read_expected(exported(seed)) for r, seed in EXPECTED.items()})


def _intents(server: Embedded) -> int:
    return sum(record.kind == "intent" for record in server.control.repository.journal.records())


def test_moves_by_the_api_lose_no_request_and_outlive_its_process(served, tmp_path) -> None:
    """Promoted once however often it is asked, rolled back by URL, killed in the middle: no answer fails or is wrong.

    The API that is started after the kill tells what became of the move.
    """
    token = served.run("token", "create", "ci", "--scope", "promote").stdout.strip()
    before, asked, path = _intents(served), {"release": "1.1.0"}, "/v1/models/walker/promotions?wait=120"
    with _load(served) as load:
        with running(served.root, tmp_path / "api.log") as api:
            status, first = api.call("POST", path, token, asked, key="build-1")
            assert (status, first["state"], served.answered_by()) == (200, "succeeded", "1.1.0"), first
            assert api.call("POST", path, token, asked, key="build-1") == (200, first)
            assert _intents(served) == before + 1
            done = api.command("rollback", "walker", "--json", token=token)
            assert done.returncode == 0, done.stderr
            assert (json.loads(done.stdout)["to"], served.answered_by()) == ("1.0.0", "1.0.0")
            wait_for(lambda: api.call("GET", "/healthz", token)[1]["status"] == "ok", every_s=0.5)
            name = _killed_in_the_middle(api, token, asked)
        with running(served.root, tmp_path / "again.log") as api:
            _, told = api.call("GET", f"/v1/operations/{name}?wait=120", token)
            assert told["state"] in {"succeeded", "failed"}, told
            expected = {"succeeded": "1.1.0", "failed": "1.0.0"}[told["state"]]
            assert served.answered_by() == expected
            status, again = api.call("POST", path.partition("?")[0], token, asked, key="build-2")
            assert (status, again["id"], _intents(served)) == (202, name, before + 3)
    assert load.report.clean, load.report
    assert set(load.report.by_release) == {"1.0.0", "1.1.0"}
    actors = {record.actor.partition("@")[0] for record in served.control.repository.journal.records()[-3:]}
    assert actors & {"token:ci"} or told["state"] == "failed"


@pytest.mark.long
def test_a_rollback_gets_through_a_flood(served, tmp_path) -> None:
    """1,100 connections that never send a whole request and a flood of looks keep neither it nor a scrape out.

    The process has 1,024 descriptors. Those connections would take all of them.
    """
    token = served.run("token", "create", "on-call", "--scope", "promote").stdout.strip()
    with running(served.root, tmp_path / "api.log") as api:
        resource.prlimit(api.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        status, done = api.call("POST", "/v1/models/walker/promotions?wait=120", token, {"release": "1.1.0"})
        assert (status, served.answered_by()) == (200, "1.1.0"), done
        with _flood(api.url):
            assert api.call("POST", "/v1/models/walker/rollbacks?wait=120", token, {})[0] == 200
            assert served.answered_by() == "1.0.0"
            for path in ("/metrics", "/healthz", "/livez", "/readyz"):
                answer = urllib3.request("GET", api.url + path, retries=False, timeout=PATIENCE_S)
                assert answer.status == 200, (path, answer.data)
            done = api.command("promote", "walker", "1.1.0", token=token)
            assert done.returncode == 0, done.stderr
            assert api.command("rollback", "walker", token=token).returncode == 0
    assert served.answered_by() == "1.0.0"


@contextmanager
def _flood(url: str) -> Iterator[None]:
    address = urllib3.util.parse_url(url)
    command = [sys.executable, str(Path(__file__).with_name("flood.py")), str(address.host), str(address.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"flooding\n"
            yield
        finally:
            process.kill()


def _killed_in_the_middle(api: Running, token: str, asked: Any) -> str:
    """Begin a promotion and kill the API when the journal has its intent; the operation."""
    _, begun = api.call("POST", "/v1/models/walker/promotions", token, asked, key="build-2")
    # Not faster than a token may read, or the answer is another one.
    wait_for(lambda: api.call("GET", f"/v1/operations/{begun['id']}", token)[1]["phase"] != "waiting", every_s=0.03)
    api.process.send_signal(signal.SIGKILL)
    api.process.wait(PATIENCE_S)
    return str(begun["id"])
