"""Pins, their end, and aliases taken out of service, by the control API: the same path as every other move."""

from __future__ import annotations

import threading

import pytest
from api_world import ApiWorld

from policyctl.services.moves.recovery import recover


class KilledError(BaseException):
    """The process of the control API ends here."""


def test_a_release_is_pinned_and_unpinned_once_under_a_key(api) -> None:
    """Certified and journalled in the token's name; the same key finds it; the alias is the release's number."""
    asked = {"release": "^1.1", "reason": "robot 7"}
    done = api.post("/pins?wait=60", asked, key="k")
    assert (done.status_code, done.json()["kind"], done.json()["alias"]) == (200, "pin", "1.1.0")
    assert (done.json()["result"]["kind"], done.json()["result"]["to"]) == ("pin", "1.1.0")
    assert api.post("/pins?wait=60", asked, key="k").json()["id"] == done.json()["id"]
    assert (api.world.answered("walker.1.1.0"), api.world.answered()) == ("1.1.0", "1.0.0")
    assert api.post("/pins", {"release": "1.0.0"}, key="k").status_code == 422
    last = api.world.control.repository.journal.records()[-1]
    assert (last.kind, last.actor.startswith("token:my-promote@")) == ("outcome", True)
    gone = api.post("/unpins?wait=60", {"release": "1.1.0"})
    assert (gone.status_code, gone.json()["words"]) == (200, "walker.1.1.0 is not served any more; it was 1.1.0.")
    assert api.world.named("1.1.0") is None
    assert api.intents() == 3


def test_an_alias_is_taken_out_of_service_by_an_admin_alone(api) -> None:
    """A promoter changes what clients get, an admin whether they get anything; the audit lists both."""
    asked = {"alias": "production", "reason": "retired"}
    refused = api.post("/removals", asked)
    assert (refused.status_code, "needs scope admin" in refused.json()["problem"]) == (403, True)
    would = api.post("/removals", {**asked, "dry_run": True}, scope="admin")
    assert (would.status_code, "withdraw: walker" in would.json()["result"]["steps"]) == (200, True)
    assert api.world.named() == "1.0.0"
    done = api.post("/removals?wait=60", asked, scope="admin", key="k")
    assert (done.status_code, done.json()["result"]["from"], done.json()["result"]["to"]) == (200, "1.0.0", None)
    assert api.world.named() is None
    again = api.post("/removals?wait=60", asked, scope="admin", key="k")
    assert again.json()["id"] == done.json()["id"], "found, though there is nothing to take away any more"
    lines = api.client.get("/v1/audit", headers=api.headers("admin")).json()
    assert [line["status"] for line in lines if line.get("path", "").endswith("/removals")][:1] == [403]
    assert done.json()["id"] in {line.get("operation") for line in lines}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pins", {"release": "9.9.9"}),
        ("/pins", {"release": "1.1.0", "alias": "staging"}),
        ("/pins", {}),
        ("/unpins", {"release": "1.0.0"}),
        ("/unpins", {"release": "9.9.9"}),
        ("/removals", {"alias": "staging"}),
        ("/removals", {"alias": "1.1.0"}),
        ("/removals", {}),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_begins(api, path, body) -> None:
    """422 with the command line's words; nothing is begun and nothing written."""
    before = api.world.control.repository.journal.path.read_bytes()
    found = api.post(path, body, scope="admin")
    assert (found.status_code, found.json()["code"]) == (422, "usage")
    assert api.client.get("/v1/operations").json() == []
    assert api.world.control.repository.journal.path.read_bytes() == before


def test_only_an_admin_pins_past_the_gates_of_the_settings(api) -> None:
    """As with a promotion."""
    gates = api.control.settings.gates.model_copy(update={"promote_with": ("service_level",)})
    api.control.settings = api.control.settings.model_copy(update={"gates": gates})
    assert api.post("/pins", {"release": "1.1.0", "gates": []}).status_code == 403
    assert api.post("/pins?wait=60", {"release": "1.1.0", "gates": []}, scope="admin").status_code == 200


def test_pins_have_the_places_of_promotions_and_removals_those_of_rollbacks(world) -> None:
    """A pin measures as a promotion does, and so never keeps anybody from taking something out of service."""
    api = ApiWorld(world, max_operations=1)
    reached, go_on = threading.Event(), threading.Event()

    def pause(call: str) -> None:
        if call == "load walker.candidate":
            reached.set()
            go_on.wait(300)

    world.server.before_call = pause
    api.post("/pins", {"release": "1.1.0"})
    assert reached.wait(300)
    assert api.post("/promotions", {"release": "1.1.0"}).status_code == 429
    asked = {"alias": "production", "lock_wait_s": 10}
    assert api.post("/removals", asked, scope="admin").status_code == 202
    go_on.set()
    api.api.operations.close(timeout_s=300)
    assert (world.named(), world.named("1.1.0")) == (None, "1.1.0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_removal_whose_process_died_is_told_as_the_journal_says(api) -> None:
    """Open until the server has settled it, and found under its key afterwards."""
    asked = {"alias": "production"}

    def die(call: str) -> None:
        if call == "unload walker":
            raise KilledError

    api.world.server.before_call = die
    name = api.post("/removals", asked, scope="admin", key="k").json()["id"]
    for thread in threading.enumerate():
        if thread.name == f"operation-{name}":
            thread.join()
    api.world.server.before_call = lambda _: None
    api.start()
    assert api.client.get(f"/v1/operations/{name}").json()["state"] == "running"
    with api.world.control.repository.writer("recovery by the server"):
        recover(api.world.control, api.world.server, "walker")
    outcome = api.client.get(f"/v1/operations/{name}").json()
    assert (outcome["state"], outcome["result"]["kind"], api.world.named()) == ("succeeded", "removal", None)
    assert api.post("/removals", asked, scope="admin", key="k").json()["id"] == name
