"""Moves by the control API: begun once, in the name of the caller, and reported after any crash."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_world import WALKER, ApiWorld
from world import WIDER

from policyctl.domain.operations import move_progress
from policyctl.domain.tokens import Scope
from policyctl.errors import BusyError
from policyctl.services.moves.recovery import recover
from policyctl.services.moves.rollback import abort
from policyctl.services.rollout.operations import LimitError
from policyctl.services.rollout.request import AbortRequest, AliasRequest, PromotionRequest


class KilledError(BaseException):
    """The process of the control API ends here."""


def test_a_promotion_answers_at_once_and_tells_its_outcome_later(api) -> None:
    """202 with an address; there, how far it is, and in the end what the command line would have printed."""
    asked = api.post("/promotions", {"release": "^1.1", "reason": "better"})
    assert (asked.status_code, asked.json()["state"]) == (202, "running")
    done = api.client.get(asked.headers["location"] + "?wait=60").json()
    assert (done["state"], done["phase"], done["error"]) == ("succeeded", "over", None)
    assert (done["result"]["from"], done["result"]["to"], done["result"]["changed"]) == ("1.0.0", "1.1.0", True)
    assert done["words"].startswith("production of walker: 1.0.0 -> 1.1.0 (slot 2, onnx), switched in ")
    assert "Loading walker ..." in done["messages"]
    assert (api.world.named(), api.world.answered()) == ("1.1.0", "1.1.0")
    record = api.client.get("/v1/history?limit=1").json()["records"][0]
    assert (record["kind"], record["move"], record["result"]) == ("outcome", done["move"], "done")
    assert record["actor"] == done["by"]
    assert record["actor"].startswith("token:my-promote@")


def test_a_rollback_is_one_call(api) -> None:
    """With `wait` the answer is the outcome."""
    api.post("/promotions?wait=60", {"release": "1.1.0"})
    found = api.post("/rollbacks?wait=60", {"reason": "slips"})
    assert (found.status_code, found.json()["result"]["to"], api.world.answered()) == (200, "1.0.0", "1.0.0")


def test_a_dry_run_changes_nothing_and_begins_nothing(api) -> None:
    """The steps in words; no operation, no record."""
    before = api.world.control.repository.journal.path.read_bytes()
    found = api.post("/promotions", {"release": "1.1.0", "dry_run": True}, key="k")
    assert (found.status_code, len(found.json()["result"]["steps"]) > 5) == (200, True)
    assert found.json()["words"].startswith("Would carry out the promotion of walker's production")
    assert api.client.get("/v1/operations").json() == []
    assert api.world.control.repository.journal.path.read_bytes() == before
    assert api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/promotions", {"release": "9.9.9"}, 422, "usage"),
        ("/promotions", {"release": "1.1.0", "alias": "latest"}, 422, "usage"),
        ("/promotions", {"release": "1.1.0", "alias": "1.0.0"}, 422, "usage"),
        ("/promotions", {"release": "1.1.0", "format": "tensorrt"}, 422, "usage"),
        ("/promotions", {"release": "1.1.0", "unknown": 1}, 422, "usage"),
        ("/promotions", {"release": "1.1.0", "dry_run": "yes"}, 422, "usage"),
        ("/promotions", {"release": "1.1.0", "reason": "x" * 2001}, 422, "usage"),
        ("/promotions?wait=-1", {"release": "1.1.0"}, 422, "usage"),
        ("/promotions?unknown=1", {"release": "1.1.0"}, 422, "usage"),
        ("/promotions", {}, 422, "usage"),
        ("/promotions", [], 422, "usage"),
        ("/rollbacks", {}, 422, "usage"),
        ("/aborts", {}, 422, "usage"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason_and_a_remedy(api, path, body, status, code) -> None:
    """Before anything begins, where that can be known; else as the operation's outcome."""
    joined = "&" if "?" in path else "?"
    found = api.post(f"{path}{joined}wait=60" if "wait" not in path else path, body)
    assert (found.status_code, found.headers["content-type"]) == (status, "application/problem+json")
    assert (found.json()["code"], found.json()["exit_code"]) == (code, 2)
    assert found.json()["problem"]
    assert api.intents() == 1
    assert api.client.post("/v1/models/nobody/rollbacks", json={}, headers=api.headers("promote")).status_code == 404


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\x08", b"", b"nonsense", b'{"reason": "\\ud800"}', b'{"wait": NaN}', b"[" * 9999]
)
def test_what_is_no_document_is_a_wrong_request(api, content) -> None:
    """No UTF-8, no JSON, half a character, or too deep: 422 as any other wrong request."""
    headers = {**api.headers("promote"), "Content-Type": "application/json"}
    found = api.client.post(f"{WALKER}/rollbacks", content=content, headers=headers)
    assert (found.status_code, found.json()["exit_code"]) == (422, 2)


