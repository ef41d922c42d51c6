"""The gate `non_inferiority` of a release whose contract excludes that of its incumbent."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from world import CONTRACT, World

from policyctl.domain.tensor import TensorSpec
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.services.control import open_release
from policyctl.services.measure import performance
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.validate import place
from policyctl.services.rollout.promote import promote

WIDER = replace(CONTRACT, observations=(TensorSpec("observation", "float32", (7,)),))


@pytest.mark.parametrize(("contract", "whose"), [(WIDER, "1.0.0"), (CONTRACT, "2.0.0")])
def test_each_release_is_asked_what_it_takes(tmp_path, monkeypatch, contract, whose) -> None:
    """The candidate's observations go to both, and where the incumbent cannot take them it gets its own."""
    world = World(tmp_path, monkeypatch)
    world.publish("1.0.0", 1)
    world.publish("2.0.0", 2, contract=contract)
    promote(world.control, model="walker", release="1.0.0", alias="production")

    @contextmanager
    def bursts_of(_control, opened, **_more):
        yield SimpleNamespace(of=lambda served, clients: (served, opened.published.release))

    sides = []

    def compare(*both, **_more) -> GateResult:
        sides.extend(both[:2])
        return GateResult("non_inferiority", Verdict.PASSED, "", {})

    monkeypatch.setattr(performance, "bursts_of", bursts_of)
    monkeypatch.setattr(performance, "compare", compare)
    control, state = world.control, world.state
    opened = open_release(control.repository, state.release("walker", "2.0.0"))
    with (
        control.triton() as client,
        loaded(control, client, state, opened, place(control, state, opened, None)) as each,
    ):
        assert performance._non_inferiority(each, "production").verdict is Verdict.PASSED
    assert sides == [("walker", whose), ("walker.candidate", "2.0.0")]
