"""A browser, and where it is missing the reason why the tests skip."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _folder in ("integration", "unit/api", "unit/moves"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _folder))

PATIENCE_MS = 300_000
"""For what must happen: only a failure takes this long."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The machine's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is missing: apt install chromium")
    with playwright.sync_playwright() as driver:
        # Tests run as root in a container, where Chromium has no sandbox.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=["wide", "narrow"])
def page(chromium, request) -> Iterator[Any]:
    """A window, wide and light, or as narrow as a phone and dark; nothing may be refused by a page's policy in it."""
    wide = request.param == "wide"
    size = {"width": 1280 if wide else 390, "height": 800}
    context = chromium.new_context(viewport=size, color_scheme="light" if wide else "dark")
    context.set_default_timeout(PATIENCE_MS)
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert not [line for line in said if "Content Security Policy" in line or "Error" in line], said
