"""A store and some nodes on this machine: each a `policyctl serve` on another repository, and on other ports."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

from policyctl.demo.background_server import COMMAND, BackgroundServer, persons_environment
from policyctl.errors import ServerError, UnsupportedError

_PORTS: Final = ("grpc", "http", "metrics", "control-metrics")
_PATIENCE_S: Final = 300.0


class FleetServer(BackgroundServer):
    """One node, which keeps its ports over restarts.

    Args:
        folder: Where its repository and its log are.
        name: Of the node.
        environment: Names the store.
    """

    def __init__(self, folder: Path, name: str, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mine = {**environment, "POLICYCTL_FLEET__NODE": name, "POLICYCTL_SERVER__WARM_COMMANDS": "false"}
        super().__init__(folder / "model_repository", folder / "serve.log", environment=mine)
        self.name = name
        self._ports = {each: free_port() for each in _PORTS}
        self.address = f"127.0.0.1:{self._ports['grpc']}"

    def begin(self, *options: str) -> None:
        """Start it on its ports and return at once."""
        ports = [text for name, port in self._ports.items() for text in (f"--{name}-port", str(port))]
        super().begin(*ports, *options)

    def kill(self) -> None:
        """End it and everything that it started, as a machine that loses its power does."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(family, timeout=_PATIENCE_S)
        self.process.wait(_PATIENCE_S)


class LocalFleet:
    """A store and its nodes.

    Args:
        folder: Where everything is.
        store: The store's address.
        names: Of the nodes.
        environment: What it takes to ask the store.
    """

    def __init__(self, folder: Path, store: str, names: tuple[str, ...], environment: dict[str, str]) -> None:
        self.store = store
        self.environment = {**persons_environment(), **environment, "POLICYCTL_FLEET__STORE": store}
        self.nodes = {name: FleetServer(folder / name, name, self.environment) for name in names}

    def start(self) -> None:
        """Start every node that does not run, side by side, and wait for their servers."""
        lacking = [node for node in self.nodes.values() if not node.is_running]
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.start(), lacking))
        self._wait(lambda status: len(status["nodes"]) == len(self.nodes))

    def stop(self) -> None:
        """Stop every node, side by side."""
        for node in self.nodes.values():
            if node.is_running and node.process is not None:
                node.process.terminate()
        for node in self.nodes.values():
            if node.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.process.wait(_PATIENCE_S)
                node.kill()

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `policyctl` on the store.

        Raises:
            ServerError: It refused, with `check`.
        """
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        if check and done.returncode:
            logs = "".join(node.log_text[-4000:] for node in self.nodes.values())
            raise ServerError(f"policyctl {' '.join(arguments)}: {done.stderr}{logs}")
        return done

    def status(self) -> dict[str, Any]:
        """What `policyctl status --json` says of the fleet."""
        document: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return document

    def wait_until_healthy(self) -> None:
        """Wait until every node serves what every alias names.

        Raises:
            ServerError: Not in time.
        """
        self._wait(lambda status: bool(status["healthy"]))

    def _wait(self, is_there: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not is_there(found := self.status()):
            if time.monotonic() > deadline:
                raise ServerError(f"the fleet does not come to what its store says: {found}")
            time.sleep(0.2)


@contextlib.contextmanager
def s3_server(folder: Path, *, host: str = "127.0.0.1") -> Iterator[tuple[str, dict[str, str]]]:
    """A server of the S3 protocol with one bucket: the store's address, and the environment that asks it.

    Args:
        folder: For its log.
        host: Address of this machine to listen on.

    Raises:
        UnsupportedError: moto is not installed.
    """
    try:
        import moto.server  # noqa: F401
    except ImportError as error:
        raise UnsupportedError("moto is not installed", remedy="pip install 'moto[s3]' flask flask-cors") from error
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "fleet",
        "AWS_SECRET_ACCESS_KEY": "fleet",
        "AWS_REGION": "us-east-1",
    }
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _makes_bucket(host, port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"moto did not start: {(folder / 's3.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield "s3://policies/robots", environment
    finally:
        server.kill()
        server.wait()


def _makes_bucket(host: str, port: int) -> bool:
    import urllib3

    try:
        answer = urllib3.request("PUT", f"http://{host}:{port}/policies", retries=False, timeout=5.0)
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Have `values` in the environment of this process while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