def test_a_failed_move_tells_what_the_command_line_would(api) -> None:
    """A release that does not answer rightly: 409 with code `move` and exit code 7; the incumbent serves on."""
    api.world.server.wrong_slots.add(("walker.candidate", 2))
    found = api.post("/promotions?wait=60", {"release": "1.1.0"})
    assert (found.status_code, found.json()["code"], found.json()["exit_code"]) == (409, "move", 7)
    assert "still serves 1.0.0" in found.json()["problem"]
    outcome = api.client.get(found.headers["location"]).json()
    assert (outcome["id"], outcome["state"], outcome["error"]["exit_code"]) == (found.json()["operation"], "failed", 7)
    assert (api.world.named(), api.world.answered()) == ("1.0.0", "1.0.0")


def test_a_file_that_is_not_as_published_is_told_as_such(api) -> None:
    """409 with code `integrity`, exit code 3, naming the file."""
    path = api.world.root / "walker" / "2" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"other")
    found = api.post("/promotions?wait=60", {"release": "1.1.0"})
    assert (found.status_code, found.json()["code"], found.json()["exit_code"]) == (409, "integrity", 3)
    assert "model.onnx" in found.json()["problem"]


def test_without_a_server_a_move_is_refused_and_looking_goes_on(api, monkeypatch) -> None:
    """503 with code `server`, exit code 6; what the journal says can be read all the same."""
    from policyctl.adapters import endpoint

    endpoint.clear(api.control.repository)
    found = api.post("/promotions?wait=60", {"release": "1.1.0"})
    assert (found.status_code, found.json()["exit_code"], "retry-after" in found.headers) == (503, 6, True)
    health = api.client.get("/healthz")
    assert (health.status_code, health.json()["status"]) == (503, "down")
    assert api.client.get("/readyz").status_code == 200
    assert api.client.get(f"{WALKER}/aliases").json()[0]["release"] == "1.0.0"
    assert api.client.get("/v1/status").json()["server_live"] is False


def test_a_request_repeated_under_its_key_is_not_carried_out_again(api) -> None:
    """The same answer, byte for byte; after the end too, and after a restart; another request under it is refused."""
    first = api.post("/promotions", {"release": "1.1.0"}, key="k1")
    assert "idempotency-replayed" not in first.headers
    for _ in range(2):
        again = api.post("/promotions", {"release": "1.1.0"}, key="k1")
        assert (again.status_code, again.content, again.headers["location"]) == (
            202,
            first.content,
            first.headers["location"],
        )
        assert again.headers["idempotency-replayed"] == "true"
        api.client.get(first.headers["location"] + "?wait=60")
    api.post("/rollbacks?wait=60", {})
    api.start()
    assert api.post("/promotions", {"release": "1.1.0"}, key="k1").content == first.content
    done = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k1")
    assert (done.status_code, done.json()["state"], done.json()["id"]) == (200, "succeeded", first.json()["id"])
    assert (api.world.named(), api.intents()) == ("1.0.0", 3)
    other = api.post("/promotions", {"release": "1.0.0"}, key="k1")
    assert (other.status_code, other.json()["type"]) == (422, "urn:policyctl:problem:idempotency-key")
    assert api.post("/rollbacks", {}, key="k1").status_code == 422
    assert api.post("/promotions", {"release": "1.0.0", "dry_run": True}, key="k1").status_code == 422
    mine = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k1", scope="admin")
    assert mine.json()["id"] != first.json()["id"], "a key is its token's own"


