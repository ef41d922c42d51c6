"""The scrub finds the first wrong byte, says so once, and reads no faster than it may."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from world import World

from policyctl.services.control import Control
from policyctl.services.integrity import scrub
from policyctl.services.integrity.scrub import Scrubber, last_state
from policyctl.services.rollout.promote import promote
from policyctl.settings import load


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(scrub, "CONFIRM_S", 0.0)


def _scrubber(world: World, **settings: object) -> Scrubber:
    chosen = load(repository=world.root, scrub={"bytes_per_s": 1 << 30, **settings})
    return Scrubber(Control.of(chosen, world.said.append), threading.Event())


def _spoil(path: Path) -> bytes:
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    return good


@pytest.fixture
def served(world: World) -> World:
    """Two releases, the first in production and in staging."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    promote(world.control, model="walker", release="1.0.0", alias="staging")
    world.said.clear()
    return world


def test_an_intact_repository_is_read_whole_and_nothing_is_said(served: World) -> None:
    """Every byte of every release once, aliases' hard links not again; the state is kept for others to read."""
    found = _scrubber(served)
    found.one_pass()
    size = sum(
        p.stat().st_size for s in ("1", "2") for p in (served.root / "walker" / s).iterdir() if p.stem != "manifest"
    )
    assert (found.state.passes, found.state.bytes_read, found.state.wrong) == (1, size, ())
    assert served.said == []
    assert last_state(served.control.repository) == found.state


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: _spoil(f / "model.onnx"),
        lambda f: _spoil(f / "manifest.json"),
        lambda f: (f / "golden.npz").unlink(),
        lambda f: [(f.chmod(0o755)), (f / "added").touch()],
        lambda f: [(f.chmod(0o755)), (f / "link").symlink_to("model.onnx")],
    ],
)
def test_the_first_wrong_byte_is_logged_and_counted_once(served: World, spoil) -> None:
    """A changed, missing, added or linked file: one line that names release and file, however many passes follow."""
    spoil(served.root / "walker" / "2")
    found = _scrubber(served)
    for _ in range(3):
        found.one_pass()
    (line,) = served.said
    assert line.startswith("CORRUPT walker 1.1.0 (slot 2): ")
    assert (found.state.found, len(found.state.wrong)) == (1, 1)
    assert last_state(served.control.repository).wrong == found.state.wrong
    assert "NOT INTACT" in found.state.words


def test_an_aliass_own_copy_is_read_too(served: World) -> None:
    """A copy that is not a link to its slot can go wrong alone."""
    folder = served.root / "walker.staging" / "1"
    folder.chmod(0o755)
    copy = folder / "model.onnx"
    content = copy.read_bytes()
    copy.unlink()
    copy.write_bytes(content + b"x")
    _scrubber(served).one_pass()
    assert [line.partition(":")[0] for line in served.said] == ["CORRUPT walker.staging slot 1"]


def test_what_was_repaired_is_told_and_may_break_again(served: World) -> None:
    """Intact, wrong, intact, wrong: each change is one line."""
    path = served.root / "walker" / "2" / "model.onnx"
    found = _scrubber(served)
    for _ in range(2):
        good = _spoil(path)
        found.one_pass()
        path.write_bytes(good)
        found.one_pass()
    assert [line.partition(" ")[0] for line in served.said] == ["CORRUPT", "walker", "CORRUPT", "walker"]
    assert (found.state.found, found.state.wrong) == (2, ())


def test_a_file_that_is_being_replaced_is_no_alarm(served: World, monkeypatch) -> None:
    """What is right again a moment later is not reported."""
    path = served.root / "walker" / "2" / "model.onnx"
    good = _spoil(path)
    found = _scrubber(served)
    monkeypatch.setattr(scrub, "CONFIRM_S", 0.123)
    waited = []

    def wait(seconds: float | None = None) -> bool:
        if seconds == 0.123:
            waited.append(seconds)
            path.write_bytes(good)
        return False

    monkeypatch.setattr(found.stop, "wait", wait)
    found.one_pass()
    assert (len(waited), found.state.found, served.said) == (1, 0, [])


def test_a_release_that_went_away_meanwhile_is_no_alarm(served: World, monkeypatch) -> None:
    """Looking again takes what the journal says then."""
    _spoil(served.root / "walker" / "2" / "model.onnx")
    found = _scrubber(served)
    first = scrub._folders(served.control.repository)
    answers = iter([first, [f for f in first if "1.1.0" not in f[0]]])
    monkeypatch.setattr(scrub, "_folders", lambda _: next(answers))
    found.one_pass()
    assert (found.state.found, served.said) == (0, [])


def test_it_reads_no_faster_than_it_may(served: World) -> None:
    """A pass over N bytes at R bytes a second takes N/R, whatever the disk could do."""
    found = _scrubber(served, bytes_per_s=8_000)
    started = time.monotonic()
    found.one_pass()
    assert time.monotonic() - started >= found.state.bytes_read / 8_000 >= 0.3


def test_it_ends_at_once_when_the_server_stops(served: World) -> None:
    """In the middle of a file that would take hours."""
    (served.root / "walker" / "2" / "model.onnx").chmod(0o644)
    (served.root / "walker" / "2" / "model.onnx").write_bytes(bytes(1 << 20))
    found = _scrubber(served, bytes_per_s=4096)
    started = time.monotonic()
    with found.running():
        time.sleep(0.1)
    assert time.monotonic() - started < 60


def test_it_goes_on_when_the_journal_cannot_be_read(served: World) -> None:
    """A damaged journal is said, and neither ends the scrub nor the server."""
    path = served.control.repository.journal.path
    good = path.read_bytes()
    path.write_bytes(b"{}\n" + good)
    found = _scrubber(served, pause_s=0.01)
    with found.running():
        _until(lambda: any("cannot read the repository" in line for line in served.said))
        path.write_bytes(good)
        _until(lambda: found.state.passes > 0)


def test_it_can_be_switched_off(served: World) -> None:
    """Then nothing is read and nothing written down."""
    found = _scrubber(served, enabled=False)
    with found.running():
        time.sleep(0.05)
    assert (found.state.files, last_state(served.control.repository)) == (0, None)


def test_status_tells_what_the_scrub_saw(served: World) -> None:
    """As a document and in words."""
    from policyctl.services.show.status import status

    assert status(served.control).to_json()["scrub"] is None
    _scrubber(served).one_pass()
    assert status(served.control).to_json()["scrub"]["passes"] == 1


def _until(true) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
