"""Whatever happens in whatever order, no promise is broken; and bugs that are put in on purpose are seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bugs import BUGS
from fleet_world import FleetWorld
from schedules import Schedule

from policyctl.errors import PolicyctlError


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_breaks_a_promise(fleet: FleetWorld, seed: int) -> None:
    """A few of them; `make performance` runs many more."""
    assert Schedule(fleet, seed).run() == []


@pytest.mark.long
def test_no_schedule_of_many_breaks_a_promise(tmp_path: Path, publisher: Path) -> None:
    """More seeds, each with another store; SCHEDULES=1000 in the environment asks for more."""
    for seed in range(100, 100 + int(os.environ.get("SCHEDULES", "30"))):
        with pytest.MonkeyPatch.context() as patch:
            fleet = FleetWorld(tmp_path / str(seed), patch, publisher)
            assert Schedule(fleet, seed).run() == [], f"seed {seed}"
            fleet.close()


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_seen(tmp_path: Path, publisher: Path, bug: str) -> None:
    """Some schedule breaks a promise by it, or ends by an error that no command shows."""
    for seed in range(40):
        with pytest.MonkeyPatch.context() as patch:
            BUGS[bug](patch)
            fleet = FleetWorld(tmp_path / str(seed), patch, publisher)
            try:
                if Schedule(fleet, seed).run():
                    return
            except (PolicyctlError, AssertionError, KeyError):
                return
            finally:
                fleet.close()
    pytest.fail(f"no schedule showed that the code {bug}")
