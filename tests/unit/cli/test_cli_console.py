"""`policyctl console`: which address it prints, and when a browser is opened."""

from __future__ import annotations

import json
import re
import shlex
import webbrowser
from pathlib import Path

import pytest

from policyctl.adapters import api_address, lock
from policyctl.adapters.repository import Repository

GUIDE = Path(__file__).parents[3] / "docs" / "console.md"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The addresses that a browser was opened at; this machine has no screen."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: addresses.append(url) or True)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return addresses


@pytest.mark.parametrize(
    ("listens", "reached"),
    [
        ("http://127.0.0.1:9004", "http://127.0.0.1:9004/ui"),
        ("http://0.0.0.0:8004", "http://127.0.0.1:8004/ui"),
        ("http://[::]:8004", "http://[::1]:8004/ui"),
    ],
)
def test_it_prints_where_the_api_of_this_repository_listens(quiet_world, run, opened, listens, reached) -> None:
    """Whatever address and port it was started with; a file that an ended one left counts no more."""
    repository = Repository(quiet_world.root)
    with lock.hold_alone(api_address.lock_path(repository), doing="policyctl api", taken="taken", remedy=""):
        api_address.write(repository, listens)
        assert run("console").out == f"{reached}\n"
        assert json.loads(run("console", "--json").out) == {"url": reached, "opened": False}
    done = run("console")
    assert (done.code, "Start one: policyctl api" in done.err) == (6, True)
    assert opened == []


def test_it_opens_a_browser_where_there_is_a_screen(run, opened, monkeypatch) -> None:
    """Also that of an API elsewhere; --no-browser only prints."""
    monkeypatch.setenv("DISPLAY", ":0")
    api = ("--api", "https://policies.example.com/")
    assert run(*api, "console").out == "https://policies.example.com/ui\n"
    assert opened == ["https://policies.example.com/ui"]
    assert json.loads(run(*api, "console", "--no-browser", "--json").out)["opened"] is False
    assert len(opened) == 1


def test_every_command_of_the_guide_runs(quiet_world, run, opened) -> None:
    """In its order, next to an API that runs."""
    (block,) = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    begins, *lines = block.splitlines()
    assert (begins, len(lines)) == ("policyctl api &", 3)
    repository = Repository(quiet_world.root)
    with lock.hold_alone(api_address.lock_path(repository), doing="policyctl api", taken="taken", remedy=""):
        api_address.write(repository, "http://127.0.0.1:8004")
        for line in lines:
            assert run(*shlex.split(line, comments=True)[1:]).code == 0, line
