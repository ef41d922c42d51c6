"""Certification asks in the batches that the placement allows, whatever the settings are today."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from policyctl.errors import ServerError
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote
from policyctl.settings import load


@pytest.fixture
def strict(world):
    """The server refuses a batch that is larger than the configuration it loaded, as Triton does."""
    infer = world.server.infer

    def refuse(name, observations, outputs, *, slot=None):
        text = (world.root / name / "config.pbtxt").read_text()
        limit = text_format.Parse(text, model_config_pb2.ModelConfig()).max_batch_size
        rows = len(observations["observation"])
        if rows > limit:
            raise ServerError(f"inference request batch-size must be <= {limit} for '{name}'")
        return infer(name, observations, outputs, slot=slot)

    world.server.infer = refuse
    return world


def _with(world, max_batch_size: int):
    settings = load(repository=world.root, serving={"max_batch_size": max_batch_size})
    return replace(world.control, settings=settings)


def test_a_rollback_works_after_the_batch_size_was_raised(strict) -> None:
    """A release that was promoted with small batches is certified with small batches when it comes back."""
    strict.publish("1.0.0", 1)
    strict.publish("1.1.0", 2)
    promote(_with(strict, 2), model="walker", release="1.0.0", alias="production")
    promote(_with(strict, 64), model="walker", release="1.1.0", alias="production")
    moved = rollback(_with(strict, 64), model="walker", alias="production")
    assert moved.move.target.release == strict.answered() == "1.0.0"


def test_a_release_served_in_two_ways_rolls_back_one_step_at_a_time(world) -> None:
    """Serving the same release otherwise is a step of the trail; after going back there is nothing before it."""
    from policyctl.errors import UsageError

    world.publish("1.0.0", 1)
    promote(_with(world, 2), model="walker", release="1.0.0", alias="production")
    promote(_with(world, 64), model="walker", release="1.0.0", alias="production")
    assert rollback(_with(world, 64), model="walker", alias="production").changed
    assert "max_batch_size: 2" in (world.root / "walker" / "config.pbtxt").read_text()
    with pytest.raises(UsageError, match="nothing came before"):
        rollback(_with(world, 64), model="walker", alias="production")
