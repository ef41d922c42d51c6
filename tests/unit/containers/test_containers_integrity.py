"""Where the integrity of a load comes from when the backends are NVIDIA's, which read the files themselves."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from world import World

from policyctl.errors import IntegrityError, MoveError
from policyctl.services.moves.aliases import load_alias
from policyctl.services.rollout.promote import promote

KEY = ("walker", "production")


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """1.0.0 in production, 1.1.0 published."""
    found = World(tmp_path, monkeypatch)
    found.publish("1.0.0", 1)
    found.publish("1.1.0", 2)
    promote(found.control, model="walker", release="1.0.0", alias="production")
    return found


def _backends(world: World, whose: str) -> None:
    world.server.endpoint = replace(world.server.endpoint, backends=whose)


def _damage_when(world: World, call: str, slot: int) -> None:
    """Change a file of a slot right after the server was asked to load it, and said that it has."""
    path = world.root / "walker" / str(slot) / "model.onnx"

    def damage(name: str) -> None:
        if name == call:
            path.chmod(0o644)
            path.write_bytes(b"changed while it was loaded")

    world.server.before_call = damage


def test_a_file_that_changed_while_it_was_loaded_is_found_before_anything_is_served(world) -> None:
    """It is read again after the load: refused, and taken out of the server, since nobody knows what was read."""
    _backends(world, "nvidia")
    _damage_when(world, "loaded walker", 1)
    state = world.control.repository.journal.state().aliases[KEY]
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        load_alias(world.control, world.server, KEY, state)
    assert "walker" not in world.server.serving()


def test_a_promotion_over_it_keeps_the_incumbent(world) -> None:
    """The candidate is read again as well, before it is certified."""
    _backends(world, "nvidia")
    _damage_when(world, "loaded walker.candidate", 2)
    with pytest.raises(MoveError, match=r"model\.onnx"):
        promote(world.control, model="walker", release="1.1.0", alias="production")
    assert world.server.serving() == {"walker": 1}


@pytest.mark.parametrize(("whose", "served"), [("nvidia", 1), ("", 1), ("policyctl", 2)])
def test_a_switch_over_it_is_taken_back_unless_the_backends_are_ours(world, whose: str, served: int) -> None:
    """Ours serve what they verified, whatever happens to the disk after that; others may have read anything."""
    _backends(world, whose)
    _damage_when(world, "loaded walker", 2)
    if served == 2:
        promote(world.control, model="walker", release="1.1.0", alias="production")
    else:
        with pytest.raises(MoveError, match=r"model\.onnx"):
            promote(world.control, model="walker", release="1.1.0", alias="production")
    assert world.server.serving()["walker"] == served
