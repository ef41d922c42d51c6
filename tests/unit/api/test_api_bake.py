"""Promotions by the control API that are watched after the switch: how they end, and who reports it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_world import ApiWorld

from policyctl.domain.bake import Then
from policyctl.services.rollout.promote import promote
from policyctl.services.rollout.request import AliasRequest, BakeRequest, PromotionRequest

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
    api.api.operations.close(timeout_s=300)


def test_a_release_that_bakes_well_stays(baked) -> None:
    """The operation ends with the bake, and its result holds the verdict."""
    done = baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert (done.status_code, done.json()["result"]["bake"]["verdict"]) == (200, "passed")
    assert baked.world.named() == "1.1.0"


def test_a_release_that_a_bake_takes_back_is_told_as_failed(baked) -> None:
    """409 with code `move`, as the command line's exit code 7; the answer says what was done and why it was undone."""
    baked.world.failing["1.1.0"] = 0.5
    done = baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert (done.status_code, done.json()["exit_code"]) == (409, 7)
    outcome = baked.client.get(done.headers["location"]).json()
    assert (outcome["state"], outcome["phase"], outcome["result"]["bake"]["verdict"]) == ("failed", "over", "failed")
    assert "was rolled back" in outcome["error"]["problem"]
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
            thread.join()
    baked.start()
    outcome = baked.client.get(f"/v1/operations/{asked['id']}").json()
    assert (outcome["state"], outcome["phase"], baked.world.named()) == ("running", "baking", "1.1.0")
    baked.world.failing["1.1.0"] = failing
    promote(baked.control, model="walker", release="1.1.0", alias="production")
    outcome = baked.client.get(f"/v1/operations/{asked['id']}").json()
    assert (outcome["state"], outcome["phase"], baked.world.named()) == (state, "over", release)
    assert outcome["result"]["bake"]["verdict"] == {"succeeded": "passed", "failed": "failed"}[state]
    assert baked.post("/promotions", {"release": "1.1.0"}, key="k").json()["id"] == asked["id"]


def test_a_rollback_wins_over_a_bake(baked) -> None:
    """The writer is free while a release bakes; the promotion then reports that somebody else moved the alias."""
    answers = []
    baked.world.meanwhile[2] = lambda: answers.append(baked.post("/rollbacks?wait=20", {"reason": "slips"}))
    done = baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert [a.status_code for a in answers] == [200]
    assert (done.status_code, done.json()["exit_code"], baked.world.named()) == (409, 5, "1.0.0")
    outcome = baked.client.get(done.headers["location"]).json()
    assert (outcome["phase"], outcome["result"]["bake"]["verdict"]) == ("over", None)


@pytest.fixture
def unwatched(tmp_path, monkeypatch) -> Iterator[ApiWorld]:
    """A control API whose settings ask for no bake."""
    api = ApiWorld(BakeWorld(tmp_path, monkeypatch))
    yield api
    api.api.operations.close(timeout_s=300)


def test_a_request_says_how_its_release_bakes(unwatched) -> None:
    """As the command line's --bake and --on-inconclusive; a dry run lists it as a step."""
    bake = {"for_s": 60, "on_inconclusive": "keep"}
    would = unwatched.post("/promotions", {"release": "1.1.0", "bake": bake, "dry_run": True}).json()
    assert would["result"]["steps"][-1] == "bake: watch walker for 60 s; roll back where it fails"
    unwatched.world.requests_per_s = 0
    kept = unwatched.post("/promotions?wait=20", {"release": "1.1.0", "bake": bake})
    assert (kept.status_code, kept.json()["result"]["bake"]["verdict"]) == (200, "inconclusive")
    gone = unwatched.post("/promotions?wait=20", {"release": "1.2.0", "bake": {"for_s": 60}})
    assert (gone.status_code, gone.json()["code"]) == (409, "move")
    assert unwatched.world.verdicts() == [
        ("1.1.0", "inconclusive", "keep"),
        ("1.2.0", "inconclusive", "rollback"),
    ]
    assert unwatched.world.named() == "1.1.0"


@pytest.mark.parametrize("bake", [{"for_s": 59.0}, {"for_s": 0}, {"end": True}, {"on_inconclusive": "keep"}])
def test_only_an_admin_asks_for_less_of_a_bake_than_the_settings(baked, bake) -> None:
    """Shorter, none, or one that keeps what nobody knows anything of; a longer one is anybody's to ask for."""
    asked = {"release": "1.1.0", "bake": bake, "dry_run": True}
    refused = baked.post("/promotions", asked)
    assert (refused.status_code, "less of a bake" in refused.json()["problem"]) == (403, True)
    assert baked.post("/promotions", asked, scope="admin").status_code == 200
    assert baked.post("/promotions", {**asked, "bake": {"for_s": 61}}).status_code == 200


def test_a_bake_that_is_under_way_is_ended_by_a_request(baked) -> None:
    """The same release once more with `end`: it stays, and the journal says by whose word."""
    ends = []
    asked = {"release": "1.1.0", "bake": {"end": True}}
    baked.world.meanwhile[2] = lambda: ends.append(baked.post("/promotions?wait=20", asked, scope="admin"))
    baked.post("/promotions?wait=20", {"release": "1.1.0"})
    assert [e.json()["result"]["bake"]["reason"] for e in ends] == ["ended by hand before its time"]
    assert (baked.world.verdicts(), baked.world.named()) == ([("1.1.0", "inconclusive", "keep")], "1.1.0")


def test_a_bake_that_the_profile_forbids_is_refused_at_once(baked) -> None:
    """A request asks for nothing that a settings file could not; nothing is begun."""
    integrity = baked.control.settings.integrity.model_copy(update={"signatures": "required"})
    security = baked.control.settings.security.model_copy(update={"unpickle": False})
    changed = {"profile": "production", "integrity": integrity, "security": security}
    baked.control.settings = baked.control.settings.model_copy(update=changed)
    for bake, word in (({"on_inconclusive": "keep"}, "bake.on_inconclusive"), ({"for_s": 9, "end": True}, "9 s")):
        refused = baked.post("/promotions", {"release": "1.1.0", "bake": bake}, scope="admin")
        assert (refused.status_code, word in refused.json()["problem"]) == (422, True)
    assert baked.client.get("/v1/operations").json() == []


def test_a_key_knows_requests_with_different_bakes_apart() -> None:
    """Each has another digest; a dry run has that of the move that it describes."""
    plain = AliasRequest("walker", PromotionRequest(release="1.1.0"))
    bakes = [BakeRequest(), BakeRequest(for_s=0.0), BakeRequest(end=True), BakeRequest(on_inconclusive=Then.KEEP)]
    digests = [AliasRequest("walker", PromotionRequest(release="1.1.0", bake=b)).fingerprint for b in bakes]
    assert len({plain.fingerprint, *digests}) == 5
    dry_run = AliasRequest("walker", PromotionRequest(release="1.1.0", dry_run=True))
    assert dry_run.fingerprint == plain.fingerprint
