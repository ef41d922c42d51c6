"""What other people's code prints never reaches a command's stdout."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from policyctl.cli.main import main
from policyctl.errors import UsageError
from policyctl.foreign_code import prints_aside

LOUD = """
import os
import gymnasium
import torch

print("imported")

class Loud(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)

    def forward(self, x):
        print("forward")
        os.write(1, b"written\\n")
        return self.net(x)

def make():
    print("made")
    os.system("echo from a child")
    return Loud()
"""


def test_a_module_that_prints_leaves_the_document_of_an_export_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Import, call and forward print to stderr, from Python, to the descriptor, and from a child."""
    (tmp_path / "loud.py").write_text(LOUD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["policyctl", "export", "loud:make", "--env", "CartPole-v1", "-o", "out", "--json"]
    )
    with pytest.raises(SystemExit):
        main()
    seen = capfd.readouterr()
    assert json.loads(seen.out)["output"] == "out", seen.err
    for printed in ("imported", "made", "forward", "written", "from a child"):
        assert printed in seen.err


def test_prints_go_where_words_go_and_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Both layers are put back, also after an error."""
    with pytest.raises(UsageError), prints_aside():
        print("python")
        os.write(1, b"descriptor\n")
        raise UsageError("wrong")
    print("after")
    os.write(1, b"after too\n")
    seen = capfd.readouterr()
    assert sorted(seen.out.split("\n")) == ["", "after", "after too"]
    assert {"python", "descriptor"} <= set(seen.err.split("\n"))
