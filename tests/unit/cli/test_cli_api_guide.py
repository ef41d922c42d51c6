"""docs/api.md: its examples run in order, as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from api_world import ApiWorld

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


@pytest.fixture
def shell(run, monkeypatch):
    """Run one line as a shell would: our command in this process, assignments kept, everything else by bash."""

    def bash(line: str) -> str:
        done = subprocess.run(["bash", "-euc", line], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def call(line: str) -> str:
        if assigned := re.match(r"(?:export )?([A-Z_]+)=", line):
            monkeypatch.setenv(assigned[1], bash(f'{line}; printf %s "${assigned[1]}"'))
            return ""
        if not line.startswith("policyctl "):
            return bash(line)
        words, _, target = line.partition(" > ")
        done = run(*shlex.split(words)[1:])
        assert done.code == 0, f"{line}\n{done.err}"
        if target:
            Path(target).write_text(done.out)
        return done.out

    return call


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples call curl")
def test_every_example_of_the_guide_of_the_control_api_runs(served_world, shell) -> None:
    """From top to bottom on one repository; at the end the releases and the tokens are where they must be."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    api = ApiWorld(served_world)
    with api.listening() as url:
        said = [shell(line.replace("http://127.0.0.1:8004", url)) for line in lines]
    assert len(lines) > 20
    assert any("token:ci@" in text for text in said)
    assert (served_world.named(), served_world.answered()) == ("1.0.0", "1.0.0")
    states = {token.name: token.revoked is not None for token in api.api.tokens.read()}
    assert (states["grafana"], states["ci"]) == (True, False)
