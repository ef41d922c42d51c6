"""Promotions by the control API that are watched after the switch: how they end, and who tells it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_world import ApiWorld

from policyctl.services.promote import promote

sys.path.insert(0, str(Path(__file__).parents[1] / "bake"))

from bake_world import BakeWorld


class KilledError(BaseException):
    """The process of the control API ends here."""


@pytest.fixture
def baked(tmp_path, monkeypatch) -> Iterator[ApiWorld]:
    """A control API whose settings ask for a bake of a minute, which is over at once."""
    world = BakeWorld(tmp_path, monkeypatch)
    monkeypatch.setenv("POLICYCTL_BAKE__FOR_S", "60")
    api = ApiWorld(world)
    yield api
    api.api.close(timeout_s=5.0)


def test_a_release_that_bakes_well_stays(baked) -> None:
    """The operation ends with the bake, and its result tells the verdict."""
    done = baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert (done.status_code, done.json()["result"]["bake"]["verdict"]) == (200, "passed")
    assert baked.world.named() == "1.1.0"


def test_a_release_that_a_bake_takes_back_is_told_as_failed(baked) -> None:
    """409 with code `move`, as the command line's exit code 7; what was done is told beside why it was undone."""
    baked.world.failing["1.1.0"] = 0.5
    done = baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert (done.status_code, done.json()["exit_code"]) == (409, 7)
    told = baked.client.get(done.headers["location"]).json()
    assert (told["state"], told["phase"], told["result"]["bake"]["verdict"]) == ("failed", "over", "failed")
    assert "was rolled back" in told["error"]["problem"]
    assert baked.world.named() == "1.0.0"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("failing", "state", "release"), [(0.0, "succeeded", "1.1.0"), (0.5, "failed", "1.0.0")])
def test_a_bake_whose_process_died_is_told_when_somebody_has_carried_it_on(baked, failing, state, release) -> None:
    """Open while it is owed, and then as the journal says; under its key it is found and not begun again."""

    def die() -> None:
        raise KilledError

    baked.world.meanwhile[2] = die
    asked = baked.post("/promotions", {"release": "1.1.0"}, key="k").json()
    for thread in threading.enumerate():
        if thread.name == f"operation-{asked['id']}":
            thread.join(timeout=20)
    baked.start()
    told = baked.client.get(f"/v1/operations/{asked['id']}").json()
    assert (told["state"], told["phase"], baked.world.named()) == ("running", "baking", "1.1.0")
    baked.world.failing["1.1.0"] = failing
    promote(baked.control, model="walker", release="1.1.0", alias="production")
    told = baked.client.get(f"/v1/operations/{asked['id']}").json()
    assert (told["state"], told["phase"], baked.world.named()) == (state, "over", release)
    assert told["result"]["bake"]["verdict"] == {"succeeded": "passed", "failed": "failed"}[state]
    assert baked.post("/promotions", {"release": "1.1.0"}, key="k").json()["id"] == asked["id"]


def test_a_rollback_wins_over_a_bake(baked) -> None:
    """The writer is free while a release bakes; the promotion then tells that somebody else moved the alias."""
    answers = []
    baked.world.meanwhile[2] = lambda: answers.append(baked.post("/rollbacks?wait=20", {"reason": "slips"}))
    done = baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert [a.status_code for a in answers] == [200]
    assert (done.status_code, done.json()["exit_code"], baked.world.named()) == (409, 5, "1.0.0")
    told = baked.client.get(done.headers["location"]).json()
    assert (told["phase"], told["result"]["bake"]["verdict"]) == ("over", None)
