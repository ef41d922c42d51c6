"""Who is let in, for what, how often, and with how much."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from api_world import WALKER, ApiWorld
from hypothesis import given
from hypothesis import strategies as st

from policyctl.api.guard import is_loopback
from policyctl.api.meters import Buckets
from policyctl.api.server import serve
from policyctl.domain.choices import Anonymous
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.tokens import Scope, Token, digest_of_secret, find, fresh_secret
from policyctl.errors import UsageError
from policyctl.services.trust.tokens import create, revoke
from policyctl.settings import source

READS = ("/healthz", "/v1/status", "/v1/models", WALKER, f"{WALKER}/releases", "/v1/history", "/v1/operations")
ADMIN = ("/v1/audit", "/v1/tokens")


def token(secret: str, **more) -> Token:
    """A token of that secret."""
    return Token("n", Scope.READ, digest_of_secret(secret), secret[-4:], datetime.now(UTC), "me", **more)


def test_a_scope_allows_what_those_before_it_allow() -> None:
    """read < promote < admin."""
    order = tuple(Scope)
    assert [[a.allows(b) for b in order] for a in order] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@given(st.integers(0, 5), st.text(max_size=60))
def test_a_secret_finds_its_own_token_and_no_other_text_finds_one(which: int, text: str) -> None:
    """What is stored is enough to know a secret again, and nothing else is taken for one."""
    secrets = [fresh_secret() for _ in range(6)]
    tokens = [token(s) for s in secrets]
    assert find(tokens, secrets[which]) is tokens[which]
    for other in (text, secrets[which] + "=", secrets[which][:-1], tokens[which].digest, fresh_secret()):
        assert find(tokens, other) is None
    assert from_json(Token, json.loads(json.dumps(to_json(tokens[which]))), what="it") == tokens[which]


def test_no_secret_is_stored_and_the_file_is_its_owners_alone(api) -> None:
    """A reader of the file learns no token."""
    path = api.world.root / ".policyctl" / "tokens.json"
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(secret in text or secret.removeprefix("policyctl_") in text for secret in api.secrets.values())


def test_callers_of_this_machine_may_look_and_nothing_else(api) -> None:
    """Without a token everything can be read, nothing changed, and neither audit nor tokens seen."""
    assert {api.client.get(path).status_code for path in READS} == {200}
    assert {api.client.get(path).status_code for path in ADMIN} == {403}
    refused = api.client.post(f"{WALKER}/rollbacks", json={})
    assert (refused.status_code, refused.json()["exit_code"]) == (403, 2)
    assert "policyctl token create" in refused.json()["remedy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        *(
            {"Host": host}
            for host in (
                "127.0.0.1.evil.example:8004",
                "localhost:evil.com",
                "localhost.",
                "localhost.evil.com",
                "evil.com@localhost",
                "localhost:80@evil.com",
                "localhost:",
                "[::1]:evil.com",
                "[::1].evil.com",
                "::1",
                "[::1%eth0]",
                "[::ffff:10.0.0.1]",
                "0.0.0.0",
                "10.0.0.1:8004",
                "127.1",
                "2130706433",
                "",
            )
        ),
        *(
            {name: "127.0.0.1"}
            for name in (
                "X-Forwarded-For",
                "X-Forwarded-Host",
                "X-Forwarded-Proto",
                "X-Forwarded-Port",
                "X-Forwarded-Server",
                "X-Forwarded-Prefix",
                "X-Forwarded",
                "X_Forwarded_For",
                "X-Original-Host",
                "X-Real-IP",
                "X-Client-IP",
                "True-Client-IP",
                "CF-Connecting-IP",
                "CDN-Loop",
                "Forwarded",
                "Via",
            )
        ),
    ],
)
def test_what_came_by_another_name_or_through_a_proxy_needs_a_token(api, headers) -> None:
    """A page that had its name moved here, and what a proxy lets through, are not callers of this machine."""
    for path in ("/v1/models", "/metrics"):
        assert api.client.get(path, headers=headers).status_code == 401
        assert api.client.get(path, headers={**headers, **api.headers("read")}).status_code == 200


def test_what_came_through_a_proxy_needs_a_token_wherever_it_asks(api) -> None:
    """No path is open to it."""
    for path in (*READS, "/metrics"):
        assert api.client.get(path, headers={"Via": "127.0.0.1"}).status_code == 401
        assert api.client.get(path, headers={"Via": "127.0.0.1", **api.headers("read")}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8004", "127.8.9.1", "[::1]", "[::1]:8004"])
def test_the_names_of_this_machine_need_no_token(api, host: str) -> None:
    """Whatever port a tunnel gave it."""
    assert api.client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_of_two_tokens_none_counts(api) -> None:
    """A proxy may have gone by the other one."""
    both = [("Authorization", api.headers(scope)["Authorization"]) for scope in ("admin", "read")]
    assert api.client.get("/v1/audit", headers=both).status_code == 401


def test_without_a_token_only_the_probes_answer_where_others_can_reach_it(world) -> None:
    """/livez and /readyz say one word to anybody; everything else asks who it is."""
    api = ApiWorld(world, local=False)
    assert {api.client.get(path).status_code for path in ("/livez", "/readyz")} == {200}
    for path in (*READS, *ADMIN, "/metrics"):
        found = api.client.get(path)
        assert (found.status_code, found.headers["www-authenticate"][:6]) == (401, "Bearer"), path
        assert api.client.get(path, headers=api.headers("admin")).status_code == 200


def test_a_setting_closes_looking_too(world) -> None:
    """With `anonymous: none` nobody looks without a token; the counts of this machine stay open to its Prometheus."""
    api = ApiWorld(world, anonymous="none")
    assert {api.client.get(path).status_code for path in READS} == {401}
    assert api.client.get("/metrics").status_code == 200


def test_each_scope_gets_just_what_is_its_own(api) -> None:
    """A reader moves nothing, a promoter sees no audit, an admin may do it all."""
    asked = {"release": "1.1.0", "dry_run": True}
    assert [api.post("/promotions", asked, scope=s).status_code for s in Scope] == [403, 200, 200]
    assert [api.client.get("/v1/audit", headers=api.headers(s)).status_code for s in Scope] == [403, 403, 200]


@pytest.mark.parametrize(
    "header", ["Bearer nonsense", "Basic dXNlcjpwYXNz", "Bearer ", "policyctl_x", "Bearer " + "é" * 9]
)
def test_a_token_that_is_none_is_refused_also_where_none_is_needed(api, header) -> None:
    """Nobody believes to act under a name that does not count."""
    found = api.client.get("/v1/models", headers={"Authorization": header.encode()})
    assert (found.status_code, found.json()["type"]) == (401, "urn:policyctl:problem:unauthorized")


def test_a_token_counts_no_more_once_it_is_revoked_or_over(api) -> None:
    """From the very next call on, without a restart."""
    gone = create(api.control, name="gone", scope=Scope.READ)
    over = create(api.control, name="over", scope=Scope.READ, days=1e-9)
    bearer = {"Authorization": f"Bearer {gone.secret}"}
    assert api.client.get("/v1/models", headers=bearer).status_code == 200
    revoke(api.control, name="gone")
    found = api.client.get("/v1/models", headers=bearer)
    assert (found.status_code, found.json()["problem"]) == (401, "the token is revoked")
    found = api.client.get("/v1/models", headers={"Authorization": f"Bearer {over.secret}"})
    assert (found.status_code, found.json()["problem"]) == (401, "the token is expired")
    with pytest.raises(UsageError, match="already"):
        create(api.control, name="gone", scope=Scope.ADMIN)
    assert token("x", expires=datetime.now(UTC) + timedelta(days=1)).state(datetime.now(UTC)) == "good"


def test_an_admin_can_revoke_by_http(api) -> None:
    """In an incident nobody has to find the machine; the answer holds no digest."""
    found = api.client.delete("/v1/tokens/my-read", headers=api.headers("admin"))
    assert (found.status_code, found.json()["state"]) == (200, "revoked")
    assert api.client.get("/v1/models", headers=api.headers("read")).status_code == 401
    listed = api.client.get("/v1/tokens", headers=api.headers("admin")).json()
    assert (listed[0]["name"], listed[0]["state"]) == ("my-read", "revoked")
    assert not any("digest" in t for t in listed)
    assert api.client.delete("/v1/tokens/nobody", headers=api.headers("admin")).status_code == 404


@pytest.mark.parametrize("damage", ["mode", "text", "schema"])
def test_tokens_that_cannot_be_trusted_let_nobody_in(api, damage) -> None:
    """A file that others can read, or that holds no tokens, closes the door, and only the log says why."""
    path = api.world.root / ".policyctl" / "tokens.json"
    if damage == "mode":
        path.chmod(0o644)
    else:
        path.write_text("{" if damage == "text" else '{"schema": 2, "tokens": []}')
    found = api.client.get("/v1/models", headers=api.headers("admin"))
    assert (found.status_code, found.json()["code"]) == (503, "server")
    assert str(path) not in found.text
    assert any(str(path) in line for line in api.said)


def test_another_address_is_refused_without_a_token(world) -> None:
    """Nothing listens where others could come and all would look alike."""
    api = ApiWorld(world, tokens=False, host="0.0.0.0", port=0)
    with pytest.raises(UsageError, match=r"api.host 0\.0\.0\.0 can be reached from elsewhere") as refused:
        serve(api.control, source().read())
    assert "TLS" in refused.value.remedy
    assert [
        is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "h")
    ] == [True] * 4 + [False] * 4


def test_a_request_that_is_too_large_is_refused_however_it_says_its_size(api) -> None:
    """By its length, or by counting where it comes in parts."""
    headers = {**api.headers("promote"), "Content-Type": "application/json"}
    whole = api.client.post(f"{WALKER}/rollbacks", content=b" " * 70_000, headers=headers)
    parts = api.client.post(f"{WALKER}/rollbacks", content=iter([b" " * 9_000] * 9), headers=headers)
    assert [(r.status_code, r.json()["title"]) for r in (whole, parts)] == [(413, "Too large")] * 2


def test_who_asks_too_often_waits_and_nobody_else(world) -> None:
    """A token has one rate for looking and one for changing; nobody waits for another."""
    api = ApiWorld(world, reads_per_s=0.5, changes_per_minute=2)
    looks = [api.client.get("/v1/models", headers=api.headers("read")) for _ in range(3)]
    assert [r.status_code for r in looks] == [200, 429, 429]
    assert 1 <= int(looks[-1].headers["retry-after"]) <= 2
    assert looks[-1].json()["code"] == "busy"
    assert api.client.get("/v1/models", headers=api.headers("admin")).status_code == 200
    asked = {"release": "1.1.0", "dry_run": True}
    assert [api.post("/promotions", asked).status_code for _ in range(3)] == [200, 200, 429]
    assert [api.client.get("/livez").status_code for _ in range(9)] == [200] * 9


def test_guessing_tokens_is_slowed_down(api) -> None:
    """An address that shows many unknown ones has to wait; a good token from there (a proxy's, say) is not."""
    codes = [api.client.get("/v1/models", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(40)]
    assert (codes[0], codes[-1]) == (401, 429)
    assert api.client.get("/v1/models", headers=api.headers("read")).status_code == 200


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60))
def test_nobody_gets_more_than_the_burst_and_the_rate_allow(calls) -> None:
    """In any span of time, whatever the pauses between calls; and a refusal says rightly when to come."""
    now = [0.0]
    buckets, given_ = Buckets(lambda: (2.0, 3.0), clock=lambda: now[0]), {"a": [], "b": []}
    for who, pause in calls:
        now[0] += pause
        wait_s = buckets.take(who)
        if not wait_s:
            given_[who].append(now[0])
        else:
            assert 0 < wait_s <= 0.5 + 1e-9
    for times in given_.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= 3 + 2.0 * (times[last] - times[first]) + 1e-6


