"""TorchScript that does more than compute is refused before any of it runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.errors import PolicyctlError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import open_runner
from policyctl_exporters.torchscript import load_program

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
TARGET = "written_by_a_policy.bin"


def write(value: Tensor) -> Tensor:
    torch.save(value, "written_by_a_policy.bin")
    return value


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "written_by_a_policy.bin")
        return x


class SavesInABranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if float(x[0, 0]) > 1e9:
            torch.save(x, "written_by_a_policy.bin")
        return x


class SavesInAFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return write(x)


class SavesInAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = Saves()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x)


class SavesInAnotherMethod(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def reset(self) -> None:
        torch.save(torch.zeros(1), "written_by_a_policy.bin")


class Reads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("/etc/hostname", size=3, dtype=torch.uint8)


class ReadsBesideTheOthers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        later = torch.jit.fork(write, x)
        return torch.jit.wait(later)


class Seeds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return x


@torch.jit.script
class Writer:
    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, x: Tensor) -> None:
        torch.save(x, self.name)


class SavesInAClass(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        Writer("written_by_a_policy.bin").write(x)
        return x


HOSTILE = {
    Saves: "aten::save in .*Saves.forward",
    SavesInABranch: "aten::save",
    SavesInAFunction: "aten::save in .*write",
    SavesInAChild: "aten::save in .*Saves.forward",
    SavesInAnotherMethod: "aten::save in .*reset",
    SavesInAClass: "aten::save in .*Writer.write",
    Reads: "aten::from_file",
    ReadsBesideTheOthers: "prim::fork",
    Seeds: "aten::manual_seed",
}


def _saved(module: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(module), str(path))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to which anything that writes by a bare name would write."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("kind", "problem"), HOSTILE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_program_that_touches_more_than_its_tensors_is_refused(kind: Any, problem: str, here: Path) -> None:
    """In any block, child, function, class or method, called or not; nothing of it runs."""
    path = _saved(kind(), here / "policy.pt")
    with pytest.raises(UsageError, match=f"does more than compute: .*{problem}") as refusal:
        export_policy(path, here / "out", observation_space=BOX, action_space=BOX)
    assert "--trust-operators" in refusal.value.remedy
    assert [entry.name for entry in here.iterdir()] == ["policy.pt"]


@pytest.mark.parametrize("kind", [Saves, SavesInAChild])
def test_a_module_that_holds_such_a_program_is_refused_too(kind: Any, here: Path) -> None:
    """A live module is as good a cover as a file."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = torch.jit.script(kind())

        def forward(self, x: Tensor) -> Tensor:
            return self.program(x)

    with pytest.raises(UsageError, match="does more than compute: aten::save"):
        export_policy(Holder(), here / "out", observation_space=BOX, action_space=BOX)
    assert not (here / TARGET).exists()


def test_an_operator_that_a_live_module_uses_does_not_reach_the_server(here: Path) -> None:
    """Python may read a file here; an artifact that reads one in the server is not written."""

    class Live(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.from_file("/etc/hostname", size=3, dtype=torch.uint8)

    with pytest.raises(PolicyctlError, match="from_file"):
        export_policy(Live(), here / "out", observation_space=BOX, action_space=BOX, formats=["torchscript"])
    assert not (here / "out").exists()


def test_code_that_runs_while_a_file_is_loaded_is_refused_before_it_does(here: Path) -> None:
    """A module's `__setstate__` would run before anything could look at it."""

    class AtLoad(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

        @torch.jit.export
        def __getstate__(self) -> tuple[int, bool]:
            return 1, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[int, bool]) -> None:
            torch.save(torch.zeros(1), "written_by_a_policy.bin")
            self.training = state[1]

    path = _saved(AtLoad(), here / "policy.pt")
    with pytest.raises(UsageError, match="runs code while it is loaded"):
        export_policy(path, here / "out", observation_space=BOX, action_space=BOX)
    assert not (here / TARGET).exists()


def test_a_trusted_program_keeps_its_operators(here: Path) -> None:
    """With the flag it is exported as it is, where the format can hold it."""
    path = _saved(Reads(), here / "policy.pt")
    result = export_policy(
        path,
        here / "out",
        observation_space=BOX,
        action_space=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        formats=["torchscript"],
        trust_operators=True,
    )
    assert [form.value for form in result.formats] == ["torchscript"]


def test_what_a_program_prints_is_left_out_with_a_word(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A policy that prints and warns as it runs is served silent."""

    class Loud(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            print("observation", x.shape)
            return 2.0 * x

    words: list[str] = []
    path = _saved(Loud(), here / "policy.pt")
    result = export_policy(path, here / "out", observation_space=BOX, action_space=BOX, progress=words.append)
    assert any("Loud.forward" in line and "print" in line for line in words)
    assert "observation" not in capfd.readouterr().out
    rows = {"observation": np.array([[0.1, 0.2, -0.3]], np.float32)}
    for form in result.formats:
        np.testing.assert_allclose(
            open_runner(form, result.output, result.contract)(rows)["action"], [[0.2, 0.4, -0.6]]
        )
    assert b"print" not in (result.output / "model.pt").read_bytes()


class Rich(nn.Module):
    """Uses much of what real policies use: recurrence over a window, containers, strings, errors, no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"expected two dimensions, got {x.dim()}")
        parts: dict[str, list[Tensor]] = {"all": []}
        with torch.no_grad():
            sequence, _ = self.cell(x.unsqueeze(1))
        for part in torch.unbind(self.norm(sequence), 1):
            parts["all"].append(part)
        attended, _ = self.attend(sequence, sequence, sequence, need_weights=False)
        total = torch.stack(parts["all"]).sum(0) + attended.squeeze(1)
        total[:, 0] = 1.0
        return self.out(total).clamp(-1.0, 1.0)


def test_ordinary_programs_pass_without_a_list_of_their_operators() -> None:
    """Computing is told by an operator's schema, so there is no name to forget."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Rich().eval()), buffer)
    program = load_program(buffer.getvalue(), name="rich")
    assert program.notes == ()
    program.module(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is damaged, or no file of torch"),
        (b"\x80\x02}q\x00.", "was written by torch.save"),
        (b"PK\x03\x04 and no more", "is damaged, or no file of torch"),
    ],
)
def test_what_is_no_torchscript_is_named_for_what_it_is(content: bytes, problem: str) -> None:
    """Nothing is unpickled to find out."""
    with pytest.raises(UsageError, match=problem):
        load_program(content, name="policy.pt")


def test_a_saved_state_dict_is_called_one_and_a_plain_archive_is_not() -> None:
    """The remedy for weights is to build the module that they belong to."""
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), buffer)
    with pytest.raises(UsageError, match=r"written by torch\.save, not by .*: it holds weights") as refusal:
        load_program(buffer.getvalue(), name="policy.pt")
    assert "state dict" in refusal.value.remedy
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(UsageError, match="is not a file of torch and no program"):
        load_program(other.getvalue(), name="policy.pt")
