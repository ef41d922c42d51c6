"""The console at /ui: who sees it, which forms count, what a browser may do with it, and what its pages say."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from api_world import WALKER, ApiWorld
from console_browser import HERE, MODEL, Browser, confirming
from starlette.testclient import TestClient
from world import WIDER, World

from policyctl.adapters import endpoint
from policyctl.api.console import actions, admin, looks, view
from policyctl.api.context import MOST_AT_ONCE
from policyctl.api.sessions import LIFE_S, MOST_OF_A_TOKEN, Sessions
from policyctl.domain import timeline, versions
from policyctl.domain.fold import fold
from policyctl.domain.state import PublishedRelease, State
from policyctl.domain.tokens import Scope
from policyctl.services.cards.full_card import full
from policyctl.services.rollout.promote import promote
from policyctl.services.trust.tokens import revoke

PAGES = (
    *("/ui", MODEL, f"{MODEL}/releases/1.0.0", f"{MODEL}/compare?one=1.0.0&other=1.1.0"),
    *("/ui/history", "/ui/at", "/ui/at?when=2026-11-20T10:00&model=walker"),
)
HOSTILE = """"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"""


def test_on_this_machine_everybody_may_look_and_nobody_changes_anything(api) -> None:
    """As the API lets callers without a token look: pages have no form that changes something, and no form counts."""
    browser = Browser(api)
    for path in PAGES:
        page = browser.get(path)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8"), path
        assert 'method="post"' not in page.text
        assert "Sign in" in page.text
    for path in ("promote", "rollback", "abort"):
        assert browser.client.post(f"{MODEL}/{path}", data={}, headers={"Origin": HERE}).status_code == 403
    assert api.intents() == 1


def test_from_elsewhere_every_page_asks_for_a_token(world) -> None:
    """Only what pages load is open: it says nothing of the repository."""
    browser = Browser(ApiWorld(world, local=False))
    for path in PAGES:
        page = browser.get(path)
        assert page.status_code == 401
        assert "walker" not in re.sub(r'name="after" value="[^"]*"', "", page.text)
        assert unescape(page.text).count(f'name="after" value="{path}"') == 1
    assert {browser.get(f"/ui/{name}").status_code for name in view.ASSETS} == {200}
    assert browser.get("/ui/base.html").status_code == 401
    assert browser.sign_in(browser.api.secrets[Scope.READ]).status_code == 303
    assert {browser.get(path).status_code for path in PAGES} == {200}


def test_the_setting_that_closes_looking_closes_the_console(world) -> None:
    """`api.anonymous: none` holds here too."""
    browser = Browser(ApiWorld(world, anonymous="none"))
    assert {browser.get(path).status_code for path in PAGES} == {401}