def test_a_failed_request_is_told_again_and_not_tried_again(api) -> None:
    """The same refusal under the same key; a fresh key tries again."""
    api.world.server.wrong_slots.add(("walker.candidate", 2))
    first = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k")
    api.world.server.wrong_slots.clear()
    again = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k")
    assert (again.status_code, again.json()["operation"]) == (409, first.json()["operation"])
    assert api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k2").status_code == 200


def test_many_at_once_under_one_key_make_one_move(api) -> None:
    """Eight callers at the same time: one operation, one intent in the journal."""
    asked = AliasRequest("walker", PromotionRequest(release="1.1.0"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: api.api.operations.submit(asked, caller="ci", key="k"), range(8)))
    assert len({s.operation.id for s in found}) == 1
    assert sorted(s.replayed for s in found) == [False] + [True] * 7
    api.api.operations.close(timeout_s=300)
    assert (api.intents(), api.world.named()) == (2, "1.1.0")


def _cut(api: ApiWorld, where: str) -> str:
    """Ask for a promotion whose process is killed there; the operation's id."""

    def die(call: str) -> None:
        if call == where:
            raise KilledError

    api.world.server.before_call = die
    found = api.post("/promotions", {"release": "1.1.0"}, key="k")
    for thread in threading.enumerate():
        if thread.name == f"operation-{found.json()['id']}":
            thread.join()
    api.world.server.before_call = lambda _: None
    return found.json()["id"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("where", "state", "release"),
    [
        ("load walker.candidate", "failed", "1.0.0"),
        ("infer walker.candidate", "failed", "1.0.0"),
        ("load walker", "succeeded", "1.1.0"),
        ("infer walker", "succeeded", "1.1.0"),
        ("unload walker.candidate", "succeeded", "1.1.0"),
    ],
)
def test_an_operation_whose_process_died_is_told_as_the_journal_says(api, where, state, release) -> None:
    """Killed anywhere and started again: first open, then, once the server has settled the move, its outcome.

    Asked again under its key it is found and not begun again.
    """
    name = _cut(api, where)
    api.start()
    outcome = api.client.get(f"/v1/operations/{name}").json()
    assert (outcome["state"], outcome["phase"] in {"certifying", "certified", "switching"}) == ("running", True)
    with api.world.control.repository.writer("recovery by the server"):
        recover(api.world.control, api.world.server, "walker")
    outcome = api.client.get(f"/v1/operations/{name}?wait=5").json()
    assert (outcome["state"], outcome["phase"], api.world.named()) == (state, "over", release)
    if state == "failed":
        assert (outcome["error"]["exit_code"], "still serves 1.0.0" in outcome["error"]["problem"]) == (7, True)
    else:
        assert (outcome["result"]["move"], outcome["result"]["to"]) == (outcome["move"], "1.1.0")
    again = api.post("/promotions", {"release": "1.1.0"}, key="k")
    assert (again.json()["id"], api.intents()) == (name, 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_operation_that_had_not_begun_is_told_as_failed(api, monkeypatch) -> None:
    """Its process died before the intent: nothing was changed, and it says so."""
    from policyctl.services.rollout import operations

    def die(*_args, **_more):
        raise KilledError

    monkeypatch.setattr(operations, "carry_out", die)
    name = api.post("/promotions", {"release": "1.1.0"}).json()["id"]
    api.start()
    outcome = api.client.get(f"/v1/operations/{name}").json()
    assert (outcome["state"], outcome["error"]["exit_code"], outcome["phase"]) == ("failed", 7, "waiting")
    assert "had not begun" in outcome["error"]["problem"]
    assert (api.world.named(), api.intents()) == ("1.0.0", 1)


def test_a_defect_ends_the_operation_and_hides_nothing_but_itself(api, monkeypatch) -> None:
    """500 with exit code 1 and no trace; the log has it."""
    from policyctl.services.rollout import operations

    def breaks(*_args, **_more):
        raise RuntimeError("of the house")

    monkeypatch.setattr(operations, "carry_out", breaks)
    found = api.post("/promotions?wait=60", {"release": "1.1.0"})
    assert (found.status_code, found.json()["exit_code"]) == (500, 1)
    assert "of the house" not in found.text
    assert any("of the house" in line for line in api.said)


def _hold(api: ApiWorld) -> tuple[threading.Event, threading.Event]:
    """The next load waits for the second event, and sets the first when it is reached."""
    reached, go_on = threading.Event(), threading.Event()

    def pause(call: str) -> None:
        if call == "load walker.candidate":
            reached.set()
            go_on.wait(300)

    api.world.server.before_call = pause
    return reached, go_on


def test_a_move_under_way_can_be_watched_and_aborted(api) -> None:
    """Its phase is shown while it runs; the abort stops it before the switch, and both say how that ended."""
    reached, go_on = _hold(api)
    asked = api.post("/promotions", {"release": "1.1.0"})
    assert reached.wait(300)
    outcome = api.client.get(asked.headers["location"]).json()
    assert (outcome["state"], outcome["phase"]) == ("running", "certifying")
    (alias,) = api.client.get(f"{WALKER}/aliases").json()
    assert (alias["release"], alias["moving"]["move"]) == ("1.0.0", outcome["move"])
    assert api.post("/aborts", {"dry_run": True}).json()["words"].startswith("Would abort the promotion")
    other = api.post("/aborts", {"move": "0" * 16})
    refused = (other.status_code, other.json()["code"], "retry-after" in other.headers)
    assert refused == (409, "moved", False)
    named = f"the {outcome['kind']} of walker's production from 1.0.0 to 1.1.0 by token:"
    assert f"the move {'0' * 16} is not under way: {named}" in other.json()["problem"]
    dry = api.post("/aborts", {"move": outcome["move"], "dry_run": True})
    assert dry.json()["words"].startswith("Would abort the promotion")
    stop = api.post("/aborts", {}, key="stop")
    assert (stop.status_code, stop.json()["move"]) == (202, outcome["move"])
    go_on.set()
    stopped = api.client.get(stop.headers["location"] + "?wait=60").json()
    assert stopped["words"].startswith("Aborted: the promotion of walker's production")
    failed = api.client.get(asked.headers["location"] + "?wait=60").json()
    assert (failed["state"], failed["error"]["exit_code"], api.world.answered()) == ("failed", 7, "1.0.0")
    assert api.post("/aborts", {}, key="stop").content == stop.content, "found, though nothing is under way any more"


def test_an_abort_that_names_its_move_stops_that_one(api) -> None:
    """The id is that of the move in the journal, as the operation shows it."""
    reached, go_on = _hold(api)
    asked = api.post("/promotions", {"release": "1.1.0"})
    assert reached.wait(300)
    move = api.client.get(asked.headers["location"]).json()["move"]
    stop = api.post("/aborts", {"move": move})
    go_on.set()
    assert api.client.get(stop.headers["location"] + "?wait=60").json()["state"] == "succeeded"
    assert api.client.get(asked.headers["location"] + "?wait=60").json()["state"] == "failed"


def test_an_abort_stops_no_move_that_began_after_it_was_allowed(api) -> None:
    """Between the request and its turn one move may end and another begin; the service looks again."""
    reached, go_on = _hold(api)
    api.post("/promotions", {"release": "1.1.0"})
    assert reached.wait(300)
    with pytest.raises(BusyError, match="is not under way"):
        abort(api.control, model="walker", move="0" * 16)
    go_on.set()
    api.api.operations.close(timeout_s=300)
    assert api.world.named() == "1.1.0"


def test_a_promotion_may_name_the_incumbent_that_it_was_decided_against(api) -> None:
    """Refused at once where the alias names another; and under the lock, where it is moved while the request waits."""
    stale = api.post("/promotions", {"release": "1.1.0", "incumbent": "1.1.0"})
    assert (stale.status_code, stale.json()["code"], "retry-after" in stale.headers) == (409, "moved", False)
    assert "production of walker names 1.0.0, and not 1.1.0; the last move was" in stale.json()["problem"]
    assert "the promotion of walker's production from nothing to 1.0.0 by " in stale.json()["problem"]
    reached, go_on = _hold(api)
    first, second = (
        api.post("/promotions", {"release": "1.1.0", "incumbent": "1.0.0", "lock_wait_s": 60}) for _ in range(2)
    )
    assert reached.wait(300)
    go_on.set()
    ended = [api.client.get(each.headers["location"] + "?wait=60").json() for each in (first, second)]
    assert sorted(each["state"] for each in ended) == ["failed", "succeeded"]
    (lost,) = (each["error"] for each in ended if each["error"])
    assert (lost["code"], "names 1.1.0, and not 1.0.0" in lost["problem"]) == ("moved", True)


@pytest.mark.parametrize("incumbent", ["9.9.9", "production"])
def test_an_incumbent_that_is_no_release_of_the_model_is_wrong_usage(api, incumbent: str) -> None:
    """Nobody moved anything: no wait and no second look makes it right."""
    for path, body in (("/promotions", {"release": "1.1.0"}), ("/rollbacks", {"to": "1.0.0"})):
        wrong = api.post(path, {**body, "incumbent": incumbent})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "usage")
        assert incumbent in wrong.json()["problem"]


