"""Whatever stands in the place of a file: every command and the control API answer, in time, memory and words."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from api_world import ApiWorld
from signing_people import People, SignedWorld
from world import World, write_export

from policyctl.adapters import endpoint as endpoints
from policyctl.domain.log_event import LogLevel
from policyctl.domain.tokens import Scope
from policyctl.services import running
from policyctl.services.integrity.scrub import Scrubber
from policyctl.services.log import log_of
from policyctl.services.logs import levels as log_levels
from policyctl.services.moves.validate import validate
from policyctl.services.releases.transfer import export_release
from policyctl.services.rollout.promote import promote
from policyctl.services.show import health
from policyctl.services.supervise import leftovers

HUGE = 16 << 30
MOST_S = 60
MEMORY_BYTES = 1 << 30


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        path.open("rb").close()
    except OSError as error:
        pytest.skip(f"no device can be made here: {error.strerror}")


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a sparse file": _sparse,
    "a device": _device,
    "a folder": Path.mkdir,
    "a link to a device": _link,
    "a socket": _socket,
}
COMMANDS = (
    "status",
    "verify",
    "history walker",
    "at 2099-01-01T00:00Z",
    "release next walker {export}",
    "signatures walker 1.0.0",
    "trust list",
    "token list",
    "logs",
    "log-level",
    "card show walker 1.0.0",
    "compare {bench} {bench}",
    "config show",
    "metrics",
    "gc",
    "probe walker",
    "promote walker 1.1.0 --dry-run",
    "release export walker 1.1.0 {layout}",
    "release import {layout}",
    "publish {export} --model walker --release 1.3.0",
    "promote walker 1.1.0",
    "rollback walker",
    "repair",
    "abort walker",
)
ROUTES = (
    "/livez",
    "/readyz",
    "/healthz",
    "/metrics",
    "/v1/status",
    "/v1/models",
    "/v1/history",
    "/v1/operations",
    "/v1/audit",
    "/v1/tokens",
    "/v1/models/walker/releases",
    "/v1/models/walker/aliases",
    "/v1/models/walker/releases/1.0.0/evidence",
)


class _Hangs(BaseException):
    """Something waits."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Neither for ever nor without end: time and memory of this process are bounded while the block runs."""

    def stop(*_: object) -> None:
        raise _Hangs

    before, (soft, hard) = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A repository in which everything was done once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("used") / "world"
        world = SignedWorld(folder, patch, People(tmp_path_factory.mktemp("people")))
        repository, control = world.control.repository, world.control
        for number in range(3):
            world.publish(f"1.{number}.0", number)
        world.sign("1.0.0")
        validate(control, model="walker", release="1.0.0")
        for alias in ("production", "staging"):
            promote(control, model="walker", release="1.0.0", alias=alias)
        api = ApiWorld(world)
        assert api.post("/promotions?wait=60", {"release": "1.2.0", "alias": "staging"}).status_code == 200
        api.api.operations.close(timeout_s=300)
        kept = repository.control / "bench" / ("0" * 12) / "walker" / f"20260101T000000Z-{'0' * 12}.json"
        repository.write(kept, b"{}")
        Scrubber(control, threading.Event()).one_pass()
        running.write(repository, running.Running(endpoints.THIS_PROCESS, "", (), {}, {}))
        log_levels.change(control, level=LogLevel.INFO, triton=None)
        repository.write(leftovers.marker_path(repository), b'{"served": "walker", "server": "s1"}')
        repository.write(repository.control / "abort", b"nobody's")
        (folder / "secret").write_text(api.secrets[Scope.ADMIN])
        write_export(folder / "export", 4)
        export_release(control, model="walker", release="1.0.0", destination=str(folder / "layout"))
        log_of(control.settings, repository.control).write(LogLevel.INFO, "begun")
        (repository.control / "server.lock").touch()
    return folder


def _files(folder: Path) -> list[str]:
    """Every file that a command may open; of those that are alike, one."""
    found = (p for root in ("model_repository", "layout", "export") for p in (folder / root).rglob("*") if p.is_file())
    names = sorted(str(path.relative_to(folder)) for path in found)
    evidence = [name for name in names if "/evidence/" in name]
    alike = ("model_repository/walker/2", "model_repository/walker/3", *evidence[1:])
    return [name for name in names if not name.startswith(alike)]


class Site:
    """A copy of the used repository at one path, restored before each thing that is put into it."""

    def __init__(self, used: Path, folder: Path, monkeypatch, run: Any) -> None:
        self.used, self.folder, self._run = used, folder, run
        self.world: World | None = None
        self.restore()
        self.world = World(folder, monkeypatch, begin=False)
        self.api = ApiWorld(self.world, tokens=False)
        self.secret = (self.folder / "secret").read_text()

    def restore(self) -> None:
        subprocess.run(["rm", "-rf", self.folder], check=True)
        subprocess.run(["cp", "-a", self.used, self.folder], check=True)

    def command(self, text: str) -> str:
        """Run one command; what is wrong with how it ends."""
        bench = next((self.folder / "model_repository" / ".policyctl" / "bench").rglob("*Z-*"))
        places = {"export": self.folder / "export", "layout": self.folder / "layout", "bench": bench}
        done = self._run(*text.format(**places).split(), "--repository", self.world.root)
        return done.err[-400:] if done.code == 1 or "Traceback" in done.err else ""

    def route(self, path: str) -> str:
        """Ask the control API; what is wrong with its answer."""
        if path == "/healthz":
            self.api.api.health = health.Looker(self.api.control)  # what was seen a moment ago does not count
        answer = self.api.client.get(path, headers={"Authorization": f"Bearer {self.secret}"})
        return answer.text[:400] if answer.status_code == 500 else ""

    def problems(self) -> Iterator[str]:
        """What does not end in time, memory and words, of everything that can be asked."""
        for ask, questions in ((self.route, ROUTES), (self.command, COMMANDS)):
            for question in questions:
                try:
                    with limited():
                        problem = ask(question)
                except (_Hangs, Exception) as error:
                    problem = repr(error)
                if problem:
                    yield f"{question}: {problem}"


@pytest.fixture
def site(used, tmp_path, monkeypatch, run) -> Iterator[Site]:
    """The used repository, to break."""
    monkeypatch.chdir(tmp_path)
    found = Site(used, tmp_path / "site", monkeypatch, run)
    yield found
    found.api.api.operations.close(timeout_s=300)


def test_everything_answers_where_nothing_was_replaced(site) -> None:
    """What follows is about what was replaced, and not about the questions."""
    assert list(site.problems()) == []
    site.restore()
    codes = {command: site.command(command) for command in COMMANDS}
    assert set(codes.values()) == {""}


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        ("a FIFO", 9),
        pytest.param("a FIFO", 1, marks=pytest.mark.long),
        pytest.param("another thing", 2, marks=pytest.mark.long),
    ],
)
def test_nothing_in_place_of_a_file_stops_what_can_be_answered(site, kind: str, every: int) -> None:
    """No command and no route hangs, takes the memory or breaks, whatever stands where one file was."""
    others = [name for name in KINDS if name != "a FIFO"]
    wrong = []
    # What waits, waits at a FIFO.
    for number, name in enumerate(_files(site.used)[::every]):
        put = kind if kind in KINDS else others[number % len(others)]
        site.restore()
        (site.folder / name).unlink()
        KINDS[put](site.folder / name)
        wrong += [f"{put} at {name}: {problem}" for problem in site.problems()]
    assert wrong == []
