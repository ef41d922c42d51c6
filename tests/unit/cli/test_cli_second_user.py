"""Another user than the repository's looks: what may not be read is never shown as if it were not there."""

from __future__ import annotations

import importlib
import os
import pkgutil
import pwd
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import pytest
from world import World, write_export

from policyctl import adapters, services
from policyctl.adapters import endpoint as endpoints
from policyctl.cli.main import main
from policyctl.domain.log_event import LogLevel
from policyctl.domain.tokens import Scope
from policyctl.services import running
from policyctl.services.logs import levels as log_levels
from policyctl.services.trust import tokens
from policyctl.serving import locate

NOBODY = "nobody"
_MOST_S = 120


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Look = Callable[..., Done]

NEED_THE_SERVER = ["status", "metrics", "probe", "top --once", "gc", "config diff current running", "doctor"]
NEED_THE_FOLDER = [
    "logs",
    "token list",
    "trust list",
    "results history walker",
    "results compare walker@1.0.0 walker@1.1.0",
]
NEED_THE_JOURNAL = ["history", "verify", "at now", "signatures walker 1.0.0", "card show walker 1.0.0"]


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder that others may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="policyctl-second-user-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def look(monkeypatch) -> Look:
    """Run `policyctl` as another user, in a fork of this process; skips where this process cannot.

    The other user may not be able to read the folder of this Python. So what a
    command imports late is imported here, and libpython is looked for nowhere.
    """
    for package in (services, adapters):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    monkeypatch.setattr(locate, "libpython_folder", lambda: None)
    if os.geteuid() != 0:
        pytest.skip("only root can run a command as another user")

    def call(line: str, repository: Path, **variables: str) -> Done:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if (child := os.fork()) == 0:
                os.environ.update(POLICYCTL_REPOSITORY=str(repository), **variables)
                _run_as_nobody(line.split(), out.fileno(), err.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = [os.pread(stream.fileno(), 1 << 20, 0).decode() for stream in (out, err)]
        return Done(code, *texts)

    return call


def _run_as_nobody(arguments: list[str], out: int, err: int) -> Never:
    """Become another user and a command; never return."""
    try:
        signal.alarm(_MOST_S)
        sys.stdout, sys.stderr = os.fdopen(out, "w", closefd=False), os.fdopen(err, "w", closefd=False)
        user = pwd.getpwnam(NOBODY)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        os.chdir("/")
        sys.argv = ["policyctl", *arguments]
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.fixture
def kept(served_world: World) -> World:
    """A repository that is served: with an endpoint, tokens, logs and levels, as its user alone may read them."""
    control = served_world.control
    control.log.write(LogLevel.INFO, "a line")
    logs = control.repository.control / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    (logs / "control.jsonl").touch(mode=0o600)
    log_levels.change(control, level=LogLevel.DEBUG, triton=None)
    tokens.create(control, name="ci", scope=Scope.READ)
    assert endpoints.read(control.repository) is not None
    endpoints.path_in(control.repository).chmod(0o600)
    return served_world


def refused(done: Done, path: Path, closed: Path | None = None) -> None:
    """It failed, and said which file it may not read, whose that is, who asks, and what to do."""
    closed = closed or path
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    mode = closed.stat().st_mode & 0o777
    what = "it" if closed == path else str(closed)
    assert f"{path} cannot be read: {what} belongs to user root (mode {mode:03o}), and user nobody asks" in done.stderr
    assert f"Run the command as user root, or let user nobody read it: chmod, chgrp or setfacl {closed}." in done.stderr


def test_who_may_only_read_can_look_and_is_refused_in_words(world: World, look: Look) -> None:
    """On a repository of another user people see status, history and verify, and can neither publish nor promote."""
    world.publish("1.0.0", 1)
    export = write_export(world.folder / "next", 2)
    for path in (world.folder, *world.folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    cases = {"status": 0, "history": 0, "verify": 0, "promote walker 1.0.0": 2}
    cases[f"publish {export} -n walker --release 2.0.0"] = 2
    for line, code in cases.items():
        done = look(line, world.root)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), f"{line}\n{done.stderr}"
    for path in (world.folder, *world.folder.rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("line", NEED_THE_SERVER)
def test_a_server_that_runs_is_never_said_not_to_run(kept: World, look: Look, line: str) -> None:
    """How to reach it is for its own user; the exit code says that the question has no answer."""
    refused(look(line, kept.root), endpoints.path_in(kept.control.repository))


def test_who_names_the_server_need_not_read_where_it_is(kept: World, look: Look) -> None:
    """With --url the file is not needed."""
    done = look("status --url 127.0.0.1:9", kept.root, POLICYCTL_SERVER__TIMEOUT_S="1")
    assert (done.returncode, "walker" in done.stdout) == (0, True), done.stderr


def test_a_server_that_has_ended_left_nothing_that_must_be_read(served_world: World, look: Look) -> None:
    """Nobody holds its lock, so no server runs, whatever a file says that only its user may read."""
    served_world.supervisor.close()
    endpoints.path_in(served_world.control.repository).chmod(0o600)
    done = look("status", served_world.root)
    assert done.returncode == 0, done.stderr
    assert "none. Start one" in done.stdout


def test_logs_and_tokens_that_may_not_be_read_are_not_missing(kept: World, look: Look) -> None:
    """Nobody is advised to remove them."""
    control = kept.root / ".policyctl"
    refused(look("logs", kept.root), control / "logs")
    refused(look("log-level", kept.root), control / "logs" / "levels.json", control / "logs")
    done = look("token list", kept.root)
    refused(done, control / "tokens.json")
    assert "remove" not in done.stderr


@pytest.mark.parametrize("line", [*NEED_THE_SERVER[:-2], *NEED_THE_JOURNAL])
def test_a_journal_that_may_not_be_read_is_no_empty_repository(kept: World, look: Look, line: str) -> None:
    """Nor are its files changed, or missing."""
    endpoints.path_in(kept.control.repository).chmod(0o644)
    journal = kept.root / ".policyctl" / "journal.jsonl"
    journal.chmod(0o600)
    refused(look(line, kept.root), journal)


@pytest.mark.parametrize(
    "line",
    [
        *NEED_THE_JOURNAL,
        "logs",
        "token list",
        "trust list",
        "results history walker",
        "results compare walker@1.0.0 walker@1.1.0",
    ],
)
def test_a_repository_that_may_not_be_entered_names_the_folder(kept: World, look: Look, line: str) -> None:
    """The folder that is closed, whatever was looked for below it."""
    kept.root.chmod(0o700)
    done = look(line, kept.root)
    assert done.returncode != 0
    assert f" cannot be read: {kept.root} belongs to user root (mode 700), and user nobody asks" in done.stderr


@pytest.mark.parametrize(("line", "name"), [("verify", "evidence"), ("card show walker 1.0.0", "evidence")])
def test_evidence_that_may_not_be_read_is_not_missing(kept: World, look: Look, line: str, name: str) -> None:
    """It would be an alarm for nothing."""
    endpoints.path_in(kept.control.repository).chmod(0o644)
    (kept.root / ".policyctl" / name).chmod(0o700)
    done = look(line, kept.root)
    assert done.returncode == 2
    assert f"{kept.root / '.policyctl' / name} belongs to user root (mode 700), and user nobody asks" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "verify",
        "repair --dry-run",
        "card show walker 1.0.0",
        "release export walker 1.0.0 out",
        "replay walker 1.0.0 x",
    ],
)
def test_a_release_that_may_not_be_read_is_not_damaged(kept: World, look: Look, line: str) -> None:
    """Nobody is advised to rebuild it."""
    endpoints.path_in(kept.control.repository).chmod(0o644)
    slot = kept.root / "walker" / "1"
    slot.chmod(0o700)
    if line.startswith("replay"):
        line = f"replay walker 1.0.0 {slot}/x.npz"
        refused(look(line, kept.root), slot / "x.npz", slot)
    else:
        refused(look(line, kept.root), slot / "manifest.json", slot)


