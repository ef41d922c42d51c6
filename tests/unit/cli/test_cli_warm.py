"""Short commands that start from a process that has imported everything already."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from policyctl import warm
from policyctl.adapters import lock
from policyctl.domain.journal import RecordKind
from policyctl.services.control import Control
from policyctl.settings import load

LIMIT_S = 120.0
POLICYCTL = (sys.executable, "-m", "policyctl")
ASK = (
    "import sys; from policyctl import warm; code = warm.run(sys.argv[1:]); print('ran here' if code is None else code)"
)
KEEP = """import sys
sys.path.insert(0, {extra!r})
import changes
from policyctl.cli import warmed
warmed.main()
"""


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


class Kept:
    """The process that copies are made of, for commands with this environment."""

    def __init__(self, folder: Path, *arguments: str, changes: str = "") -> None:
        self.folder, self.arguments = folder, arguments
        self.changes = folder / "changes.py"
        self.changes.write_text(changes)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        self.environment.pop("PYTHONPATH", None)  # with it a command runs by itself
        self.process = self.another()
        until(self.answers)

    def another(self) -> subprocess.Popen[bytes]:
        """As a shell's `&` and nohup start it, with signals that it ignores."""
        keep = [
            "sh",
            "-c",
            'trap "" INT HUP; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            KEEP.format(extra=str(self.folder)),
            *self.arguments,
        ]
        return subprocess.Popen(keep, stdin=subprocess.PIPE, env=self.environment, start_new_session=True)

    def sockets(self) -> list[Path]:
        return list(self.folder.glob("*/*.sock"))

    def answers(self) -> bool:
        return bool(self.sockets()) and self.ask("status") != "ran here"

    def ask(self, *arguments: str, **environment: str) -> str:
        """The exit code that a copy ended with, or that the command was not begun."""
        done = subprocess.run(
            [sys.executable, "-c", ASK, *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        return done.stdout.splitlines()[-1]

    def copies(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(LIMIT_S) == 0


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:  # a socket's path has at most 107 characters
        kept = Kept(Path(folder))
        try:
            yield kept
        finally:
            kept.process.kill()
            kept.process.wait()


COUNTS = """from policyctl.domain import journal
parse = journal.parse
def counted(whole, *, known):
    with open({count!r}, "a") as file:
        print(len(known[1]), whole.count(b"\\n"), file=file)
    return parse(whole, known=known)
journal.parse = counted
"""


def test_a_command_reads_what_is_new_of_its_server_s_journal(tmp_path, quiet_world) -> None:
    """The process had read the rest, as it does again after each command."""
    count = tmp_path / "count"
    count.touch()
    journal = quiet_world.control.repository.journal
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        kept = Kept(Path(folder), str(quiet_world.root), changes=COUNTS.format(count=str(count)))
        try:
            before = len(journal.records())
            until(lambda: f"0 {before}" in count.read_text().splitlines())
            for new in (1, 2):
                journal.append(RecordKind.TUNED, {"model": "walker", "options": None})
                assert kept.ask("status", "--repository", str(quiet_world.root)) == "0"
                until(lambda: count.read_text().splitlines()[-2:] == [f"{before + new - 1} {before + new}"] * 2)  # noqa: B023
        finally:
            kept.process.kill()
            kept.process.wait()


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repo"
    Control.of(load(repository=root)).repository.create()
    return root


@pytest.mark.parametrize(
    "arguments", [("status",), ("status", "--json"), ("history",), ("rollback", "ghost"), ("rollback",), ("pin", "-h")]
)
def test_a_copy_prints_and_ends_as_the_command_does(kept, repository, arguments) -> None:
    """To both streams, with the folder, the environment and the exit code of the process that a person started."""
    run = {"cwd": repository.parent, "capture_output": True, "timeout": LIMIT_S}
    environment = {**kept.environment, "POLICYCTL_REPOSITORY": "repo", "COLUMNS": "70"}
    elsewhere = {**environment, "XDG_RUNTIME_DIR": "/nonexistent"}
    copied = subprocess.run([*POLICYCTL, *arguments], env=environment, check=False, **run)
    alone = subprocess.run([*POLICYCTL, *arguments], env=elsewhere, check=False, **run)
    assert (copied.returncode, copied.stdout, copied.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert kept.ask(*arguments, POLICYCTL_REPOSITORY=str(repository)) == str(alone.returncode)


def waiting(kept: Kept, repository: Path) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """A command that waits for the lock, which the test holds, and its copy."""
    command = [*POLICYCTL, "pin", "walker", "1.0.0", "--wait", str(int(LIMIT_S)), "--repository", str(repository)]
    command = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *command]
    process = subprocess.Popen(command, env=kept.environment, stderr=subprocess.PIPE)
    wanted = repository / ".policyctl" / "lock"

    def waits() -> psutil.Process | None:
        for copy in kept.copies():
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(wanted) in [file.path for file in copy.open_files()]:
                    return copy
        return None

    return process, until(waits)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_copy_as_it_would_end_the_command(kept, quiet_world, number) -> None:
    """Ctrl-C has the exit code 130; a process that a signal kills is seen to be killed by it."""
    with lock.hold(quiet_world.control.repository.lock_path, doing="a test"):
        process, copy = waiting(kept, quiet_world.root)
        with process:
            process.send_signal(number)
            assert process.wait(LIMIT_S) == (130 if number == signal.SIGINT else -number)
        until(lambda: not copy.is_running())


def test_a_copy_dies_with_the_process_that_a_person_killed(kept, quiet_world) -> None:
    """Nothing goes on that nobody sees."""
    with lock.hold(quiet_world.control.repository.lock_path, doing="a test"):
        process, copy = waiting(kept, quiet_world.root)
        with process:
            process.kill()
        until(lambda: not copy.is_running())


def test_a_copy_that_is_killed_is_named(kept, quiet_world) -> None:
    """With the exit code that a shell gives for a process that was killed."""
    with lock.hold(quiet_world.control.repository.lock_path, doing="a test"):
        process, copy = waiting(kept, quiet_world.root)
        with process:
            copy.kill()
            assert b"was killed" in process.stderr.read()
        assert process.returncode == 137


def test_a_command_runs_by_itself_where_a_copy_could_do_something_else(kept, repository) -> None:
    """Another Python, another library to load, a command that is not short, or nobody to ask."""
    assert kept.ask("status") != "ran here"
    for arguments, environment in (
        (("status",), {"PYTHONUTF8": "1"}),
        (("status",), {"LD_LIBRARY_PATH": "/elsewhere"}),
        (("export", "a.zip"), {}),
        (("status",), {"XDG_RUNTIME_DIR": "/nonexistent"}),
    ):
        assert kept.ask(*arguments, **environment) == "ran here"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_command_without_a_stream_runs_by_itself(kept, repository, closed) -> None:
    """Its other files would be taken for it."""
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *POLICYCTL, "status", "--json"]
    run = {"capture_output": True, "timeout": LIMIT_S, "cwd": repository}
    copied = subprocess.run(line, env=kept.environment, check=False, **run)
    alone = subprocess.run(line, env={**kept.environment, "XDG_RUNTIME_DIR": "/nonexistent"}, check=False, **run)
    assert (copied.returncode, copied.stdout, copied.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_a_process_in_other_namespaces_gets_no_copy_and_makes_none(kept) -> None:
    """A container that shares the folder is another machine, though its user has the same number."""
    apart = ["unshare", "--uts", "--"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no namespace")
    done = subprocess.run(
        [*apart, sys.executable, "-c", ASK, "status"], env=kept.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "ran here"
    assert not kept.copies()


def test_a_process_that_is_stopped_holds_up_neither_a_command_nor_its_server(kept) -> None:
    """A command waits two seconds for a copy, and then does without, however many wait."""
    kept.process.send_signal(signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(80):  # more than the queue holds
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                with contextlib.suppress(OSError):
                    waiting.connect(str(kept.sockets()[0]))
            assert kept.ask("status") == "ran here"
    finally:
        kept.process.send_signal(signal.SIGCONT)
    until(kept.answers)


def test_a_copy_stops_and_goes_on_with_its_command(kept, quiet_world) -> None:
    """Nothing moves while a person sees that the command is stopped; its limits are the command's."""
    with lock.hold(quiet_world.control.repository.lock_path, doing="a test"):
        process, copy = waiting(kept, quiet_world.root)
        with process:
            assert copy.rlimit(psutil.RLIMIT_NOFILE) == psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)
            process.send_signal(signal.SIGTSTP)
            until(lambda: {psutil.Process(process.pid).status(), copy.status()} == {psutil.STATUS_STOPPED})
            process.send_signal(signal.SIGCONT)
            until(lambda: copy.status() != psutil.STATUS_STOPPED)
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == -signal.SIGTERM


def test_a_folder_that_others_can_open_is_not_trusted(kept) -> None:
    """They could listen there."""
    folder = kept.sockets()[0].parent
    folder.chmod(0o755)
    try:
        assert kept.ask("status") == "ran here"
    finally:
        folder.chmod(0o700)
    assert kept.ask("status") != "ran here"


def test_the_next_server_takes_over_when_the_first_has_ended() -> None:
    """And a process whose files have changed makes no copy."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        kept = Kept(Path(folder))
        second = kept.another()
        try:
            kept.end()
            kept.process = second
            until(kept.answers)
            os.utime(kept.changes, ns=(1, 1))
            assert kept.ask("status") == "ran here"
            kept.end()
            assert not kept.sockets()
        finally:
            kept.process.kill()
            second.kill()


def test_what_every_command_pays_for_is_small() -> None:
    """Neither typing, nor pathlib, nor json."""
    code = "import sys; before = set(sys.modules); import policyctl.warm; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert not {"typing", "pathlib", "json", "socket", "re"} & set(done.stdout.split()), done.stderr
    assert warm.COMMANDS
