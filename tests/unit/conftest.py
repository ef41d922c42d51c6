"""What every unit test starts from, and the command line in this process."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# A child lives for one command: to collect its garbage would copy every page of this large process.
os.register_at_fork(after_in_child=gc.disable)


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


@pytest.fixture(scope="session", autouse=True)
def _power_stays_on() -> Iterator[None]:
    """What a killed process leaves does not hang on fsync, no test here cuts the power, and a disk takes its time.

    Tests of an fsync that fails put their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _clean(monkeypatch) -> None:
    """No setting of whoever runs the tests reaches one, and what is printed is as wide everywhere."""
    for name in list(os.environ):
        if name.upper().startswith("POLICYCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def elsewhere(monkeypatch, tmp_path) -> Path:
    """The working directory is a folder without files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Ran]:
    """Run `policyctl` with arguments, up to its exit code."""
    from policyctl.cli.main import main

    def call(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["policyctl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        seen = capsys.readouterr()
        return Ran(stop.value.code or 0, seen.out, seen.err)

    return call


@pytest.fixture
def parse() -> Callable[[list[str]], None]:
    """Read the words of a command line as `policyctl` does, and run nothing.

    The parser keeps what a command first saw of its parents: read without them, a command forgets their options.
    """
    import typer

    from policyctl.cli.main import app

    root = typer.main.get_command(app)

    def read(words: list[str]) -> None:
        command, context = root, root.make_context("policyctl", list(words))
        while hasattr(command, "commands"):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, rest, parent=context)

    return read


@pytest.fixture(scope="session")
def two_releases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world with two releases, the first in production, for tests to copy: to make it takes longer than most tests.

    Folders that use it have made `world` importable.
    """
    from world import with_two_releases

    return with_two_releases(tmp_path_factory.mktemp("two-releases"))


@pytest.fixture(scope="session")
def bom_problem() -> Callable[[str], object]:
    """What the schema of CycloneDX says against a bill of materials; None for nothing. It takes seconds to import."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str
