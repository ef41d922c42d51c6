"""What the control API shows: models, evidence, history in pages, and how everything is."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from dataclasses import asdict, replace

import pytest
from api_world import WALKER, ApiWorld
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.services import golden_questions as question
from policyctl.services.integrity.scrub import FILE, ScrubState, Wrong
from policyctl.services.rollout.promote import promote
from policyctl.services.show import health


def _grade(api: ApiWorld, name: str = "") -> str:
    """How one thing is, or everything."""
    api.api.health = health.Looker(api.control)
    api.api.shared.clear()  # what was seen a moment ago does not count
    found = api.client.get("/healthz").json()
    return next(c["status"] for c in found["checks"] if c["name"] == name) if name else found["status"]


def test_models_and_releases_and_aliases_are_told_by_the_journal(api) -> None:
    """What is published, what aliases name, since when, and when that was last certified."""
    (model,) = api.client.get("/v1/models").json()
    assert model == {
        "model": "walker",
        "releases": ["1.0.0", "1.1.0"],
        "latest": "1.1.0",
        "aliases": {"production": "1.0.0"},
    }
    assert api.client.get(WALKER).json() == model
    assert [r["slot"] for r in api.client.get(f"{WALKER}/releases").json()] == [1, 2]
    assert api.client.get(f"{WALKER}/releases/1.0.0").json()["aliases"] == ["production"]
    assert api.client.get(f"{WALKER}/releases/9.9.9").status_code == 404
    (alias,) = api.client.get(f"{WALKER}/aliases").json()
    certified = [r.time for r in api.world.control.repository.journal.records() if r.kind == "certified"]
    assert (alias["release"], alias["served"], alias["certified"]["time"]) == ("1.0.0", "walker", certified[-1])


def test_nothing_published_is_told_as_nothing(tmp_path, monkeypatch) -> None:
    """An empty repository has no models; what is asked of one is not found, and nothing breaks."""
    from world import World

    api = ApiWorld(World(tmp_path / "empty", monkeypatch))
    assert api.client.get("/v1/models").json() == []
    assert {api.client.get(p).status_code for p in ("/v1/status", "/v1/history", WALKER)} == {404}
    assert api.client.get("/readyz").status_code == 200
    assert api.post("/rollbacks", {}).status_code == 404


def test_evidence_comes_as_it_was_written(api) -> None:
    """Its SHA-256 is the digest that the journal holds; what was changed since, or is not evidence, is refused."""
    kept = api.client.get(f"{WALKER}/releases/1.0.0/evidence").json()
    assert {"integrity", "parity", "golden"} == {e["what"] for e in kept}
    for each in kept:
        found = api.client.get(f"{WALKER}/releases/1.0.0/evidence/{each['digest']}")
        assert "sha256:" + hashlib.sha256(found.content).hexdigest() == each["digest"]
        assert found.json()["verdict"] == each["verdict"] == "passed"
    digest = kept[0]["digest"]
    assert api.client.get(f"{WALKER}/releases/1.1.0/evidence/{digest}").status_code == 404
    for path in (api.world.root / ".policyctl" / "evidence").rglob("*-integrity.json"):
        path.write_text("{}")
    changed = api.client.get(f"{WALKER}/releases/1.0.0/evidence/{digest}")
    assert (changed.status_code, changed.json()["exit_code"]) == (409, 3)


@pytest.fixture(scope="module")
def long_history(tmp_path_factory) -> ApiWorld:
    """A journal of some dozens of records."""
    from world import World

    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("long"), patch)
        for number in range(3):
            world.publish(f"1.{number}.0", number)
            promote(world.control, model="walker", release=f"1.{number}.0", alias="production")
        world.publish("1.0.0", 9, model="runner")
    return ApiWorld(world, reads_per_s=1e6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.sampled_from([None, "walker", "runner"]))
def test_the_pages_of_the_history_are_the_history(long_history, limit: int, model: str | None) -> None:
    """Whatever the size of a page: nothing twice, nothing left out, and at the end no further page."""
    narrowed = {} if model is None else {"model": model}
    whole = long_history.client.get("/v1/history", params={**narrowed, "limit": 1000}).json()
    assert whole["before"] is None
    found, before = [], None
    while True:
        asked = {**narrowed, "limit": limit, **({} if before is None else {"before": before})}
        page = long_history.client.get("/v1/history", params=asked).json()
        assert 1 <= len(page["records"]) <= limit
        found, before = page["records"] + found, page["before"]
        if before is None:
            break
    assert found == whole["records"]


def test_what_is_degraded_is_not_down(api) -> None:
    """One alias of two that does not answer, a wrong file, a full disk: 200 and degraded, each with its reason."""
    promote(api.world.control, model="walker", release="1.1.0", alias="staging")
    assert _grade(api) == "ok"
    serving = api.world.server.serving()
    api.world.server._remember({"walker": serving["walker"]})
    assert _grade(api) == "degraded"
    found = api.client.get("/healthz")
    assert (found.status_code, found.json()["status"]) == (200, "degraded")
    (silent,) = [c for c in found.json()["checks"] if c["name"] == "alias" and c["status"] != "ok"]
    assert (silent["served"], silent["status"]) == ("walker.staging", "down")
    assert "not served" in silent["detail"]
    api.world.server._remember({})
    assert _grade(api) == "down"
    assert api.client.get("/healthz").status_code == 503


def test_a_wrong_answer_is_no_answer(api) -> None:
    """Health asks for the golden answer, not for any."""
    api.world.server.wrong_slots.add(("walker", 1))
    assert _grade(api) == "down"
    (alias,) = [c for c in api.client.get("/healthz").json()["checks"] if c["name"] == "alias"]
    assert "differs by" in alias["detail"]


def test_what_the_scrub_found_is_told_and_no_file_is_read_for_it(api, monkeypatch) -> None:
    """The state that the scrub keeps says it; a look reads no release but to know what to ask it, once."""
    reads = []
    genuine = question.read_question
    monkeypatch.setattr(question, "read_question", lambda *a: reads.append(a) or genuine(*a))
    path = api.world.root / ".policyctl" / FILE
    seen = ScrubState("2026-11-20T10:00:00+00:00", passes=3, last_pass="2026-11-20T11:00:00+00:00")
    path.write_text(json.dumps(asdict(seen)))
    assert _grade(api, "integrity") == "ok"
    for wrong, grade in (((), "ok"), ((Wrong("walker 1.0.0 (slot 1)", "model.onnx is other", "now"),), "degraded")):
        path.write_text(json.dumps(asdict(replace(seen, wrong=wrong))))
        api.api.shared.clear()
        (check,) = [c for c in api.client.get("/healthz").json()["checks"] if c["name"] == "integrity"]
        assert (check["status"], check["wrong"]) == (grade, len(wrong))
    assert len(reads) == 1


def test_disk_and_journal_are_told(world) -> None:
    """Too little free is degraded; a journal with a changed line is degraded too, and then nobody is ready."""
    api = ApiWorld(world, disk_free_mib=1 << 40)
    assert (_grade(api, "disk"), _grade(api)) == ("degraded", "degraded")
    api = ApiWorld(world, tokens=False)
    assert _grade(api, "disk") == "ok"
    journal = world.control.repository.journal.path
    journal.write_bytes(journal.read_bytes().replace(b"1.0.0", b"6.6.6", 1))
    assert _grade(api, "journal") == "degraded"
    assert api.client.get("/readyz").status_code == 503
    assert api.client.get("/livez").status_code == 200
    assert api.client.get("/v1/models").json()["exit_code"] == 3


@pytest.mark.parametrize(("status", "grade"), [(200, "ok"), (503, "degraded"), (None, "degraded")])
def test_a_prometheus_that_a_setting_names_is_looked_at(world, monkeypatch, status, grade) -> None:
    """Ready, not ready, or not there: the last two are degraded, never down. Without the setting nothing is asked."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/-/ready" else 404)
            self.end_headers()

        def log_message(self, *_args) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    if status is None:
        server.shutdown()
        server.server_close()
    monkeypatch.setenv("POLICYCTL_BAKE__PROMETHEUS", f"http://127.0.0.1:{server.server_port}/")
    api = ApiWorld(world)
    assert _grade(api, "prometheus") == grade
    assert _grade(api) == grade
    server.shutdown()
    server.server_close()


def test_health_names_no_prometheus_without_a_setting(api) -> None:
    """Nothing is asked that nobody named."""
    assert "prometheus" not in {c["name"] for c in api.client.get("/healthz").json()["checks"]}


def test_the_counts_have_two_series_and_closed_labels(api) -> None:
    """Routes as they are declared: a path that somebody made up makes no series."""
    for path in ("/livez", WALKER, "/v1/models/other", "/made/up/1", "/made/up/2"):
        api.client.get(path)
    api.client.request("MADEUP", "/livez")
    text = api.client.get("/metrics").text
    names = {line.split("{")[0] for line in text.splitlines() if not line.startswith("#")}
    seconds = "policyctl_api_request_duration_seconds"
    assert names == {"policyctl_api_requests_total", f"{seconds}_bucket", f"{seconds}_sum", f"{seconds}_count"}
    assert 'route="/v1/models/{model}",status="404"} 1.0' in text
    assert 'route="none",status="404"} 2.0' in text
    assert "made" not in text.lower().replace("madeup", "")
    assert 'method="other"' in text
