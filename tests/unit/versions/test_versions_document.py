"""docs/versions.md: its commands are run, line by line, and do what the page says."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from exports import export_of
from world import CONTRACT, WIDER, write_export

from policyctl.cli.main import main
from policyctl.domain.tensor import TensorSpec
from policyctl.services.moves import drain
from policyctl.services.rollout.promote import promote

DOCUMENT = (Path(__file__).parents[3] / "docs" / "versions.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def test_every_command_of_the_document_does_what_it_says(world, monkeypatch, capsys) -> None:
    """In order, in one repository; a comment that names an exit code or a number is held against what happens."""
    world.publish("1.0.0", 1)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    monkeypatch.setattr(drain, "REST_S", 0.0)
    world.unsupervised()
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    write_export(world.folder / "build" / "walker", 2)
    value = TensorSpec("value", "float32", (1,))
    export_of(world.folder / "build" / "with-value", replace(CONTRACT, outputs=(*CONTRACT.outputs, value)))
    write_export(world.folder / "build" / "four-sensors", 3, contract=WIDER)
    lines = [line for block in _blocks("sh") for line in block.splitlines() if line.startswith("policyctl")]
    assert len(lines) > 15
    for line in lines:
        command, _, said = line.partition(" #")
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main()
        seen = capsys.readouterr()
        code = re.search(r"exit code (\d)", said)
        assert (stop.value.code or 0) == (int(code[1]) if code else 0), (line, seen.err)
        if (number := re.search(r"\d+\.\d+\.\d+\S*$", said)) or (number := re.match(r"\s*(\d+\.\d+\.\d+)(?=:)", said)):
            assert number[0].strip() in seen.out, (line, seen.out)
        if said.strip() == "refused: exit code 2":
            assert f"{seen.err.strip()}\n" in DOCUMENT
    assert world.server.serving() == {"walker": 1}


def test_the_code_of_the_document_is_code() -> None:
    """Its Python compiles; what it does, the integration tests say."""
    for block in _blocks("python"):
        compile(block, "versions.md", "exec")
