"""A process that is killed at any point leaves the incumbent or the target in service.

`crash_states` gives what one command leaves wherever it can be killed. The test
looks at each of these worlds, and runs the next command there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from crash_states import crash_states
from world import World, copied, left, write_export

from policyctl.services.integrity.verify import verify
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.pins import pin, unpin
from policyctl.services.rollout.promote import promote


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


EVERYWHERE = ("promotion", "rollback")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *((name, 1) for name in EVERYWHERE),
        *((name, 3) for name in SCENARIOS if name not in EVERYWHERE),
        *(pytest.param(name, 1, marks=pytest.mark.long) for name in SCENARIOS if name not in EVERYWHERE),
    ],
)
def test_a_move_killed_anywhere_leaves_the_incumbent_or_the_target(name, step, tmp_path, monkeypatch) -> None:
    """At every crash point the alias answers as one of the two; the next command settles it and says so.

    A promotion and a rollback die at every point; what takes the same steps dies at every third, and at every point
    among the long tests.
    """
    template = World(tmp_path / "template", monkeypatch)
    _prepare(template, name)
    moved = copied(template, tmp_path / "moved", monkeypatch)
    command, served, incumbent, target = _scenario(moved, name)
    states, settled = crash_states(moved, tmp_path / "states", command), set()
    for state in states[::step]:
        world = left(state, monkeypatch)
        command, *_ = _scenario(world, name)
        assert world.answered(served) in {incumbent, target}, state
        unfinished = bool(world.state.unfinished)
        settling = command() if world.named(_alias(served)) != target else None
        if unfinished and settling is not None:
            assert settling.recovered is not None
        settled.add("recovered" if unfinished else "nothing open")
        _require_moved(world, served, target)
    assert settled == {"recovered", "nothing open"}
    assert len(states) > 10
    _require_moved(moved, served, target)


def _require_moved(world: World, served: str, target: str | None) -> None:
    assert world.answered(served) == world.named(_alias(served)) == target, world.folder
    assert not world.state.unfinished
    assert [f for f in verify(world.control) if not f.intact] == [], world.folder
    assert not list(world.root.glob("*.candidate"))


def test_a_publish_killed_anywhere_leaves_a_whole_release_or_none(tmp_path, monkeypatch) -> None:
    """After any crash the release is published intact, or can be published again."""
    from policyctl.services.releases.publish import publish

    template = World(tmp_path / "template", monkeypatch)
    template.publish("1.0.0", 1)
    source = write_export(tmp_path / "source", 2)
    states = crash_states(
        template,
        tmp_path / "states",
        lambda: publish(template.control, source, model="walker", release="1.1.0"),
    )
    for state in states:
        world = left(state, monkeypatch)
        if ("walker", "1.1.0") not in world.state.releases:
            publish(world.control, source, model="walker", release="1.1.0")
        assert [f for f in verify(world.control) if not f.intact] == [], state
    assert len(states) > 8
    assert ("walker", "1.1.0") in template.state.releases


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