@pytest.mark.parametrize(
    ("line", "name", "closed"),
    [
        ("promote walker 1.1.0", "lock", "lock"),
        ("token create ci --scope read", "tokens.lock", "tokens.lock"),
        ("release export walker 1.0.0 {control}/a/b", "a/b", ""),
        ("validate walker 1.1.0", "measuring.lock", ""),
    ],
)
def test_what_may_not_be_written_is_whose_it_is(kept: World, look: Look, line: str, name: str, closed: str) -> None:
    """Who owns it, who asks and what to do: no advice to look at the disk."""
    endpoints.path_in(kept.control.repository).chmod(0o644)
    control = kept.root / ".policyctl"
    done = look(line.format(control=control), kept.root)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"{control / name} cannot be written: " in done.stderr
    assert "belongs to user root (mode " in done.stderr
    advice = f"Run the command as user root, or let user nobody write it: chmod, chgrp or setfacl {control / closed}."
    assert advice in done.stderr


def test_settings_that_may_not_be_read_are_not_missing(kept: World, look: Look) -> None:
    """The command would go by other rules than are set."""
    named = kept.folder / "policyctl.yaml"
    named.write_text("schema: 2\n")
    named.chmod(0o600)
    done = look(f"--config {named} config show", kept.root)
    assert done.returncode == 2
    assert "belongs to user root (mode 600), and user nobody asks" in done.stderr


def test_what_the_running_server_is_set_to_may_not_be_read(kept: World, look: Look) -> None:
    """That is another thing than a server that does not say."""
    endpoints.path_in(kept.control.repository).chmod(0o644)
    path = kept.root / ".policyctl" / running.FILE
    path.touch(mode=0o600)
    refused(look("config diff current running", kept.root), path)
