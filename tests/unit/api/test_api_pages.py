"""The pages for people: `/` and `/docs`, which load nothing and run nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from api_world import ApiWorld

from policyctl.api.app import create, page

DOCUMENT = create(None).openapi()
LOADING = {"script", "link", "img", "iframe", "object", "embed", "form", "base", "video", "audio", "source", "input"}


class _Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in {"meta", "br", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_needs_nothing_else_and_its_policy_allows_nothing_else(world, path: str) -> None:
    """No script, no style but its own, no frame around it; all who reach the API may read it, without a rate."""
    for local in (True, False):
        api = ApiWorld(world, local=local, tokens=False, reads_per_s=0.001)
        answers = [api.client.get(path) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        text = answers[0].text
        assert answers[0].headers["content-type"] == "text/html; charset=utf-8"
        page = _Page(text)
        assert page.open == []
        assert not page.tags & LOADING
        (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = answers[0].headers["content-security-policy"].split("; ")
        assert policy == [
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
        assert not [a for a in page.attributes if a[1].startswith("on") or a[1] in {"style", "src"}]


def test_every_call_and_every_object_is_described_and_every_link_leads_somewhere() -> None:
    """The page is made of the OpenAPI document, so it cannot be older than the code."""
    text = page("api_handbook.html", DOCUMENT)
    shown = _Page(text)
    assert len(shown.ids) == len(set(shown.ids))
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            assert operation["operationId"] in shown.ids
            assert f"{method.upper()} {path}" in text.replace("<wbr>", "")
    assert set(DOCUMENT["components"]["schemas"]) <= set(shown.ids)
    targets = {value for tag, name, value in shown.attributes if (tag, name) == ("a", "href")}
    assert targets <= {"/openapi.json", *(f"#{name}" for name in shown.ids)}


def test_the_front_page_leads_to_what_answers(api) -> None:
    """Each link of it is answered."""
    shown = _Page(page("api_front.html", DOCUMENT))
    links = [value for tag, name, value in shown.attributes if (tag, name) == ("a", "href")]
    assert "/docs" in links
    assert {api.client.get(link).status_code for link in links} == {200}


def test_words_of_the_description_become_no_html() -> None:
    """Whatever a docstring says."""
    hostile = "<script>alert(1)</script> `<b>`"
    document = {
        **DOCUMENT,
        "info": {**DOCUMENT["info"], "description": hostile, "title": hostile},
        "paths": {"/<i>": {"get": {"operationId": "x", "tags": ["look"], "description": hostile, "responses": {}}}},
    }
    for text in (page(name, document) for name in ("api_front.html", "api_handbook.html")):
        assert "<script" not in text
        assert "<b>" not in text
        assert "<i>" not in re.sub(r"<i>Nobody needs a token.</i>", "", text)