def test_a_rollback_may_name_the_incumbent_that_it_was_decided_against(api) -> None:
    """Somebody promotes a fix while another person decides to go back: the fix stays."""
    api.world.publish("1.2.0", 3)
    for release in ("1.1.0", "1.2.0"):
        api.post("/promotions?wait=60", {"release": release})
    stale = api.post("/rollbacks", {"to": "1.0.0", "incumbent": "1.1.0"})
    assert (stale.status_code, stale.json()["code"]) == (409, "moved")
    reached, go_on = _hold(api)
    first = api.post("/promotions", {"release": "1.1.0"})
    assert reached.wait(300)
    late = api.post("/rollbacks", {"to": "1.0.0", "incumbent": "1.2.0", "lock_wait_s": 60})
    go_on.set()
    assert api.client.get(first.headers["location"] + "?wait=60").json()["state"] == "succeeded"
    lost = api.client.get(late.headers["location"] + "?wait=60").json()
    assert (lost["state"], lost["error"]["code"], api.world.named()) == ("failed", "moved", "1.1.0")
    done = api.post("/rollbacks?wait=60", {"to": "1.0.0", "incumbent": "1.1.0"})
    assert (done.status_code, api.world.named()) == (200, "1.0.0")


@pytest.mark.parametrize("queued", ["1.1.0", "1.2.0"])
def test_an_abort_says_how_its_own_move_ended_while_the_next_one_loads(api, queued: str) -> None:
    """The next holder of the lock neither holds the answer up, nor is its release taken for that of the move."""
    api.world.publish("1.2.0", 3)
    reached, go_on = ([threading.Event(), threading.Event()] for _ in range(2))
    loads = iter(range(2))

    def pause(call: str) -> None:
        if call == "load walker.candidate":
            nth = next(loads)
            reached[nth].set()
            go_on[nth].wait(300)

    api.world.server.before_call = pause
    first = api.post("/promotions", {"release": "1.1.0"})
    assert reached[0].wait(300)
    second = api.post("/promotions", {"release": queued, "lock_wait_s": 60})
    stop = api.post("/aborts", {"move": api.client.get(first.headers["location"]).json()["move"]})
    go_on[0].set()
    try:
        assert reached[1].wait(300)
        stopped = api.client.get(stop.headers["location"] + "?wait=60").json()
        assert (stopped["state"], stopped["words"][:23]) == ("succeeded", "Aborted: the promotion ")
        failed = api.client.get(first.headers["location"] + "?wait=60").json()
        assert (failed["error"]["code"], "was aborted" in failed["error"]["problem"]) == ("move", True)
    finally:
        go_on[1].set()
    assert api.client.get(second.headers["location"] + "?wait=60").json()["state"] == "succeeded"