def test_a_session_is_a_cookie_that_no_script_and_no_other_site_can_use(api) -> None:
    """It holds neither the token nor anything that follows from it, and goes to no other part of the API."""
    browser = Browser(api)
    secret = api.secrets[Scope.PROMOTE]
    answer = browser.sign_in(secret)
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(r"policyctl-8004=[\w-]{43}; HttpOnly; Path=/ui; SameSite=strict", cookie)
    assert secret not in cookie
    assert "Secure" in browser.sign_in(secret, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    assert api.client.post(f"{WALKER}/rollbacks", json={}).status_code == 403


def test_a_token_that_does_not_count_begins_no_session(api) -> None:
    """The page asks again, and leads where it would have led."""
    browser = Browser(api)
    sent = {"token": "policyctl_x", "after": "/ui/history"}
    answer = browser.client.post("/ui/sign-in", data=sent, headers={"Origin": HERE})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "The token is unknown." in answer.text
    assert 'name="after" value="/ui/history"' in answer.text
    assert [browser.sign_in("policyctl_x").status_code for _ in range(40)][-1] == 429


def test_signing_in_counts_as_a_change_of_its_token(world) -> None:
    """It has the rate of the API's changes, and needs one of the places of that caller."""
    browser = Browser(api := ApiWorld(world, changes_per_minute=2))
    assert [browser.sign_in(api.secrets[Scope.READ]).status_code for _ in range(3)] == [303, 303, 429]
    with contextlib.ExitStack() as places:
        for _ in range(MOST_AT_ONCE):
            places.enter_context(api.api.place("my-promote"))
        assert browser.sign_in(api.secrets[Scope.PROMOTE]).status_code == 429


def test_signing_in_again_ends_the_session_before(api) -> None:
    """A browser has one session; a copy of the earlier cookie opens nothing."""
    browser = Browser(api, "promote")
    earlier = browser.client.cookies["policyctl-8004"]
    assert browser.sign_in("policyctl_x").status_code == 401
    assert api.api.sessions.get(earlier) is not None
    assert browser.sign_in(api.secrets[Scope.READ]).status_code == 303
    assert api.api.sessions.get(earlier) is None


@pytest.mark.parametrize(
    "after", ["https://evil.example", "//evil.example", "/v1/audit", "/ui@evil.example", "/uix", "/ui/\\evil", ""]
)
def test_signing_in_leads_nowhere_but_to_the_console(api, after: str) -> None:
    """Whatever a link to the page says."""
    data = {"token": api.secrets[Scope.READ], "after": after}
    answer = api.client.post("/ui/sign-in", data=data, headers={"Origin": HERE}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui")
    assert 'name="after" value="/ui"' in api.client.get("/ui/sign-in", params={"after": after}).text


def test_a_revoked_token_ends_its_session_at_once(api) -> None:
    """The next page asks for a token and says why; after that the browser is nobody."""
    browser = Browser(api, "promote")
    revoke(api.control, name="my-promote")
    page = browser.get(MODEL)
    assert (page.status_code, "The token is revoked." in page.text) == (401, True)
    assert "looking only" in browser.get(MODEL).text


def test_signing_out_ends_the_session_also_for_who_copied_its_cookie(api) -> None:
    """The name of an ended session opens nothing."""
    browser = Browser(api, "promote")
    copied = browser.client.cookies["policyctl-8004"]
    assert browser.send("/ui/sign-out").url.path == "/ui"
    browser.client.cookies.set("policyctl-8004", copied, path="/ui")
    assert "looking only" in browser.get("/ui").text


def test_sessions_end_with_the_day_and_a_token_has_so_many() -> None:
    """Old ones go; nobody can fill the memory, nor end the sessions of another token."""
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    other = sessions.begin("sha256:other")
    mine = [sessions.begin("sha256:mine") for _ in range(MOST_OF_A_TOKEN + 3)]
    assert [sessions.get(each.name) is None for each in mine] == [True] * 3 + [False] * MOST_OF_A_TOKEN
    assert sessions.get(other.name) is other
    now[0] = LIFE_S
    assert sessions.get(other.name) is None


def _changing() -> list[str]:
    """Every address of the console that takes a form of a session."""
    routers = (actions.doors, actions.leaving, actions.changes, admin.router, looks.looks, looks.files)
    routes = [route for router in routers for route in router.routes]
    changing = [route.path for route in routes if route.methods - {"GET", "HEAD"}]
    return [path.format(model="walker", name="my-read") for path in changing if path != "/ui/sign-in"]


@pytest.mark.parametrize(
    "fault", ["no secret", "another secret", "another origin", "no origin", "null", "another port", "no address"]
)
def test_no_form_counts_that_no_page_of_this_session_sent(api, fault: str) -> None:
    """Whatever it would change; the cookie alone is not enough."""
    browser = Browser(api, "admin")
    other = api.api.sessions.begin("sha256:other").csrf
    secret = {"no secret": "", "another secret": other}.get(fault, browser.secret)
    origin = {
        "another origin": "https://evil.example",
        "no origin": "",
        "null": "null",
        "another port": "http://127.0.0.1:8005",
        "no address": "http://[",
    }.get(fault, HERE)
    addresses = _changing()
    assert len(addresses) == 5
    for path in addresses:
        data = {"csrf": secret, "release": "1.1.0", "alias": "production", "to": "1.1.0", "confirmed": "yes"}
        answer = browser.client.post(path, data=data, headers={"Origin": origin} if origin else {})
        assert (answer.status_code, "Not from this page" in answer.text) == (403, True), path
    assert api.intents() == 1
    assert all(token.revoked is None for token in api.api.tokens.read())
    assert (
        api.client.post("/ui/sign-in", data={"token": "x"}, headers={"Origin": "https://evil.example"}).status_code
        == 403
    )


def test_a_reader_is_shown_no_button_and_is_refused(api) -> None:
    """Scopes hold: the form is not there, and where it is sent all the same the API's guard says no."""
    browser = Browser(api, "read")
    page = browser.get(MODEL).text
    assert "Promote" not in page
    assert "rollback" not in page
    answer = browser.send(f"{MODEL}/promote", release="1.1.0", alias="production", confirmed="yes")
    assert (answer.status_code, "needs scope promote" in answer.text) == (403, True)
    assert api.intents() == 1


def test_a_promotion_is_shown_first_and_then_carried_out(api) -> None:
    """The plan changes nothing; confirmed, it leads to its operation, and the journal has who and why."""
    browser = Browser(api, "promote")
    asked = {"release": "1.1.0", "alias": "production", "reason": "better on stairs"}
    plan = browser.send(f"{MODEL}/promote", **asked)
    assert "promotion of walker&#39;s production from 1.0.0 to 1.1.0" in plan.text
    assert "certify: walker.candidate answers the golden set of 1.1.0" in plan.text
    assert api.intents() == 1
    done = browser.operation(begun := browser.send(f"{MODEL}/promote", **asked, confirmed="yes"))
    assert (done["state"], done["by"].partition("@")[0]) == ("succeeded", "token:my-promote")
    shown = browser.get(begun.url.path).text
    assert "1.0.0 -&gt; 1.1.0" in shown
    assert "data-live" not in shown
    history = browser.get("/ui/history?model=walker").text
    assert "better on stairs" in history
    assert "promotion of production, 1.0.0 to 1.1.0: done" in history


@pytest.mark.parametrize("typed", ["latest", "^1.0", "production"])
def test_what_is_confirmed_is_the_release_that_was_shown(api, typed: str) -> None:
    """Whatever was typed, the second button sends the number of the dry run, and its text and gates name that."""
    promote(api.world.control, model="walker", release="1.1.0", alias="production")
    page = Browser(api, "promote").send(f"{MODEL}/promote", release=typed, alias="staging").text
    confirming = page[page.index("What would happen") : page.index("Change it")]
    assert re.findall(r'name="release" value="([^"]*)"', confirming) == ["1.1.0"]
    assert "Promote 1.1.0 to staging</button>" in confirming
    assert "Gates of 1.1.0:" in confirming
    assert f'name="release" value="{typed}"' in page[page.index("Change it") :]


def test_a_promotion_that_others_overtook_is_refused_and_says_what_moved(api) -> None:
    """The page showed what follows for one incumbent; where the alias names another, nobody confirms that."""
    browser, world = Browser(api, "promote"), api.world
    asked = {"release": "1.1.0", "alias": "production", "reason": "better on stairs"}
    shown = confirming(browser.send(f"{MODEL}/promote", **asked).text)
    world.publish("1.2.0", 3)
    promote(world.control, model="walker", release="1.2.0", alias="production", reason="another one came first")
    refused = browser.send(f"{MODEL}/promote", **shown)
    assert (refused.status_code, world.named()) == (409, "1.2.0")
    text = unescape(refused.text)
    assert "production of walker names 1.2.0, and not 1.0.0" in text
    assert "the promotion of walker's production from 1.0.0 to 1.2.0 by " in text
    assert ">better on stairs</textarea>" in text
    again = confirming(browser.send(f"{MODEL}/promote", **asked).text)
    assert again["incumbent"] == "1.2.0"
    assert browser.operation(browser.send(f"{MODEL}/promote", **again))["state"] == "succeeded"


def test_a_first_promotion_is_overtaken_too(api) -> None:
    """Where the alias named nothing when the page was shown, it must name nothing still."""
    browser = Browser(api, "promote")
    asked = {"release": "1.1.0", "alias": "staging"}
    shown = confirming(browser.send(f"{MODEL}/promote", **asked).text)
    assert shown["incumbent"] == ""
    promote(api.world.control, model="walker", release="1.0.0", alias="staging")
    refused = browser.send(f"{MODEL}/promote", **shown)
    assert (refused.status_code, "staging of walker names 1.0.0, and no longer nothing" in refused.text) == (409, True)


def test_a_promotion_that_is_confirmed_twice_begins_once(api) -> None:
    """Who got no answer may press again: both clicks lead to the same operation."""
    browser = Browser(api, "promote")
    shown = confirming(browser.send(f"{MODEL}/promote", release="1.1.0", alias="production").text)
    first, second = (browser.send(f"{MODEL}/promote", **shown) for _ in range(2))
    assert first.url.path == second.url.path
    assert browser.operation(first)["state"] == "succeeded"
    assert browser.send(f"{MODEL}/promote", **shown).url.path == first.url.path
    assert api.intents() == 2


def test_a_token_that_is_revoked_before_the_second_click_begins_nothing(api) -> None:
    """The page asks for a token, says why, and the alias stays."""
    browser = Browser(api, "promote")
    page = browser.send(f"{MODEL}/promote", release="1.1.0", alias="production").text
    shown, secret = confirming(page), browser.secret
    revoke(api.control, name="my-promote")
    data = {"csrf": secret, **shown}
    refused = browser.client.post(f"{MODEL}/promote", data=data, headers={"Origin": HERE})
    assert (refused.status_code, "The token is revoked." in refused.text) == (401, True)
    assert api.intents() == 1


def test_what_cannot_be_promoted_is_refused_on_the_form_which_stays_filled_in(api) -> None:
    """The refusal and its remedy stand above what was typed."""
    api.world.publish("2.0.0", 3, contract=WIDER)
    browser = Browser(api, "promote")
    asked = {"release": "2.0.0", "alias": "production", "reason": "wider"}
    page = browser.send(f"{MODEL}/promote", **asked)
    assert page.status_code == 409
    assert 'value="2.0.0"' in page.text
    assert ">wider</textarea>" in page.text
    plan = browser.send(f"{MODEL}/promote", **asked, breaking="yes")
    assert (plan.status_code, "(needs major)" in plan.text) == (200, True)
    assert 'name="breaking" value="yes"' in plan.text
    assert browser.send(f"{MODEL}/promote", release="", alias="production").status_code == 422
    assert browser.send(f"{MODEL}/promote", release="9.9.9", alias="production").status_code == 422


def test_a_refusal_has_the_status_and_the_code_that_the_api_answers_with(api) -> None:
    """On the form of a promotion, on a page for itself, and of an operation that failed."""
    browser, asked = Browser(api, "promote"), {"release": "1.1.0", "alias": "production"}
    api.world.server.wrong_slots.add(("walker.candidate", 2))
    failed = browser.send(f"{MODEL}/promote", **asked, confirmed="yes")
    browser.operation(failed)
    assert "<code>move</code>" in browser.get(failed.url.path).text
    unknown = browser.send(f"{MODEL}/promote", release="9.9.9", alias="production")
    nothing = browser.send(f"{MODEL}/abort", move="0" * 16, after=MODEL)
    for page in (unknown, nothing, browser.get(f"{MODEL}/compare?one=1.0.0&other=9.9.9")):
        assert (page.status_code, "<code>usage</code>" in page.text) == (422, True)
    endpoint.clear(api.control.repository)
    down = browser.send(f"{MODEL}/promote", **asked)
    assert (down.status_code, "<code>server</code>" in down.text, down.headers["retry-after"]) == (503, True, "5")


def test_an_alias_goes_back_to_a_release_that_it_named(api) -> None:
    """One click opens the releases, the next one begins: the form holds all that a rollback needs."""
    promote(api.world.control, model="walker", release="1.1.0", alias="production")
    browser = Browser(api, "promote")
    (targets,) = re.findall(r'<details name="rollback">(.*?)</details>', browser.get(MODEL).text, re.DOTALL)
    assert re.findall(r'name="to" value="([^"]+)"', targets) == ["1.0.0"]
    done = browser.operation(browser.send(f"{MODEL}/rollback", alias="production", to="1.0.0", reason="slips"))
    assert (done["state"], done["result"]["to"]) == ("succeeded", "1.0.0")


def test_the_enter_key_in_the_reason_of_a_rollback_begins_nothing(api) -> None:
    """Browsers send a form when Enter is pressed in a field of one line; its only field to type in has several."""
    promote(api.world.control, model="walker", release="1.1.0", alias="production")
    (form,) = re.findall(rf'<form[^>]*"{MODEL}/rollback">(.*?)</form>', Browser(api, "promote").get(MODEL).text, re.S)
    assert '<textarea name="reason"' in form
    assert {kind or "text" for kind in re.findall(r'<input(?: type="(\w+)")?', form)} == {"hidden"}


def test_a_rollback_goes_back_only_from_the_release_that_its_page_showed(api) -> None:
    """Somebody promoted a fix since: nothing is moved, and the page says who."""
    api.world.publish("1.2.0", 3)
    promote(api.world.control, model="walker", release="1.1.0", alias="production")
    browser = Browser(api, "promote")
    (form,) = re.findall(rf'<form[^>]*"{MODEL}/rollback">(.*?)</form>', browser.get(MODEL).text, re.S)
    (shown,) = re.findall(r'name="incumbent" value="([^"]*)"', form)
    promote(api.world.control, model="walker", release="1.2.0", alias="production")
    refused = browser.send(f"{MODEL}/rollback", alias="production", to="1.0.0", incumbent=shown)
    assert (refused.status_code, "names 1.2.0, and not 1.1.0" in refused.text) == (409, True)
    assert api.world.named() == "1.2.0"


def test_an_abort_stops_only_the_move_that_its_page_showed(api) -> None:
    """A click on a page that is out of date is refused, and what moves now goes on."""
    reached, go_on = threading.Event(), threading.Event()

    def pause(call: str) -> None:
        if call == "load walker.candidate":
            reached.set()
            go_on.wait(300)

    api.world.server.before_call = pause
    browser = Browser(api, "promote")
    begun = browser.send(f"{MODEL}/promote", release="1.1.0", alias="production", confirmed="yes")
    assert reached.wait(300)
    try:
        pages = [browser.get(path).text for path in (MODEL, begun.url.path)]
        first, second = (re.findall(r'/abort">.*?name="move" value="(\w+)"', page) for page in pages)
        refused = browser.send(f"{MODEL}/abort", move="0" * 16, after=MODEL)
        unnamed = browser.send(f"{MODEL}/abort", after=MODEL)
        stopped = browser.send(f"{MODEL}/abort", move=first[0], after=begun.url.path)
    finally:
        go_on.set()
    assert first == second
    assert (refused.status_code, f"the move {'0' * 16} is not under way" in refused.text) == (409, True)
    assert "promotion of walker&#39;s production from 1.0.0 to 1.1.0 by token:my-promote@" in refused.text
    assert unnamed.status_code == 422
    assert stopped.status_code == 200
    assert (browser.operation(begun)["state"], api.world.named()) == ("failed", "1.0.0")


def test_an_abort_where_nothing_moves_is_refused_as_the_api_refuses_it(api) -> None:
    """Nothing happens, and the page says what to do."""
    answer = Browser(api, "promote").send(f"{MODEL}/abort", move="0" * 16, after=MODEL)
    assert (answer.status_code, "no move of walker is under way" in answer.text.lower()) == (422, True)


def test_what_people_write_never_becomes_a_part_of_a_page(api) -> None:
    """Reasons, names that are asked for, times and tokens, wherever a page repeats them."""
    promote(api.world.control, model="walker", release="1.1.0", alias="staging", reason=HOSTILE)
    browser = Browser(api, "promote")
    answers = [browser.get(path) for path in (*PAGES, "/ui/at?when=now")]
    answers += [browser.get("/ui/" + HOSTILE.replace("/", "%2F")), browser.get(f"/ui/models/{HOSTILE[:9]}")]
    answers += [browser.client.get("/ui/at", params={"when": HOSTILE[:60]})]
    answers += [browser.client.get(f"{MODEL}/promote", params={"release": HOSTILE, "alias": HOSTILE[:60]})]
    answers += [browser.client.get(f"{MODEL}/compare", params={"one": HOSTILE, "other": HOSTILE})]
    for more in ({}, {"confirmed": "yes"}):
        answers += [browser.send(f"{MODEL}/promote", release="1.1.0", alias="production", reason=HOSTILE, **more)]
        answers += [browser.send(f"{MODEL}/promote", release=HOSTILE, alias=HOSTILE, reason=HOSTILE, **more)]
    browser = Browser(api, "admin")
    answers += [browser.client.get("/ui/audit", params={"who": HOSTILE[:60]})]
    answers += [browser.get(path) for path in ("/ui/audit", "/ui/tokens", "/ui/settings")]
    assert sum(HOSTILE in unescape(answer.text) for answer in answers) >= 7
    for answer in answers:
        assert "<script>" not in answer.text
        assert "<img" not in answer.text
        assert HOSTILE not in answer.text


def test_pages_load_what_is_here_and_run_one_script(api) -> None:
    """Their policy allows this address alone, no line of script or style within a page, and no frame around it."""
    browser = Browser(api, "promote")
    for path in (*PAGES, f"{MODEL}/promote?release=1.1.0", "/ui/sign-in", "/ui/nothing"):
        page = browser.get(path)
        policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "style-src": "'self'",
            "script-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self'",
            "form-action": "'self'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        assert page.headers["referrer-policy"] == "same-origin"
        assert page.headers["cache-control"] == "no-store"
        assert not re.findall(r"\son\w+=|\sstyle=|<style|javascript:", page.text)
        loaded = re.findall(r'(?:src|rel="\w+" href)="([^"]+)"', page.text)
        assert len(loaded) == 3
        assert {browser.get(each).status_code for each in loaded} == {200}
        assert all(each.startswith("/ui/") for each in loaded)
        links = set(re.findall(r'<a[^>]* href="(/[^"]*)"', page.text))
        assert {browser.get(unescape(each)).status_code for each in links} == {200}, links


def test_a_release_page_says_what_its_card_and_its_evidence_say(api) -> None:
    """Files with digests, gates, and each piece of evidence as it was written; a broken card hides nothing else."""
    browser = Browser(api)
    page = browser.get(f"{MODEL}/releases/1.0.0").text
    release = browser.get(f"{WALKER}/releases/1.0.0").json()
    assert release["manifest_digest"] in page
    assert "model.onnx" in page
    assert set(re.findall("sha256:[0-9a-f]{64}", page)) > {release["manifest_digest"]}
    (first, *_) = re.findall(r'href="([^"]+/evidence/[^"]+)"', page)
    assert browser.get(first).json()["verdict"] == "passed"
    card = api.world.root / "walker" / "1" / "model_card.yaml"
    card.parent.chmod(0o755)
    card.chmod(0o644)
    card.write_text("changed")
    page = browser.get(f"{MODEL}/releases/1.0.0")
    assert (page.status_code, "The card cannot be shown" in page.text) == (200, True)
    assert browser.get(f"{MODEL}/releases/9.9.9").status_code == 404


def test_cards_for_callers_without_a_token_hold_up_no_card_for_a_token(world, monkeypatch) -> None:
    """Each kind of caller has a thread for cards."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(*args: Any, **more: Any) -> Any:
        if not reached.is_set():
            reached.set()
            go_on.wait(300)
        return full(*args, **more)

    monkeypatch.setattr(looks, "full", hold)
    browser = Browser(api := ApiWorld(world, timeout_s=60), "read")
    stranger = TestClient(api.app, base_url=HERE, client=("127.0.0.1", 6))
    first = threading.Thread(target=stranger.get, args=(f"{MODEL}/releases/1.0.0",))
    first.start()
    try:
        assert reached.wait(300)
        assert "The card cannot be shown" not in browser.get(f"{MODEL}/releases/1.0.0").text
    finally:
        go_on.set()
        first.join()


def test_what_was_served_at_a_time_is_what_policyctl_at_says(api) -> None:
    """Before the first record nothing; now what the alias names."""
    browser = Browser(api)
    assert "The journal had no record then" in browser.get("/ui/at?when=2020-01-01T00:00").text
    assert f'href="{MODEL}/releases/1.0.0"' in browser.get("/ui/at").text
    for when in ("tomorrow", "0001-01-01T00:00%2B14:00", "9999-12-31T23:59-14:00"):
        assert browser.get(f"/ui/at?when={when}").status_code == 422


def test_an_empty_repository_has_a_first_page(tmp_path, monkeypatch) -> None:
    """It says how to begin."""
    page = Browser(ApiWorld(World(tmp_path / "empty", monkeypatch))).get("/ui")
    assert (page.status_code, "policyctl publish" in page.text) == (200, True)


def test_a_page_of_many_releases_shows_fifty_and_leads_to_the_others(api, monkeypatch) -> None:
    """However many there are, a page has so many rows, and every release is on just one page."""
    published = [f"1.{n}.0" for n in range(2, 120)]
    state = api.control.repository.journal.state()
    one = state.releases["walker", "1.0.0"]
    more = {("walker", r): replace(one, release=r, slot=n + 3) for n, r in enumerate(published)}
    grown = replace(state, releases={**state.releases, **more})
    monkeypatch.setattr(type(api.control.repository.journal), "state", lambda _self: grown)
    browser, path, shown = Browser(api), MODEL, list[str]()
    while path:
        page = browser.get(path).text
        rows = re.findall(rf'data-name="Release"><a href="{MODEL}/releases/([^"]+)"', page)
        assert 1 <= len(rows) <= 50
        shown += rows
        (path,) = re.findall(r'<a href="([^"]+)">Earlier releases', page) or [""]
    assert sorted(shown) == sorted([*published, "1.0.0", "1.1.0"])
    assert len(browser.get("/ui").text) < 10_000


def test_a_move_in_the_history_leads_to_what_it_brought(api) -> None:
    """The link goes to the first whole second after the outcome, on both pages that show the journal."""
    promote(api.world.control, model="walker", release="1.1.0", alias="production")
    browser = Browser(api)
    for path in (MODEL, "/ui/history"):
        row = next(row for row in browser.get(path).text.split("<tr>") if "production, 1.0.0 to 1.1.0: done" in row)
        (link,) = re.findall(r'href="(/ui/at[^"]+)"', row)
        assert f'href="{MODEL}/releases/1.1.0"' in browser.get(unescape(link)).text


@pytest.fixture
def crowded(api, monkeypatch) -> State:
    """The state of a repository with 300 more models; it counts how often its releases are gone through."""
    state = api.control.repository.journal.state()
    one = state.releases["walker", "1.0.0"]
    more = {(f"m{n:03}", "1.0.0"): replace(one, model=f"m{n:03}") for n in range(300)}
    grown = replace(state, releases=Counting({**state.releases, **more}))
    monkeypatch.setattr(type(api.control.repository.journal), "state", lambda _self: grown)
    return grown


class Counting(dict[tuple[str, str], PublishedRelease]):
    """Releases that count how often somebody goes through them all."""

    passes = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The names."""
        self.passes += 1
        return super().__iter__()

    def items(self) -> Any:
        """Names and releases."""
        self.passes += 1
        return super().items()


def test_the_filter_of_the_history_keeps_a_model_that_its_list_leaves_out(api, crowded) -> None:
    """The list has 200 models, and the one that is shown."""
    for model, length in (("m000", 200), ("walker", 201)):
        page = Browser(api).get(f"/ui/history?model={model}").text
        assert (page.count("<option"), f"<option selected>{model}<" in page) == (length + 1, True)


@pytest.mark.parametrize("path", ["/ui/history?model=", "/ui/at?when=now&model="])
def test_a_form_whose_model_is_left_empty_shows_every_model(api, path: str) -> None:
    """As the choice `all` sends it; a wrong name is refused."""
    browser = Browser(api)
    page = browser.get(path)
    assert (page.status_code, "walker" in page.text) == (200, True)
    assert browser.get(f"{path}Not-A-Model").status_code == 422


def test_the_first_page_goes_through_the_releases_once_for_all_models(api, crowded, monkeypatch) -> None:
    """And describes no model beyond those that it shows."""
    described = []
    select = versions.select
    monkeypatch.setattr(versions, "select", lambda *of: (described.append(of), select(*of))[1])
    page = Browser(api).get("/ui").text
    assert "101 more models are published" in page
    assert len(described) == 200
    assert crowded.releases.passes <= 10


def test_what_is_named_now_is_not_read_out_of_the_whole_journal_again(api, monkeypatch) -> None:
    """Pages of the present take what the journal is known to say; one of the past reads up to its instant."""
    read = []
    monkeypatch.setattr(timeline, "fold", lambda records: (read.append(len(records)), fold(records))[1])
    browser = Browser(api)
    assert {browser.get(path).status_code for path in ("/ui", MODEL, "/ui/at", "/ui/at?when=now")} == {200}
    assert read == []
    assert browser.get("/ui/at?when=2020-01-01T00:00").status_code == 200
    assert read == [0]


def test_the_audit_has_who_signed_in_and_what_they_did(api) -> None:
    """And no secret of theirs."""
    browser = Browser(api, "promote")
    browser.sign_in("policyctl_x")
    browser.send(f"{MODEL}/rollback", alias="production", to="1.0.0", reason="")
    lines = api.client.get("/v1/audit", headers=api.headers("admin")).json()
    asked = [(e["who"], e["path"], e["status"]) for e in lines if e["event"] == "asked"]
    assert asked == [
        ("my-promote", "/ui/sign-in", 303),
        (None, "/ui/sign-in", 401),
        ("my-promote", f"{MODEL}/rollback", 303),
    ]
    assert not any(secret in str(lines) for secret in api.secrets.values())


def test_what_breaks_shows_no_trace(api, monkeypatch) -> None:
    """A defect becomes a refusal, as everywhere in the API."""

    def breaks(*_args: Any) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(looks, "rows_with_effect", breaks)
    page = api.client.get("/ui/history")
    assert page.status_code == 500
    assert "secret of the house" not in page.text
    assert page.json()["exit_code"] == 1
