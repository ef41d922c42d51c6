"""The site of the guides, opened as files in a browser that reaches nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import website


@pytest.fixture(scope="module")
def front(tmp_path_factory) -> str:
    """The first page of the site, as `make site` builds it."""
    folder: Path = tmp_path_factory.mktemp("site")
    assert website.build(folder) == []
    return (folder / "site" / "index.html").as_uri()


def test_the_search_finds_a_command_without_any_server(page: Any, front: str) -> None:
    """By keyboard, on a phone too; nothing is asked but files, and a result leads to the command's options."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(front)
    page.keyboard.press("Control+k")
    page.keyboard.type("policyctl rollback", delay=20)
    page.get_by_role("option", name="policyctl rollback").first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url("**/docs/commands.html*#policyctl-rollback")
    assert page.get_by_role("heading", name="policyctl rollback").is_visible()
    assert [url for url in requests if not url.startswith("file:")] == []