def test_promotions_never_take_the_place_of_a_rollback(world) -> None:
    """As many promotions as may be are under way, one more is refused (429); a rollback is not."""
    api = ApiWorld(world, max_operations=1)
    api.post("/promotions?wait=60", {"release": "1.1.0"})
    reached, go_on = _hold(api)
    api.post("/promotions", {"release": "1.0.0", "lock_wait_s": 60})
    assert reached.wait(300)
    more = api.post("/promotions", {"release": "1.1.0"})
    assert (more.status_code, more.json()["code"], "retry-after" in more.headers) == (429, "busy", True)
    back = api.post("/rollbacks", {"lock_wait_s": 60})
    assert back.status_code == 202
    with pytest.raises(LimitError, match="rollbacks and aborts"):
        api.api.operations.submit(AliasRequest("walker", AbortRequest()), caller="x")
    go_on.set()
    api.api.operations.close(timeout_s=300)


def test_another_writer_is_told_as_busy(api) -> None:
    """409 with exit code 5, as the command line; `lock_wait_s` says how long to wait."""
    with api.world.control.repository.writer("something else"):
        found = api.post("/promotions?wait=60", {"release": "1.1.0", "lock_wait_s": 0})
    assert (found.status_code, found.json()["exit_code"], found.json()["code"]) == (409, 5, "busy")
    assert "something else" in found.json()["problem"]


