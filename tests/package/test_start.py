"""docs/start.md, from the wheel to a rollback, as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from installed import ANY_PORTS, ROOT, Installed, install

PAGE = (ROOT / "docs" / "start.md").read_text()


@pytest.fixture
def newcomer(wheel: Path, tmp_path: Path) -> Installed:
    """`pip install policyctl[serve,sb3]`, and the programs that the page asks for."""
    here = install(wheel, tmp_path / "environment", tmp_path / "folder", ["serve", "sb3"])
    for name, text in re.findall(r"[Ss]ave this as `(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL):
        (here.folder / name).write_text(text)
    return here


def test_a_newcomer_gets_from_the_wheel_to_a_rollback(newcomer: Installed) -> None:
    """Every line of the page does what stands next to it; after the rollback the first policy answers as before."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    begun = blocks.index(next(block for block in blocks if "policyctl serve " in block))
    said = [_typed(newcomer, line) for block in blocks[1:begun] for line in block.splitlines()]
    with newcomer.running("serve", "--quiet", *ANY_PORTS) as server:
        asking = newcomer.folder / "ask.py"
        address = newcomer.announced(server)["grpc"]
        asking.write_text(
            asking.read_text().replace("127.0.0.1:8001", address).replace("deadline_s=1", "deadline_s=60")
        )
        said += [_typed(newcomer, line) for block in blocks[begun + 1 :] for line in block.splitlines()]
    asked = [re.fullmatch(r"release (\S+) balanced for (\d+) steps\n", text) for text in said if "balanced" in text]
    assert [each and each[1] for each in asked] == ["1.0.0", "1.1.0", "1.0.0"]
    first, _, again = (each[2] for each in asked if each)
    assert first == again
    assert "only to see it" in said[-1]


def _typed(here: Installed, line: str) -> str:
    program, *arguments = shlex.split(line, comments=True)
    done = here.run(program, *arguments)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