def test_every_answer_has_the_headers_of_one_and_never_a_trace(api, monkeypatch) -> None:
    """Also where something breaks that nobody thought of: the log has the trace, the answer an id to find it by."""

    def breaks(*_args, **_more):
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("policyctl.api.routes.look.service.status", breaks)
    found = api.client.get("/v1/status", headers={"X-Request-Id": "mine-7"})
    assert (found.status_code, found.json()["exit_code"], found.json()["request_id"]) == (500, 1, "mine-7")
    assert "secret of the house" not in found.text
    assert "Traceback" not in found.text
    assert any("mine-7" in line and "secret of the house" in line for line in api.said)
    for answer in (found, api.client.get("/livez"), api.client.get("/nothing"), api.client.put(f"{WALKER}/rollbacks")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert found.headers["x-request-id"] == "mine-7"
    assert api.client.get("/livez", headers={"X-Request-Id": "a b\t"}).headers["x-request-id"] != "a b\t"


def test_the_audit_tells_every_call_that_would_change_something(api) -> None:
    """Who, from where, what and how it ended; also what was refused, and by whom nobody knows."""
    done = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k").json()
    api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k")
    api.client.post(f"{WALKER}/rollbacks", json={})
    api.client.delete("/v1/tokens/my-read", headers={"Authorization": "Bearer x"})
    api.client.get("/v1/models")
    lines = api.client.get("/v1/audit", headers=api.headers("admin")).json()
    asked = [
        (e["who"], e["method"], e["status"], e["operation"], e["replayed"]) for e in lines if e["event"] == "asked"
    ]
    assert asked == [
        ("my-promote", "POST", 200, done["id"], False),
        ("my-promote", "POST", 200, done["id"], True),
        ("anonymous", "POST", 403, None, False),
        (None, "DELETE", 401, None, False),
    ]
    (ended,) = [e for e in lines if e["event"] == "ended"]
    assert (ended["who"], ended["operation"], ended["outcome"]) == ("my-promote", done["id"], "succeeded")
    path = api.world.root / ".policyctl" / "api" / "audit.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_audit_is_bounded(world) -> None:
    """A full file takes the place of the one before it; nobody can fill the disk by being refused."""
    from policyctl.adapters.audit import Audit

    audit = Audit(world.control.repository, most_bytes=1000)
    for number in range(200):
        audit.append({"number": number})
    folder = audit.path.parent
    assert sum(p.stat().st_size for p in folder.glob("audit*")) <= 2000
    assert [e["number"] for e in audit.last(30)] == list(range(170, 200))
    assert len(audit.last(1000)) < 200


def test_settings_can_be_changed_while_it_runs(api) -> None:
    """What may be seen, and how often, goes by the new ones from the next call on; operations stay known."""
    done = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k").json()
    changed = api.control.settings.api.model_copy(update={"anonymous": Anonymous.NONE, "reads_per_s": 0.5})
    api.control.settings = api.control.settings.model_copy(update={"api": changed})
    assert api.client.get("/v1/models").status_code == 401
    codes = [api.client.get("/v1/models", headers=api.headers("read")).status_code for _ in range(3)]
    assert codes == [200, 429, 429]
    assert api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k").json() == done
