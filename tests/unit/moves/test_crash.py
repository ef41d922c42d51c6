"""A process that is killed at any point leaves the incumbent or the target in service.

A child process runs one command and dies without any clean-up (`os._exit`) at
its n-th crash point: before each change to the file system, in the middle of
each write, and before and after each request to the server. Then the parent
looks at what is left, and runs the next command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from policyctl.adapters import files
from policyctl.services.pins import pin, unpin
from policyctl.services.promote import promote, rollback
from policyctl.services.verify import verify

KILLED = 137
_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


def run_and_kill_at(world, point: int, command: Callable[[], object]) -> bool:
    """Run `command` in a child that dies at crash point `point`; whether it got that far."""
    child = os.fork()
    if child == 0:
        try:
            _arm(world, point)
            command()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, KILLED}, f"the command failed at crash point {point} instead of dying there"
    return code == KILLED


def _arm(world, point: int) -> None:
    left, root = [point], str(world.root)

    def pass_point() -> bool:
        left[0] -= 1
        return left[0] == 0

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        changes = event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changes and str(arguments[0]).startswith(root) and pass_point():
            os._exit(KILLED)

    def half(descriptor: int, content: bytes) -> None:
        if pass_point():
            os.write(descriptor, content[: len(content) // 2])
            os._exit(KILLED)
        os.write(descriptor, content)
        if pass_point():
            os._exit(KILLED)

    def call(_name: str) -> None:
        if pass_point():
            os._exit(KILLED)

    files.write_all = half
    world.server.before_call = call
    sys.addaudithook(audit)


def _prepare(world, name: str) -> None:
    """What has happened before the command of a scenario."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    control = world.control
    if name == "first promotion":
        return
    promote(control, model="walker", release="1.0.0", alias="production")
    if name == "removal of a pin":
        pin(control, model="walker", release="1.1.0")
    elif name == "promotion of staging":
        promote(control, model="walker", release="1.0.0", alias="staging")
    elif name.startswith("rollback"):
        promote(control, model="walker", release="1.1.0", alias="production")


def _scenario(world, name: str) -> tuple[Callable[[], object], str, str | None, str | None]:
    """A command, the Triton model that it moves, what is served before, and what it moves to."""
    control = world.control
    match name:
        case "first promotion":
            return (
                lambda: promote(control, model="walker", release="1.0.0", alias="production"),
                "walker",
                None,
                "1.0.0",
            )
        case "pin":
            return lambda: pin(control, model="walker", release="1.1.0"), "walker.1.1.0", None, "1.1.0"
        case "removal of a pin":
            return lambda: unpin(control, model="walker", release="1.1.0"), "walker.1.1.0", "1.1.0", None
        case "promotion":
            command = lambda: promote(control, model="walker", release="1.1.0", alias="production")  # noqa: E731
            return command, "walker", "1.0.0", "1.1.0"
        case "promotion of staging":
            command = lambda: promote(control, model="walker", release="1.1.0", alias="staging")  # noqa: E731
            return command, "walker.staging", "1.0.0", "1.1.0"
        case "rollback on another server":
            object.__setattr__(world.server.endpoint, "server_id", "s2")
    return lambda: rollback(control, model="walker", alias="production"), "walker", "1.1.0", "1.0.0"


SCENARIOS = (
    *("first promotion", "promotion", "promotion of staging", "rollback", "rollback on another server"),
    *("pin", "removal of a pin"),
)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_move_killed_anywhere_leaves_the_incumbent_or_the_target(name, tmp_path, monkeypatch) -> None:
    """At every crash point the alias answers as one of the two; the next command settles it and says so."""
    from world import World, copied

    template = World(tmp_path / "template", monkeypatch)
    _prepare(template, name)
    point, killed, settled = 0, True, set()
    while killed:
        point += 1
        world = copied(template, tmp_path / str(point), monkeypatch)
        command, served, incumbent, target = _scenario(world, name)
        killed = run_and_kill_at(world, point, command)
        assert world.answered(served) in {incumbent, target}, f"crash point {point}"
        if killed:
            world.said.clear()
            unfinished = world.state.unfinished is not None
            moved = command() if world.named(_alias(served)) != target else None
            if unfinished and moved is not None:
                assert moved.recovered is not None
            settled.add("recovered" if unfinished else "nothing open")
        assert world.answered(served) == world.named(_alias(served)) == target, f"crash point {point}"
        assert world.state.unfinished is None
        assert [f for f in verify(world.control) if not f.intact] == [], f"crash point {point}"
        assert not list(world.root.glob("*.candidate"))
    assert settled == {"recovered", "nothing open"}
    assert point > 15


def test_a_publish_killed_anywhere_leaves_a_whole_release_or_none(tmp_path, monkeypatch) -> None:
    """After any crash the release is published intact, or can be published again."""
    from world import World, copied, write_export

    from policyctl.services.publish import publish

    template = World(tmp_path / "template", monkeypatch)
    template.publish("1.0.0", 1)
    point, killed = 0, True
    while killed:
        point += 1
        world = copied(template, tmp_path / str(point), monkeypatch)
        source = write_export(tmp_path / f"source{point}", 2)
        killed = run_and_kill_at(
            world, point, lambda w=world, s=source: publish(w.control, s, model="walker", release="1.1.0")
        )
        if ("walker", "1.1.0") not in world.state.releases:
            assert killed
            publish(world.control, source, model="walker", release="1.1.0")
        assert [f for f in verify(world.control) if not f.intact] == [], f"crash point {point}"
    assert point > 10


def _alias(served: str) -> str:
    return served.partition(".")[2] or "production"


def test_the_journal_survives_a_torn_last_line(world) -> None:
    """Half a line at the end is set aside, kept, and followed by the next record."""
    world.publish("1.0.0", 1)
    path: Path = world.control.repository.journal.path
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"actor":"half')
    world.publish("1.1.0", 2)
    assert path.read_bytes().startswith(whole)
    assert [r.body["release"] for r in world.control.repository.journal.records()] == ["1.0.0", "1.1.0"]
    assert path.with_suffix(".torn").read_bytes() == b'{"actor":"half'
