"""The console in a real browser: on the real server from click to outcome, and what a page does while it is open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from api_world import ApiWorld
from embedded import Embedded, embedded
from test_api import running
from test_api_console_fleet import commit, report
from world import World

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal
from policyctl.domain.tokens import Scope
from policyctl.services.rollout.promote import promote
from policyctl.services.trust.tokens import revoke

SERVER = {"PROBER__INTERVAL_S": "0.2", "SERVER__HTTP": "on", "SERVER__TIMEOUT_S": "60", "LOCK_WAIT_S": "60"}

FAINT = """() => {
  const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return (parts(colour)[3] ?? 1) > 0 ? colour : ground(e.parentElement);
  };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.matches(":disabled")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
  return texts.filter((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((e) => e.outerHTML);
}"""
"""Elements whose text differs from its ground by less than WCAG 2.2 asks for (1.4.3, contrast 4.5)."""


@pytest.fixture(scope="module")
def served(tmp_path_factory, chromium) -> Iterator[Embedded]:
    """Two releases of walker on the real Triton, the first of them in production."""
    with pytest.MonkeyPatch.context() as patch, embedded(tmp_path_factory.mktemp("served")) as server:
        for name, value in {**SERVER, "SERVER__CONTROL_METRICS_PORT": "0"}.items():
            patch.setenv(f"POLICYCTL_{name}", value)
        server.publish("1.0.0", 1)
        server.publish("1.1.0", 2)
        server.start()
        server.run("promote", "walker", "1.0.0")
        yield server


@pytest.fixture
def api(tmp_path, monkeypatch) -> Iterator[tuple[ApiWorld, str]]:
    """A control API whose server is a file, so that a move can be held up in the middle; and its address."""
    world = World(tmp_path / "world", monkeypatch)
    for number, release in enumerate(("1.0.0", "1.1.0")):
        world.publish(release, number)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    api = ApiWorld(world)
    with api.listening() as url:
        yield api, url
        api.api.operations.close(timeout_s=300)


def _sign_in(page: Any, url: str, secret: str) -> None:
    page.goto(f"{url}/ui")
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Token").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()


@pytest.mark.server
def test_a_promotion_and_a_rollback_from_click_to_outcome(served, page, tmp_path) -> None:
    """On the real Triton: shown, confirmed, followed to its end without a reload, and taken back in two clicks."""
    token = served.run("token", "create", f"ops-{page.viewport_size['width']}", "--scope", "promote").stdout.strip()
    with running(served.root, tmp_path / "api.log") as api:
        assert served.run("console", "--no-browser").stdout == f"{api.url}/ui\n"
        _sign_in(page, api.url, token)
        page.get_by_role("link", name="walker").first.click()
        page.get_by_role("link", name="Promote 1.1.0").click()
        page.get_by_label("Reason").fill("better on stairs")
        page.get_by_role("button", name="Show what would happen").click()
        page.get_by_text("from 1.0.0 to 1.1.0").wait_for()
        assert served.answered_by() == "1.0.0"
        page.get_by_role("button", name="Promote 1.1.0 to production").click()
        page.get_by_text("succeeded").wait_for()
        assert served.answered_by() == "1.1.0"
        page.get_by_role("link", name="walker").click()
        page.get_by_text("better on stairs").first.wait_for()
        page.get_by_text("Roll back").click()
        page.get_by_role("button", name="to 1.0.0").click()
        page.get_by_text("succeeded").wait_for()
        assert served.answered_by() == "1.0.0"


def test_a_move_is_shown_as_it_happens_and_aborted_by_keyboard(api, page) -> None:
    """Its phases come by themselves, the button keeps the focus meanwhile, and the incumbent stays."""
    world, url = api
    held, go_on = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if call == "load walker.candidate":
            held.set()
            go_on.wait(300)

    world.world.server.before_call = hold
    _sign_in(page, url, world.secrets[Scope.PROMOTE])
    page.goto(f"{url}/ui/models/walker/promote?release=1.1.0")
    page.get_by_role("button", name="Show what would happen").click()
    page.get_by_role("button", name="Promote 1.1.0 to production").press("Enter")
    assert held.wait(300)
    abort = page.get_by_role("button", name="Abort")
    abort.focus()
    page.get_by_text("Loading walker.candidate").wait_for()
    assert page.locator("li[aria-current=step]").inner_text() == "certifying"
    assert page.evaluate("document.activeElement.textContent") == "Abort"
    abort.press("Enter")
    page.get_by_text("Abort by token:my-promote").wait_for()
    go_on.set()
    page.get_by_text("Aborted: the promotion").wait_for()
    page.locator("#state").get_by_text("failed", exact=True).wait_for()
    assert world.world.named() == "1.0.0"


def test_a_page_survives_a_lost_connection_and_notices_a_revoked_token(api, page) -> None:
    """It says that nobody answers and goes on by itself; without a token that counts it asks for one."""
    world, url = api
    _sign_in(page, url, world.secrets[Scope.PROMOTE])
    page.context.set_offline(True)
    page.get_by_text("No answer from the console").wait_for()
    page.context.set_offline(False)
    page.get_by_text("No answer from the console").wait_for(state="hidden")
    revoke(world.control, name="my-promote")
    page.get_by_text("The token is revoked.").wait_for()
    assert page.get_by_label("Token").is_visible()


def test_a_promotion_that_another_person_overtook_is_refused_where_it_was_confirmed(api, page) -> None:
    """It says which move came first; shown again, it is about the alias as it is now."""
    world, url = api
    world.world.publish("1.2.0", 2)
    _sign_in(page, url, world.secrets[Scope.PROMOTE])
    page.goto(f"{url}/ui/models/walker/promote?release=1.1.0")
    page.get_by_label("Reason").fill("better on stairs")
    page.get_by_role("button", name="Show what would happen").click()
    page.get_by_text("from 1.0.0 to 1.1.0").wait_for()
    promote(world.world.control, model="walker", release="1.2.0", alias="production")
    page.get_by_role("button", name="Promote 1.1.0 to production").click()
    page.get_by_role("alert").get_by_text("names 1.2.0, and no longer 1.0.0").wait_for()
    assert world.world.named() == "1.2.0"
    assert page.get_by_label("Reason").input_value() == "better on stairs"
    page.get_by_role("button", name="Show what would happen").click()
    page.get_by_role("button", name="Promote 1.1.0 to production").click()
    page.locator("#state").get_by_text("succeeded", exact=True).wait_for()
    assert world.world.named() == "1.1.0"


def test_a_promotion_whose_answer_is_lost_can_be_confirmed_again(api, page) -> None:
    """The connection breaks after the console took the form: the second click leads to the same move."""
    world, url = api
    _sign_in(page, url, world.secrets[Scope.PROMOTE])
    page.goto(f"{url}/ui/models/walker/promote?release=1.1.0")
    page.get_by_role("button", name="Show what would happen").click()
    confirm = page.get_by_role("button", name="Promote 1.1.0 to production")
    confirm.wait_for()
    form = confirm.evaluate("e => [...new FormData(e.form, e)]")
    headers = {"Origin": url}
    lost = page.request.post(page.url, form=dict(form), headers=headers, max_redirects=0)
    assert lost.status == 303
    confirm.click()
    page.locator("#state").get_by_text("succeeded", exact=True).wait_for()
    assert page.url == url + lost.headers["location"]
    assert world.intents() == 2


def test_a_token_that_one_person_revokes_ends_the_session_of_another(api, page) -> None:
    """By keyboard, on the page of tokens; the other's open page asks for a token by itself."""
    world, url = api
    _sign_in(page, url, world.secrets[Scope.PROMOTE])
    elsewhere = page.context.browser.new_context(viewport=page.viewport_size)
    try:
        other = elsewhere.new_page()
        other.set_default_timeout(300_000)
        _sign_in(other, url, world.secrets[Scope.ADMIN])
        other.get_by_role("link", name="Tokens").click()
        other.get_by_label("Revoke my-promote", exact=True).press("Enter")
        other.locator("button", has_text="Revoke my-promote").press("Enter")
        other.get_by_text("revoked", exact=True).wait_for()
    finally:
        elsewhere.close()
    page.get_by_text("The token is revoked.").wait_for()
    assert page.get_by_label("Token").is_visible()


def test_a_model_shows_how_its_move_ends_and_keeps_an_open_form(api, page) -> None:
    """Without a reload; a form that somebody fills in stays as it is, until it is closed."""
    world, url = api
    for release in ("1.1.0", "1.0.0"):
        promote(world.world.control, model="walker", release=release, alias="staging")
    held, go_on = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if call == "load walker.candidate":
            held.set()
            go_on.wait(300)

    world.world.server.before_call = hold
    _sign_in(page, url, world.secrets[Scope.PROMOTE])
    world.post("/promotions", {"release": "1.1.0"})
    assert held.wait(300)
    page.goto(f"{url}/ui/models/walker")
    production, staging = (page.get_by_role("region", name=f"Alias {alias}") for alias in ("production", "staging"))
    production.get_by_text("is under way").wait_for()
    staging.get_by_text("Roll back", exact=True).click()
    staging.get_by_label("Reason").fill("slips")
    go_on.set()
    world.api.operations.close(timeout_s=300)
    for _ in range(2):
        with page.expect_response(f"{url}/ui/models/walker"):
            pass
    assert staging.get_by_label("Reason").input_value() == "slips"
    staging.get_by_text("Roll back", exact=True).click()
    production.get_by_role("link", name="1.1.0").wait_for()
    page.locator("#history").get_by_text("promotion of production, 1.0.0 to 1.1.0: done").wait_for()


def test_no_page_breaks_a_rule_of_accessibility(api, page) -> None:
    """axe-core finds nothing: names, roles, headings, contrast, landmarks, tables, focus."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    world, url = api
    page.goto(f"{url}/ui/sign-in")
    assert _violations(axe, page) == []
    _sign_in(page, url, world.secrets[Scope.ADMIN])
    for path in _paths(world):
        page.goto(url + path)
        page.evaluate("document.querySelectorAll('details').forEach((e) => e.open = true)")
        assert _violations(axe, page) == [], path
    page.goto(f"{url}/ui/models/walker/promote?release=1.1.0")
    page.get_by_role("button", name="Show what would happen").click()
    page.get_by_role("button", name="Promote 1.1.0 to production").wait_for()
    assert _violations(axe, page) == []


def test_the_page_of_a_fleet_fits_breaks_no_rule_and_follows_its_store(api, page, tmp_path) -> None:
    """What a node reports comes by itself."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    world, url = api
    bucket = Bucket(f"file://{tmp_path}/store")
    fleet = world.control.settings.fleet.model_copy(update={"store": bucket.url})
    world.control.settings = world.control.settings.model_copy(update={"fleet": fleet})
    generation = commit(FleetJournal(bucket, "alice@edge-7"), "m1", "1.0.0")
    report(bucket, "node-1", "1.0.0", generation, problems={"m0": "its disk is full"})
    page.goto(f"{url}/ui")
    page.get_by_role("link", name="Fleet").click()
    page.get_by_text("Every node says that it serves what every alias names.", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert _violations(axe, page) == []
    report(bucket, "node-2", "1.0.0", generation - 1)
    page.get_by_text("Not every node says that it serves what every alias names.").wait_for()


def _violations(axe: Any, page: Any) -> list[tuple[str, list[str]]]:
    found = axe.run(page).response["violations"]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


def _paths(world: ApiWorld) -> list[str]:
    """Every page, with something on it."""
    done = world.post("/promotions?wait=60", {"release": "1.1.0"}).json()
    world.post("/rollbacks?wait=60", {"to": "1.0.0", "reason": "slips"})
    model = "/ui/models/walker"
    of_model = [model, f"{model}/releases/1.0.0", f"{model}/promote", f"{model}/compare?one=1.0.0&other=1.1.0"]
    others = ["/ui", "/ui/history", "/ui/at", "/ui/tokens", "/ui/audit", "/ui/settings", "/ui/nothing"]
    return [*of_model, *others, f"/ui/operations/{done['id']}"]


def test_every_page_fits_its_window_and_begins_for_the_keyboard(api, page) -> None:
    """Nothing scrolls sideways, all text can be read, what can be used has a name, and Tab leads past the header."""
    world, url = api
    _sign_in(page, url, world.secrets[Scope.ADMIN])
    for path in _paths(world):
        page.goto(url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], path
        assert page.locator("h1").count() == 1
        assert page.evaluate(FAINT) == [], path
        if "promote" not in path:
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
        unnamed = "a, button, input:not([type=hidden]):not([hidden]), select, textarea"
        for each in page.locator(unnamed).all():
            named = each.evaluate("e => e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()")
            assert named, (path, each.evaluate("e => e.outerHTML"))
