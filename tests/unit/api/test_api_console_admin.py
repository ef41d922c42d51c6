"""The pages of an administrator: tokens, the audit and settings; nobody else sees them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest
from api_world import ApiWorld
from console_browser import HERE, MODEL, Browser

from policyctl.api.console import admin
from policyctl.domain.tokens import Scope
from policyctl.services import running
from policyctl.services.settings.explained import explain

PAGES = ("/ui/tokens", "/ui/audit", "/ui/settings")


def _text(page: Any) -> str:
    """What people read of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


@pytest.mark.parametrize("scope", ["", "read", "promote"])
def test_only_an_administrator_sees_them(api, scope: str) -> None:
    """No page leads others there, the pages refuse them, and no form of theirs revokes a token."""
    browser = Browser(api, scope)
    assert not set(PAGES) & set(re.findall(r'href="([^"]+)"', browser.get("/ui").text))
    for path in PAGES:
        page = browser.get(path)
        assert (page.status_code, "needs scope admin" in page.text) == (403, True)
    if scope:
        assert browser.send("/ui/tokens/my-read/revoke").status_code == 403
    assert all(token.revoked is None for token in api.api.tokens.read())


def test_an_administrator_is_led_to_them(api) -> None:
    """From every page."""
    browser = Browser(api, "admin")
    assert set(PAGES) <= set(re.findall(r'href="([^"]+)"', browser.get(MODEL).text))
    assert {browser.get(path).status_code for path in PAGES} == {200}


def test_tokens_are_shown_without_their_secrets_and_revoked_at_once(api) -> None:
    """Two clicks; the next call of that token is refused, and the page says who created it and when it ended."""
    browser = Browser(api, "admin")
    page = browser.get("/ui/tokens")
    assert not any(secret in page.text for secret in api.secrets.values())
    assert all(token.digest not in page.text for token in api.api.tokens.read())
    assert all(f"…{secret[-4:]}" in page.text for secret in api.secrets.values())
    forms = re.findall(r"<details[^>]*>(.*?)</details>", page.text, re.DOTALL)
    assert ["you are signed out" in form for form in forms] == ["my-admin" in form for form in forms]
    page = browser.send("/ui/tokens/my-promote/revoke")
    assert page.url.path == "/ui/tokens"
    row = next(row for row in page.text.split("<tr>") if "my-promote" in row)
    assert (">revoked<" in row, "<form" in row, str(datetime.now(UTC).year) in row) == (True, False, True)
    answer = api.client.get("/v1/status", headers=api.headers("promote"))
    assert answer.status_code == 401
    assert browser.send("/ui/tokens/nobody/revoke").status_code == 404


def test_who_revokes_the_own_token_is_signed_out(api) -> None:
    """The answer is the page that asks for one."""
    browser = Browser(api, "admin")
    page = browser.send("/ui/tokens/my-admin/revoke")
    assert (page.status_code, "The token is revoked." in page.text) == (401, True)


def test_the_audit_is_searched_by_token_and_by_outcome(api) -> None:
    """The last line first; a line leads to its operation, and earlier lines are a page further."""
    api.post("/rollbacks", {"to": "9.9.9"})
    api.post("/promotions?wait=60", {"release": "1.1.0"})
    api.client.post("/v1/models/walker/rollbacks", json={}, headers=api.headers("read"))
    browser = Browser(api, "admin")
    every = browser.get("/ui/audit")
    rows = [_row for _row in every.text.split("<tr>") if 'data-name="Who"' in _row]
    whos = [re.findall(r'data-name="Who">([^<]+)<', row)[0] for row in rows]
    assert whos == ["my-admin", "my-read", "my-promote", "my-promote", "my-promote"]
    assert "end of the promotion of walker production succeeded" in _text(every)
    (link,) = set(re.findall(r'href="(/ui/operations/[^"]+)"', every.text))
    assert browser.get(link).status_code == 200
    assert "my-read" not in browser.get("/ui/audit?who=my-promote").text.split("<tbody>")[1]
    refused = browser.get("/ui/audit?who=&failed=true").text
    assert re.findall(r'data-name="Who">([^<]+)<', refused) == ["my-read", "my-promote"]
    assert re.findall(r'class="chip bad">(\d+)<', refused) == ["403", "422"]
    path, seen = "/ui/audit?limit=2", list[str]()
    while path:
        page = browser.get(unescape(path)).text
        seen += re.findall(r'data-name="Who">([^<]+)<', page)
        (path,) = re.findall(r'href="([^"]+)">Earlier<', page) or [""]
    assert seen == whos
    assert "No line matches." in browser.get("/ui/audit?who=nobody").text


def test_settings_are_what_config_show_says(world) -> None:
    """Each with its value and where that comes from; no secret is shown."""
    api = ApiWorld(world, reads_per_s=77.0, token="policyctl_secret-of-somebody")
    browser = Browser(api, "admin")
    page = browser.get("/ui/settings")
    assert "policyctl_secret-of-somebody" not in page.text
    cells = "".join(rf'</td><td data-name="{name}" class="any">([^<]*)' for name in ("Value", "From"))
    rows = re.findall(rf"<code>([\w.]+)</code>{cells}<", page.text)
    said = {each.key.name: (unescape(admin._text(each.value)), each.place) for each in explain(api.api.reading())}
    assert {name: (unescape(value), place) for name, value, place in rows} == said
    assert said["api.reads_per_s"] == ("77.0", "command line")
    changed = browser.get("/ui/settings?changed=true").text
    assert "api.reads_per_s" in changed
    assert "api.changes_per_minute" not in changed
    document = api.client.get("/v1/settings", headers=api.headers("admin")).json()
    assert {each["key"]: each["from"] for each in document} == {name: place for name, (_, place) in said.items()}


def test_what_the_server_is_set_to_otherwise_stands_first(api, monkeypatch) -> None:
    """With where that was set; what is the same is not repeated."""
    server = SimpleNamespace(settings={"lock_wait_s": 9.0, "drain_s": 30.0}, places={"lock_wait_s": "policyctl.yaml:3"})
    monkeypatch.setattr(running, "read", lambda _repository: server)
    page = Browser(api, "admin").get("/ui/settings").text
    first = page[page.index("The server is set otherwise") : page.index("<h2>Settings")]
    assert re.findall(r"<code>([\w.]+)</code>", first) == ["lock_wait_s"]
    assert "9.0" in first
    assert "policyctl.yaml:3" in first


def test_a_form_of_a_revocation_counts_only_from_its_own_page(api) -> None:
    """As every form: the secret of the session, and the origin."""
    browser = Browser(api, "admin")
    for data, origin in (({}, HERE), ({"csrf": browser.secret}, "https://evil.example")):
        answer = browser.client.post("/ui/tokens/my-read/revoke", data=data, headers={"Origin": origin})
        assert answer.status_code == 403
    assert api.client.get("/v1/status", headers=api.headers(Scope.READ)).status_code == 200