def test_only_an_admin_promotes_past_the_gates_of_the_settings(api, monkeypatch) -> None:
    """A promoter may ask for more gates, never for fewer."""
    gates = api.control.settings.gates.model_copy(update={"promote_with": ("service_level",)})
    api.control.settings = api.control.settings.model_copy(update={"gates": gates})
    refused = api.post("/promotions", {"release": "1.1.0", "gates": []})
    assert (refused.status_code, "service_level" in refused.json()["problem"]) == (403, True)
    more = {"release": "1.1.0", "gates": ["service_level", "non_inferiority"], "dry_run": True}
    assert api.post("/promotions", more).status_code == 200
    assert api.post("/promotions?wait=60", {"release": "1.1.0", "gates": []}, scope="admin").status_code == 200


def test_operations_are_kept_for_a_bounded_time_and_number(world) -> None:
    """The oldest that are over go first, with their keys; none that runs goes."""
    api = ApiWorld(world, keep_operations=8, keep_hours=24.0)
    asked = AliasRequest("walker", PromotionRequest(release="1.0.0"))
    names = []
    for number in range(12):
        submitted = api.api.operations.submit(asked, caller="ci", key=f"k{number}")
        names.append(submitted.operation.id)
        api.api.operations.close(timeout_s=300)
    kept = [o.id for o in api.api.operations.recent(model=None, limit=1000)]
    assert kept == names[:-9:-1]
    files = {p.stem for p in (world.root / ".policyctl" / "api" / "operations").iterdir()}
    assert files == set(kept)
    assert api.api.operations.submit(asked, caller="ci", key="k0").replayed is False
    api.api.operations.close(timeout_s=300)
    quick = ApiWorld(world, tokens=False, keep_hours=1e-9)
    quick.api.operations.submit(asked, caller="ci")
    assert len(quick.api.operations.recent(model=None, limit=1000)) == 1


def test_a_full_disk_begins_nothing(api, monkeypatch) -> None:
    """An operation that cannot be kept is not begun: the same request would not be found again."""
    from policyctl.adapters.repository import Repository
    from policyctl.errors import UsageError

    def refuse(*_args, **_more):
        raise UsageError("no space left", remedy="df")

    monkeypatch.setattr(Repository, "write", refuse)
    found = api.post("/promotions?wait=60", {"release": "1.1.0"})
    assert (found.status_code, found.json()["problem"]) == (422, "no space left")
    assert api.intents() == 1


def test_nothing_is_told_of_a_move_that_has_no_name(api) -> None:
    """Records that belong to no move are nobody's progress."""
    records = api.world.control.repository.journal.records()
    assert move_progress(records, "").move is None
    assert move_progress(records, "unknown").move is None
    assert {s.value for s in Scope} == {"read", "promote", "admin"}


def test_a_breaking_release_is_promoted_only_when_the_request_says_so(api) -> None:
    """409 with the differences; with ``breaking`` its plan and its result show them."""
    api.world.publish("2.0.0", 3, contract=WIDER)
    for asked in ({"release": "2.0.0", "dry_run": True}, {"release": "2.0.0"}):
        refused = api.post("/promotions?wait=60", asked)
        assert (refused.status_code, refused.json()["code"]) == (409, "gate")
        assert "had shape (3,), has (4,)" in refused.json()["problem"]
    assert api.world.named() == "1.0.0"
    plan = api.post("/promotions", {"release": "2.0.0", "dry_run": True, "breaking": True})
    done = api.post("/promotions?wait=60", {"release": "2.0.0", "breaking": True})
    assert plan.json()["result"]["differences"] == done.json()["result"]["differences"] != []
    back = api.post("/rollbacks?wait=60", {})
    assert (back.status_code, back.json()["result"]["breaking"]) == (200, True)
    assert api.world.named() == "1.0.0"
