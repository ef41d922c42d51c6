"""The fleet by API and console: what `policyctl --store URL status` says, where the settings name a store."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from api_world import ApiWorld
from console_browser import Browser
from starlette.testclient import TestClient

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal, write_report
from policyctl.domain.fleet import FleetMove, NodeReport, Serving, StoredRelease
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import MoveKind
from policyctl.services.fleet.looker import FleetLooker

RELEASES = {r: StoredRelease(r, f"sha256:{'a' * 64}", f"sha256:{'b' * 64}") for r in ("1.0.0", "1.1.0")}


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """A store that no node follows yet."""
    return Bucket(f"file://{tmp_path}/store")


@pytest.fixture
def follows(world, bucket, monkeypatch) -> ApiWorld:
    """A control API whose settings name that store."""
    monkeypatch.setenv("POLICYCTL_FLEET__STORE", bucket.url)
    return ApiWorld(world)


def commit(journal: FleetJournal, name: str, release: str) -> int:
    """Move production of walker; the generation."""
    journal.read()
    before = journal.state.named("walker", "production")
    move = FleetMove(name, MoveKind.PROMOTION, "walker", "production", before, RELEASES[release])
    journal.append(RecordKind.INTENT, move.to_json())
    return journal.append(RecordKind.SWITCHING, {"move": name}).seq


def report(bucket: Bucket, node: str, release: str, generation: int, **more: Any) -> None:
    serves = (Serving("walker", "production", release, generation),)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = {"endpoint": "10.0.0.7:8001", "time": now, "lease_s": 10.0, **more}
    write_report(bucket, NodeReport(node, "run", 1, policyctl="0.1.0", read=2, serves=serves, **said))


def _text(page: Any) -> str:
    """What people read of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def test_without_a_store_there_is_no_fleet(api) -> None:
    """No page leads there, and the API says how to have one."""
    browser = Browser(api)
    assert "/ui/fleet" not in browser.get("/ui").text
    assert (browser.get("/ui/fleet").status_code, api.client.get("/v1/fleet").status_code) == (404, 404)


def test_the_page_says_what_each_node_serves(follows, bucket) -> None:
    """As named, behind, stopped, and what a node could not do; it follows the journal as that grows."""
    browser, journal = Browser(follows), FleetJournal(bucket, "alice@edge-7")
    assert "No node follows this store." in browser.get("/ui/fleet").text
    first = commit(journal, "m1", "1.0.0")
    report(bucket, "node-1", "1.0.0", first)
    follows.api.shared.clear()  # callers within a second share a result
    assert 'href="/ui/fleet"' in browser.get("/ui").text
    text = _text(browser.get("/ui/fleet"))
    assert "Every node says that it serves what every alias names." in text
    assert "node-1 walker production 1.0.0 as named" in text
    second = commit(journal, "m2", "1.1.0")
    report(bucket, "node-2", "1.1.0", second)
    report(bucket, "node-3", "1.0.0", first, problems={"m2": "its disk is full"}, endpoint="")
    report(bucket, "node-4", "1.0.0", first, stopped=True)
    follows.api.shared.clear()
    text = _text(browser.get("/ui/fleet"))
    assert "Not every node says that it serves what every alias names." in text
    assert f"walker production 1.1.0 {second} " in text
    assert "node-1 walker production 1.0.0 not as named" in text
    assert "node-2 walker production 1.1.0 as named" in text
    assert "does not answer 0.1.0 its disk is full" in text
    assert "node-4 stopped" in text


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ([], "degraded No node runs."),
        ([{"stopped": True}], "degraded No node runs."),
        ([{"time": "2026-11-20T10:00:00+00:00"}], "degraded Not every node says"),
        ([{"time": "yesterday"}], "degraded Not every node says"),
        ([{"endpoint": ""}], "degraded Not every node says"),
        ([{"stopped": True}, {}], "ok Every node says"),
    ],
)
def test_a_fleet_is_well_only_where_a_node_runs_reports_and_answers(follows, bucket, reports, words: str) -> None:
    """What a node that died said last does not count for ever."""
    generation = commit(FleetJournal(bucket, "alice@edge-7"), "m1", "1.0.0")
    for nth, each in enumerate(reports):
        report(bucket, f"node-{nth}", "1.0.0", generation, **each)
    text = _text(Browser(follows).get("/ui/fleet"))
    assert words in text
    assert follows.client.get("/v1/fleet").json()["healthy"] is words.startswith("ok")
    assert ("silent" in text) is any(each.get("time") for each in reports)


def test_the_api_says_what_the_command_prints(follows, bucket, run) -> None:
    """`GET /v1/fleet` is the document of `policyctl --store URL status --json`."""
    report(bucket, "node-1", "1.0.0", commit(FleetJournal(bucket, "alice@edge-7"), "m1", "1.0.0"))
    printed = run("--store", bucket.url, "status", "--json").document
    assert follows.client.get("/v1/fleet").json() == printed
    assert printed["nodes"][0]["node"] == "node-1"


def test_a_store_that_does_not_answer_holds_up_no_monitor(world, bucket, monkeypatch) -> None:
    """However often somebody looks at the fleet meanwhile: each look is refused in time, and health is answered."""
    monkeypatch.setenv("POLICYCTL_FLEET__STORE", bucket.url)
    follows, go_on = ApiWorld(world, timeout_s=0.2), threading.Event()
    monkeypatch.setattr(FleetLooker, "look", lambda _self: go_on.wait(300))
    with TestClient(follows.app, base_url="http://127.0.0.1:8004", client=("127.0.0.1", 5)) as client:
        try:
            looks = [client.get("/v1/fleet") for _ in range(6)]
            assert {(look.status_code, look.json()["code"]) for look in looks} == {(503, "server")}
            patient = follows.control.settings.api.model_copy(update={"timeout_s": 300.0})
            follows.control.settings = follows.control.settings.model_copy(update={"api": patient})
            assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (200, 200)
        finally:
            go_on.set()


def test_a_store_that_cannot_be_read_is_a_refusal(follows, bucket) -> None:
    """In words, and the other pages answer."""
    FleetJournal(bucket, "alice").append(RecordKind.OUTCOME, {"move": "m"})
    (record,) = Path(bucket.url.removeprefix("file://"), "journal").iterdir()
    record.write_bytes(b"{}\n")
    page = Browser(follows).get("/ui/fleet")
    assert (page.status_code, "Restore the newest copy of the store" in page.text) == (409, True)
    assert Browser(follows).get("/ui").status_code == 200


def test_a_move_of_a_repository_that_follows_a_store_begins_nothing(follows) -> None:
    """It is refused before there is an operation."""
    refused = follows.post("/promotions", {"release": "1.1.0"})
    assert (refused.status_code, refused.json()["code"]) == (422, "usage")
    assert "would be taken back" in refused.json()["problem"]
    assert follows.client.get("/v1/operations").json() == []


def test_a_look_makes_no_folder_of_a_mistyped_store(world, tmp_path, monkeypatch) -> None:
    """It is refused with what is missing."""
    monkeypatch.setenv("POLICYCTL_FLEET__STORE", f"file://{tmp_path}/mistyped")
    refused = ApiWorld(world).client.get("/v1/fleet")
    assert (refused.status_code, "mistyped does not exist" in refused.json()["problem"]) == (422, True)
    assert not (tmp_path / "mistyped").exists()


def test_pages_of_a_repository_that_follows_a_store_offer_no_moves(follows) -> None:
    """Each would be refused."""
    text = Browser(follows, "promote").get("/ui/models/walker").text
    assert ">Promote<" not in text
    assert "Roll back" not in text
