"""The writer lock: one at a time, and gone with its process."""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from policyctl.adapters import lock
from policyctl.errors import BusyError, UsageError


def _holder(path: Path, *, doing: str = "promote m 1.0.0") -> tuple[int, Callable[[], None]]:
    """A process that holds the lock until it is asked to let go."""
    ready_out, ready_in = os.pipe()
    go_out, go_in = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go_in)
            with lock.hold(path, doing=doing):
                os.write(ready_in, b"x")
                os.read(go_out, 1)
        finally:
            os._exit(0)
    os.close(ready_in)
    os.close(go_out)
    assert os.read(ready_out, 1) == b"x"
    os.close(ready_out)

    def release() -> None:
        os.write(go_in, b"x")  # closing is not enough: later children hold a copy
        os.close(go_in)
        os.waitpid(child, 0)

    return child, release


def test_a_second_process_is_told_who_holds_it(tmp_path) -> None:
    """Name, process, purpose and time are in the message, and the exit code is 5."""
    path = tmp_path / "lock"
    child, release = _holder(path)
    try:
        assert lock.is_held(path)
        with pytest.raises(BusyError, match=rf"@.*\(process {child}\): promote m 1\.0\.0, since 2") as refusal:
            _take(path)
        assert refusal.value.exit_code == 5
    finally:
        release()
    assert not lock.is_held(path)


def _take(path: Path, wait_s: float = 0.0) -> None:
    with lock.hold(path, doing="test", wait_s=wait_s):
        assert lock.is_held(path)


def test_a_killed_holder_frees_it(tmp_path) -> None:
    """No stale lock is left to be removed by hand, and its text misleads nobody."""
    path = tmp_path / "lock"
    child, _ = _holder(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not lock.is_held(path)
    _take(path)


def test_waiting_ends_with_the_lock_or_with_the_time(tmp_path) -> None:
    """A process that waits gets it when the holder is done, or is refused when the time is over."""
    path = tmp_path / "lock"
    _, release = _holder(path)
    started = time.monotonic()
    with pytest.raises(BusyError):
        _take(path, wait_s=0.2)
    assert time.monotonic() - started >= 0.2
    waiting = os.fork()
    if waiting == 0:
        try:
            _take(path, wait_s=20.0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    release()
    assert os.waitstatus_to_exitcode(os.waitpid(waiting, 0)[1]) == 0


def test_what_only_one_may_do_is_refused_in_its_own_words(tmp_path) -> None:
    """With who does it; and what the block itself finds busy keeps its own words."""
    path = tmp_path / "lock"
    alone = {"doing": "test", "taken": "it is served already", "remedy": "Stop it."}
    child, release = _holder(path, doing="policyctl serve")
    try:
        with pytest.raises(BusyError, match=rf"^it is served already: .*\(process {child}\): policyctl serve") as said:
            lock.hold_alone(path, **alone).__enter__()
        assert said.value.remedy == "Stop it."
    finally:
        release()
    with pytest.raises(BusyError, match=r"^a writer$"), lock.hold_alone(path, **alone):
        assert lock.is_held(path)
        raise BusyError("a writer")
    assert not lock.is_held(path)


@pytest.mark.parametrize(
    ("stop", "remedy"),
    [
        ("", "Wait until it is done and try again."),
        ("policyctl abort walker", "Wait until it is done and try again, or stop it: policyctl abort walker"),
    ],
)
def test_what_to_do_about_a_holder_is_what_ends_it(tmp_path, stop: str, remedy: str) -> None:
    """A command is named where one stops it, and then in full."""
    path = tmp_path / "lock"
    with lock.hold(path, doing="a move", stop=stop), pytest.raises(BusyError) as refused:
        _take(path)
    assert refused.value.remedy == remedy


def test_an_error_inside_frees_it(tmp_path) -> None:
    """The lock ends with its block, however that ends."""
    path = tmp_path / "lock"
    with pytest.raises(KeyError), lock.hold(path, doing="test"):
        raise KeyError
    assert not lock.is_held(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"actor": "x"}', b"null"])
def test_a_holder_that_has_not_said_who_it_is(tmp_path, text: bytes) -> None:
    """Whatever is in the file, the message is a sentence."""
    path = tmp_path / "lock"
    _, release = _holder(path)
    path.write_bytes(text)
    try:
        with pytest.raises(BusyError, match="a process that has not said who it is"):
            _take(path)
    finally:
        release()


def test_the_text_for_people_is_not_what_locks(tmp_path, monkeypatch) -> None:
    """A full disk cannot take the text, and the lock is held all the same."""
    path = tmp_path / "lock"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with lock.hold(path, doing="test"):
        assert lock.is_held(path)
    assert not lock.is_held(path)


def test_a_lock_file_that_cannot_be_made_is_a_refusal(tmp_path) -> None:
    """A file where the folder should be is named."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        _take(tmp_path / "file" / "lock")


def test_whoever_may_only_read_can_see_whether_it_is_held(tmp_path, monkeypatch) -> None:
    """Looking needs no right to write."""
    path = tmp_path / "lock"
    _, release = _holder(path)
    real = os.open

    def read_only(name, flags, *more, **keywords):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, flags, *more, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert lock.is_held(path)
        release()
        assert not lock.is_held(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_no_lock_file_is_no_lock(tmp_path) -> None:
    """Looking makes no file."""
    assert not lock.is_held(tmp_path / "lock")
    assert not lock.is_held(tmp_path / "nowhere" / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_set_aside_lets_others_write_and_is_ours_again_afterwards(tmp_path) -> None:
    """While it is aside nobody holds it; afterwards it says again what it is held for."""
    path = tmp_path / "lock"
    with lock.hold(path, doing="validate m 1.0.0") as held:
        with held.aside(wait_s=1.0):
            assert not lock.is_held(path)
            _take(path)
        assert lock.is_held(path)
        assert "validate m 1.0.0" in lock.holder(path)


def test_a_lock_that_does_not_come_back_is_told(tmp_path) -> None:
    """Another writer that does not finish ends the block with its name, within the time given."""
    path = tmp_path / "lock"
    release = None
    with pytest.raises(BusyError, match="promote m"), lock.hold(path, doing="test") as held, held.aside(wait_s=0.1):
        _, release = _holder(path)
    release()
