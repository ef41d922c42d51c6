"""docs/bake.md, docs/top.md and docs/tracing.md: what stands there runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from policyctl.cli.main import main
from policyctl.client.trace_context import chosen
from policyctl.settings import load

DOCS = Path(__file__).parents[3] / "docs"


def commands(page: str) -> list[list[str]]:
    """The lines of a page's shell blocks, word by word."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", ["bake.md", "top.md"])
def test_every_command_of_a_guide_runs(world, monkeypatch, capsys, page) -> None:
    """From top to bottom, on one repository; `top` without an end is given one."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    for number, release in enumerate(("1.3.0", "1.4.0"), 4):
        world.publish(release, number)
    found = commands(page)
    assert len(found) >= 4
    for words in found:
        if "top" in words and not {"--once", "--count"}.intersection(words):
            words += ["--count", "1"]
        if "top" in words:
            words += ["--interval", "0.1"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, (words, capsys.readouterr())
    if page == "bake.md":
        assert world.named() == "1.4.0"


def test_the_settings_and_the_context_of_the_tracing_guide_are_valid(monkeypatch) -> None:
    """The variables are settings, and the traceparent is one."""
    (words,) = commands("tracing.md")
    for assignment in words[:-2]:
        monkeypatch.setenv(*assignment.split("=", 1))
    assert (words[-2:], load().tracing.rate) == (["policyctl", "serve"], 100)
    (given,) = re.findall(r'traceparent="([^"]+)"', (DOCS / "tracing.md").read_text())
    assert chosen(given) == given
