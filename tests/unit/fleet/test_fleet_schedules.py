"""Whatever happens in whatever order, no promise is broken; and bugs that are put in on purpose are seen."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from bugs import BUGS
from fleet_world import FleetWorld
from light_fleet import LightFleet
from schedules import Schedule, broken_by

MANY = 100
"""Of nodes whose repositories are values."""
UNTIL_SEEN = 60


@pytest.mark.parametrize("seed", range(4))
def test_no_schedule_breaks_a_promise(fleet: FleetWorld, seed: int) -> None:
    """Nodes on real repositories."""
    assert Schedule(fleet, seed).run() == []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_no_schedule_of_many_breaks_a_promise(fleet: FleetWorld, seed: int) -> None:
    """More of them."""
    assert Schedule(fleet, seed).run() == []


@pytest.mark.parametrize("part", range(4))
def test_no_light_schedule_breaks_a_promise(publisher: Mapping[str, bytes], part: int) -> None:
    """`python tests/unit/fleet/run_schedules.py` runs as many as are wanted."""
    for seed in range(part, MANY, 4):
        assert broken_by(LightFleet, publisher, seed) == [], f"seed {seed}"


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_seen(publisher: Mapping[str, bytes], bug: str) -> None:
    """Some schedule breaks a promise by it, or ends by an error that no command shows."""
    for seed in range(UNTIL_SEEN):
        if broken_by(LightFleet, publisher, seed, put=BUGS[bug]):
            return
    pytest.fail(f"no schedule showed that the code {bug}")
