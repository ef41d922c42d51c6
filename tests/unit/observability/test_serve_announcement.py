"""Saying where the server is: to commands, again where the disk refuses, and to people, with what to type."""

from __future__ import annotations

import time

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import files
from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.state import AliasState
from policyctl.errors import UnsupportedError
from policyctl.services.control import Control
from policyctl.services.integrity import verify as verify_module
from policyctl.services.moves.aliases import load_alias
from policyctl.services.observed import Observed
from policyctl.services.rollout.promote import promote
from policyctl.services.supervise import serve as serve_module
from policyctl.services.supervise.announcement import Announcement
from policyctl.serving import backend_directory
from policyctl.settings import load, source

KEY = ("walker", "production")


@pytest.fixture
def full(monkeypatch):
    """A disk that takes nothing for as long as the list is not empty."""
    refusing = [True]
    write = files.write_all

    def refuse(descriptor: int, content: bytes) -> None:
        if refusing:
            raise OSError(28, "No space left on device")
        write(descriptor, content)

    monkeypatch.setattr(files, "write_all", refuse)
    return refusing


def _announcement(world, observed: Observed) -> Announcement:
    return Announcement(world.control, observed, Endpoint("h:1", "h:2", "h:3", server_id="s9", supervisor_pid=1))


def test_a_disk_that_is_full_is_counted_said_once_and_tried_again(watched, full, monkeypatch) -> None:
    """Commands find the server as soon as there is room; until then it is counted for the alert."""
    world, observed = watched.world, watched.observed
    found, now = _announcement(world, observed), [0.0]
    endpoints.path_in(world.control.repository).unlink()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(3):
        found.repeat()
        found.repeat()  # not before its time
        now[0] += 5.0
    assert watched.value("policyctl_unwritten_total", "announcement") == 3
    assert [words for words in world.said if "do not find the server" in words][1:] == []
    full.clear()
    found.repeat()
    found.repeat()
    assert endpoints.path_in(world.control.repository).exists()
    assert world.said[-1] == "Commands on this machine find the server again."
    assert watched.value("policyctl_unwritten_total", "announcement") == 3


def test_an_alias_whose_certification_cannot_be_written_down_is_served(watched, full) -> None:
    """It answered its golden set: that is a warning and a count, and no reason to take it out of service."""
    world = watched.world
    world.server.unload("walker")
    (state,) = (each for key, each in world.state.aliases.items() if key == KEY)
    assert isinstance(state, AliasState)
    load_alias(world.control, world.server, KEY, state, observed=watched.observed)
    assert world.answered() == "1.0.0"
    assert any("walker is certified and served, and the journal does not say so" in words for words in world.said)
    assert watched.value("policyctl_unwritten_total", "certification") == 1


def test_a_server_without_anything_to_serve_says_what_is_published_and_what_to_type(world) -> None:
    """In a wrong folder nothing is published; where no alias names a release, it names a promotion."""
    found = _announcement(world, Observed())
    found.say(world.state)
    assert f"nothing is published in {world.root}" in world.said[-1]
    assert world.said[-1].endswith("Next: policyctl publish DIR --model NAME --release 1.0.0")
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    found.say(world.state)
    assert "no alias names what is published" in world.said[-1]
    assert "(walker 1.0.0, walker 1.1.0)" in world.said[-1]
    assert world.said[-1].endswith("Next: policyctl promote walker 1.1.0")
    promote(world.control, model="walker", release="1.0.0", alias="production")
    found.say(world.state)
    assert world.said[-1].startswith("Ready: 1 served, 0 refused.")


def test_a_start_that_is_refused_leaves_no_folder_behind(tmp_path, monkeypatch) -> None:
    """A wrong path, or a port that is taken, makes no empty repository."""

    def refuse(*_args, **_kwargs):
        raise UnsupportedError("port 8000 is held")

    monkeypatch.setattr(serve_module, "launcher", refuse)
    root = tmp_path / "nowhere" / "at" / "all"
    with pytest.raises(UnsupportedError, match="port 8000"):
        serve_module.serve(Control.of(load(repository=root)), source(repository=root).read())
    assert list(tmp_path.iterdir()) == []


def test_verify_names_code_that_is_not_what_was_installed(watched, run, monkeypatch) -> None:
    """What the server runs can change answers as a release can; a server that is not ours runs none of it."""
    monkeypatch.setattr(backend_directory, "unlike_installed", lambda *_: iter(["stub is not what was installed"]))
    monkeypatch.setattr(verify_module, "code_problems", backend_directory.code_problems)  # the world's is remembered
    done = run("verify", "--repository", watched.world.root)
    assert (done.code, "stub is not what was installed" in done.out + done.err) == (3, True)
    monkeypatch.setenv("POLICYCTL_SERVER__ENGINE", "external")
    monkeypatch.setenv("POLICYCTL_SERVER__URL", "127.0.0.1:1")
    assert run("verify", "--repository", watched.world.root).code == 0
