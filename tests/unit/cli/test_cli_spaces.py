"""A policy of one's own is exported from the command line, with its spaces in a few words or in a file."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policyctl.domain.space_text import parse_space

GUIDE = Path(__file__).parents[3] / "docs" / "export.md"


class Servo(nn.Module):
    """Two inputs by name, one action each."""

    def forward(self, target: Tensor, pose: Tensor) -> Tensor:
        return target - pose


@pytest.fixture
def servo(tmp_path: Path) -> Path:
    """A TorchScript file without a gymnasium id."""
    path = tmp_path / "servo.pt"
    torch.jit.save(torch.jit.script(Servo()), str(path))
    return path


OPTIONS = ("--observation", "pose=3", "--observation", "target=3:-1..1", "--action", "3:-2,-2,-2..2,2,0.5")
FILE = "observation:\n  pose: 3\n  target: 3:-1..1\naction: 3:-2,-2,-2..2,2,0.5\n"


def test_spaces_in_words_and_spaces_in_a_file_say_the_same(servo: Path, tmp_path: Path, run: Any) -> None:
    """One grammar: both ways give one contract."""
    (tmp_path / "spaces.yaml").write_text(FILE)
    contracts = []
    for name, options in (("words", OPTIONS), ("file", ("--spaces", tmp_path / "spaces.yaml"))):
        ran = run("export", servo, *options, "-o", tmp_path / name, "-f", "torchscript")
        assert ran.code == 0, ran.err
        contracts.append(json.loads((tmp_path / name / "contract.json").read_text()))
    assert contracts[0] == contracts[1]
    observed = {tensor["name"]: (tensor["shape"], tensor["low"]) for tensor in contracts[0]["observations"]}
    assert observed == {"pose": ([3], None), "target": ([3], -1.0)}
    assert contracts[0]["outputs"][0]["high"] == [2.0, 2.0, 0.5]


def test_choices_are_said_in_words_too(tmp_path: Path, run: Any) -> None:
    """The scores of a module are logits where the action is `discrete:3`."""
    path = tmp_path / "scores.pt"
    torch.jit.save(torch.jit.script(nn.Linear(4, 3)), str(path))
    ran = run(
        "export", path, "--observation", "4", "--action", "discrete:3", "-o", tmp_path / "out", "-f", "torchscript"
    )
    assert ran.code == 0, ran.err
    contract = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert (contract["action_kind"], contract["distribution"]["kind"]) == ("discrete", "categorical")


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ((), "does not say what it observes and does", "--observation 12 --action 4:-1..1"),
        (("--observation", "3"), "does not say what it does", "--action 4:-1..1"),
        (("--observation", "3:1"), "--observation '3:1': '1' is not a range", "uint8:96x96x3"),
        (("--observation", "3", "--action", "discrete"), "--action 'discrete'", "discrete:6"),
        (("--observation", "pose=3", "--observation", "pose=3"), "'pose' stands twice", "pose=3"),
        (("--spaces", "missing.yaml"), "missing.yaml", "a YAML file with the fields observation and action"),
        (("--spaces", "wrong.yaml"), "wrong.yaml: unknown field 'actions'", "observation and action"),
        (("--spaces", "twice.yaml"), "twice.yaml: ", ""),
        (("--env", "CartPole-v1", "--action", "3"), "--env, --action state the spaces", "Give an environment"),
    ],
)
def test_spaces_that_cannot_be_read_are_refused_in_words(
    options: tuple[str, ...], problem: str, remedy: str, servo: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, the text and the part of it, and what to type."""
    monkeypatch.chdir(servo.parent)
    Path("wrong.yaml").write_text("observation: 3\nactions: 3\n")
    Path("twice.yaml").write_text("observation: 3\nobservation: 4\n")
    ran = run("export", servo, *options, "-o", "out")
    assert ran.code == 2
    words = " ".join(ran.err.split())
    assert problem in words
    assert remedy in words
    assert not Path("out").exists()


def test_the_example_of_the_guide_exports_a_policy_of_ones_own(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The section's files and commands, as they stand: options and file give one contract."""
    section = GUIDE.read_text().split("### A policy of your own\n")[1].split("\n### ")[0]
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", section, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    Path("pick.py").write_text(blocks["python"])
    Path("pick.yaml").write_text(blocks["yaml"])
    contracts = []
    for command in re.findall(r"^policyctl (.*)$", section, re.MULTILINE):
        ran = run(*shlex.split(command), "-f", "torchscript")
        assert ran.code == 0, ran.err
        contracts.append(json.loads(Path("build/pick/contract.json").read_text()))
    assert len(contracts) == 2
    assert contracts[0] == contracts[1]
    observed = {tensor["name"]: (tensor["dtype"], tensor["shape"]) for tensor in contracts[0]["observations"]}
    assert observed == {"camera": ("uint8", [96, 96, 3]), "arm": ("float32", [7])}
    forms = [form for row in re.findall(r"^\| (`.*`) \|", section, re.MULTILINE) for form in re.findall("`(.*?)`", row)]
    assert len(forms) == 10
    for form in forms:
        assert parse_space(form, what="the guide")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gone.py:make", "gone.py is not a file"),
        ("json.py:make", "another module 'json' is already in use"),
        ("own.py:missing", "own.py:missing: cannot be imported"),
        ("plain.py:VALUE", "plain.py:VALUE is int, which cannot be called"),
    ],
)
def test_a_file_that_makes_no_policy_is_refused_by_name(
    name: str, problem: str, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file, a module in its place, and a name that it lacks."""
    monkeypatch.chdir(tmp_path)
    for file in ("json.py", "own.py", "plain.py"):
        Path(file).write_text("VALUE = 3\n")
    ran = run("export", name, "--observation", "3", "--action", "3", "-o", "out")
    assert ran.code == 2
    assert problem in " ".join(ran.err.split())
