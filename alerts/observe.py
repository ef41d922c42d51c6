"""Run Prometheus and Alertmanager with the files of this folder, for one machine; what `make observe` does.

The configuration is copied to another folder, where the ports of the running
server replace the default ones. A receiver prints alerts as they come, in the
place of a pager. Everything listens on 127.0.0.1 and ends with this process.

Needs Prometheus and Alertmanager: `apt install prometheus prometheus-alertmanager`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.repository import Repository
from policyctl.errors import PolicyctlError, ServerError, UnsupportedError
from policyctl.serving import launch
from policyctl.serving.ports import free_ports, holder, is_free
from policyctl.settings import load

HERE: Final = Path(__file__).resolve().parent
DEFAULT_TARGETS: Final = {"triton": "127.0.0.1:8002", "control": "127.0.0.1:8003", "api": "127.0.0.1:8004"}
TOKEN_FILE: Final = "webhook-token"
_APT: Final = "apt install prometheus prometheus-alertmanager"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each part listens, on 127.0.0.1."""

    prometheus: int = 9090
    alertmanager: int = 9093
    webhook: int = 9095


def program(*names: str) -> str:
    """The path of the first of `names` that is installed.

    Raises:
        UnsupportedError: None is.
    """
    for name in names:
        if found := shutil.which(name):
            return found
    raise UnsupportedError(f"{names[0]} is not installed", remedy=f"On Debian or Ubuntu: {_APT}")


def prepare(folder: Path, *, ports: Ports, targets: Mapping[str, str] = DEFAULT_TARGETS) -> None:
    """Copy the configuration to `folder`, for these ports and targets.

    Args:
        folder: Written again, but for what Prometheus and Alertmanager keep in it.
        ports: Instead of the default ones.
        targets: ``host:port`` by job.
    """
    for name in ("rules", "targets"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(HERE / name, folder / name)
    for name in ("prometheus.yml", "alertmanager.yml"):
        text = (HERE / name).read_text()
        for part in fields(Ports):
            text = text.replace(f"127.0.0.1:{part.default}", f"127.0.0.1:{getattr(ports, part.name)}")
        (folder / name).write_text(text)
    for job, target in targets.items():
        path = folder / "targets" / f"local.{job}.yml"
        path.write_text(path.read_text().replace(DEFAULT_TARGETS[job], target))
    token = folder / TOKEN_FILE
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_urlsafe(24))


def targets_of(repository: Path) -> dict[str, str]:
    """Where the server of `repository` exports its metrics, if one runs; else the default ports."""
    found = endpoints.read(Repository(repository))
    if found is None:
        return dict(DEFAULT_TARGETS)
    named = {"triton": found.metrics, "control": found.control_metrics}
    return {**DEFAULT_TARGETS, **{job: target for job, target in named.items() if target}}


@dataclass(slots=True)
class Webhook:
    """Keeps what Alertmanager sends, and refuses senders that do not know the token.

    Attributes:
        port: Where it listens.
        token: What must be sent along.
        seen: Every alert that came, oldest first, as Alertmanager describes it.
        on_alert: Called for each.
    """

    port: int
    token: str
    on_alert: Any = None
    seen: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Webhook]:
        """Listen while the block runs."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        thread = threading.Thread(target=server.serve_forever, name="webhook", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def firing(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """The alerts of this name that came as firing, with at least these labels."""
        return [
            alert
            for alert in list(self.seen)
            if alert["status"] == "firing" and {"alertname": name, **labels}.items() <= alert["labels"].items()
        ]


def _handler(webhook: Webhook) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = secrets.compare_digest(self.headers.get("Authorization", ""), f"Bearer {webhook.token}")
            for alert in json.loads(body)["alerts"] if known else ():
                webhook.seen.append(alert)
                if webhook.on_alert:
                    webhook.on_alert(alert)
            self.send_response(200 if known else 401)  # last: what was answered is kept
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    return Handler


@contextlib.contextmanager
def running(folder: Path, ports: Ports) -> Iterator[None]:
    """Prometheus and Alertmanager on what `prepare` left in `folder`, while the block runs.

    Raises:
        UnsupportedError: One of them is not installed.
        ServerError: One of them did not come up; names its log.
    """
    commands = {
        "prometheus": (
            program("prometheus"),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{ports.prometheus}",
            "--log.level=warn",
        ),
        "alertmanager": (
            program("alertmanager", "prometheus-alertmanager"),
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{ports.alertmanager}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ),
    }
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            port = getattr(ports, name)
            if not is_free(port, host="127.0.0.1"):
                raise ServerError(
                    f"port {port}, for {name}, is taken by {holder(port) or 'somebody else'}",
                    remedy=f"Stop that, or choose another: --{name}-port PORT",
                )
            process = stack.enter_context(_process(command, log=folder / f"{name}.log"))
            _wait_ready(process, f"http://127.0.0.1:{port}/-/ready", folder / f"{name}.log")
        yield


@contextlib.contextmanager
def _process(command: tuple[str, ...], *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and with this process whatever happens."""
    tied = (sys.executable, launch.__file__, str(os.getpid()), *command)
    with log.open("wb") as output:
        process = subprocess.Popen(tied, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{url} does not answer", remedy=f"Read {log}") from None
        time.sleep(0.1)


def _say(alert: Mapping[str, Any]) -> None:
    words = f"{alert['status'].upper()} {alert['labels']['severity']}: {alert['annotations']['summary']}"
    print(f"{words} ({alert['labels']['alertname']}, {alert['annotations']['runbook_url']})", flush=True)


def _port(given: int | None, default: int, free: int) -> int:
    if given is not None:
        return given
    return default if is_free(default, host="127.0.0.1") else free


def main() -> int:
    """Run both until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=HERE.parent / "build" / "observe", help="[%(default)s]")
    for part in fields(Ports):
        parser.add_argument(f"--{part.name}-port", type=int, help=f"[{part.default}, or a free one if that is taken]")
    given = parser.parse_args()
    # Debian's packages start services on the default ports.
    free = iter(free_ports(3))
    defaults = asdict(Ports())
    ports = Ports(*(_port(getattr(given, f"{name}_port"), port, next(free)) for name, port in defaults.items()))
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        targets = targets_of(load().repository)
        prepare(folder, ports=ports, targets=targets)
        token = (folder / TOKEN_FILE).read_text()
        with Webhook(ports.webhook, token, on_alert=_say).listening(), running(folder, ports):
            print(f"Prometheus http://127.0.0.1:{ports.prometheus}, scraping {', '.join(targets.values())}.")
            print(f"Alertmanager http://127.0.0.1:{ports.alertmanager}. Alerts are printed here. Ctrl-C stops.")
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except PolicyctlError as error:
        print(f"{error.problem}. {error.remedy}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
