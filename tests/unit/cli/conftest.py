"""The command line in this process, and the world of the move tests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from world import World

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.triton import Triton
from policyctl.cli.main import main
from policyctl.services import control


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its stdout as one strict JSON document."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path) -> None:
    for name in list(os.environ):
        if name.startswith("POLICYCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Ran]:
    """Run `policyctl` with arguments, up to its exit code."""

    def call(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["policyctl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        seen = capsys.readouterr()
        return Ran(stop.value.code or 0, seen.out, seen.err)

    return call


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server beside it."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def quiet_world(world, monkeypatch) -> World:
    """A repository with one published release and no server."""
    monkeypatch.setattr(control, "Triton", Triton)
    monkeypatch.setenv("POLICYCTL_SERVER__TIMEOUT_S", "1")
    world.publish("1.0.0", 1)
    endpoints.clear(world.control.repository)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world


@pytest.fixture
def served_world(world, monkeypatch) -> World:
    """A repository with two releases, one in production, and a server."""
    from policyctl.services.promote import promote

    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world
