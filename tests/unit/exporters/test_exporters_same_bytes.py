"""The same policy gives the same bytes, whoever exports it and when."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_everything
import pytest
import torch
from torch import nn

from policyctl.card.reading import parse
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.writers import number_classes, write_torchscript

PROGRAM = Path(export_everything.__file__)


class _Holder(nn.Module):
    """Holds a program in a class of the module that a Sequential is of."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([program])

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.parts[0](observation),)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Sums(nn.Module):
    """Remembers in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 2)
        self.register_buffer("h", torch.zeros(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = 0.5 * self.h + self.net(x)
        return self.h


_TWICE = """
import sys
from gymnasium import spaces
from policyctl_exporters import export_policy

for folder in sys.argv[2:]:
    seen, done = (spaces.Box(-1.0, 1.0, (size,)) for size in (3, 2))
    traced = ["onnx", "torchscript"]
    export_policy(sys.argv[1], folder, formats=traced, observation_space=seen, action_space=done, golden_rows=8)
"""


def test_the_first_export_of_a_process_gives_the_bytes_of_the_second(tmp_path: Path) -> None:
    """Of a TorchScript file with memory; torch names the operations of a class's first trace in another way."""
    program, folders = tmp_path / "sums.pt", [tmp_path / "first", tmp_path / "second"]
    torch.jit.script(Sums().eval()).save(str(program))
    subprocess.run([sys.executable, "-c", _TWICE, str(program), *map(str, folders)], check=True, timeout=600)
    assert _tree(folders[0]) == _tree(folders[1])


@pytest.mark.long
def test_two_processes_and_two_exports_in_one_give_the_same_bytes(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Every source and format: the second export can be published under the number of the first."""
    # In a process of its own: a TorchScript file keeps the class numbers of the one that wrote it.
    subprocess.run([sys.executable, str(PROGRAM), str(tmp_path)], check=True, timeout=1800)
    outputs = {"1": ["a"], "2": ["b", "c"]}
    for seed, names in outputs.items():
        subprocess.run(
            [sys.executable, str(PROGRAM), str(tmp_path), *(str(tmp_path / name) for name in names)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=1800,
        )
    first = _tree(tmp_path / "a")
    assert {path.split("/")[0] for path in first} == {"archive", "live", "module", "torchscript", "onnx"}
    assert sum(path.endswith("model.pt") for path in first) == 4
    for name in ("b", "c"):
        other = _tree(tmp_path / name)
        assert other.keys() == first.keys()
        assert [path for path in first if first[path] != other[path]] == []
    for name in ("a", "c"):
        done = run(
            "publish", tmp_path / name / "archive", "-n", "walker", "--release", "1.0.0", "-r", tmp_path / "repo"
        )
        assert done.code == 0, done.err


def test_classes_that_share_a_number_by_chance_are_numbered_apart() -> None:
    """Whether two counters coincide depends on what each process did before."""

    def archive(own: int, read: int) -> dict[str, bytes]:
        code = f"__torch__.torch.nn.___torch_mangle_{own}.Linear __torch__.own.___torch_mangle_{read}.Net"
        names = (
            f"a/code/__torch__/torch/nn/___torch_mangle_{own}.py",
            f"a/code/__torch__/own/___torch_mangle_{read}.py",
        )
        return {name: code.encode() for name in names}

    assert number_classes(archive(7, 7)) == number_classes(archive(7, 9)) == number_classes(archive(30, 4))
    assert number_classes(archive(3, 3)) == archive(0, 1)


def _numbered(program: bytes, number: int) -> bytes:
    """The same program as a process would have written it that had numbered so many classes before."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(program))
    writer = torch._C.PyTorchFileWriter(buffer := io.BytesIO())
    for name in reader.get_all_records():
        if name.startswith(("code/", "constants", "data")) and not name.endswith(".debug_pkl"):
            content = re.sub(rb"___torch_mangle_\d+", b"___torch_mangle_%d" % number, reader.get_record(name))
            writer.write_record(re.sub(r"mangle_\d+", f"mangle_{number}", name), content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()


def test_a_file_gives_the_same_bytes_whatever_numbers_its_classes_have(tmp_path: Path) -> None:
    """TorchScript puts classes of one module and number into one record: a file's, and what is traced around it."""
    observation, action = TensorSpec("observation", "float32", (5,)), TensorSpec("action", "float32", (3,))
    contract = Contract((observation,), (action,), action_kind=ActionKind.CONTINUOUS)
    torch.jit.script(nn.Sequential())
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Flatten())), buffer := io.BytesIO())
    found = set()
    for ahead in range(12):
        newest = torch.jit.trace(nn.Sequential(nn.Identity()), torch.zeros(1), check_trace=False)
        number = int(newest._c._type().qualified_name().rpartition("mangle_")[2].partition(".")[0]) + ahead
        program = torch.jit.load(io.BytesIO(_numbered(buffer.getvalue(), number)))
        write_torchscript(_Holder(program), contract, tmp_path / "a.pt", trusted=False)
        found.add((tmp_path / "a.pt").read_bytes())
    assert len(found) == 1


def test_the_card_says_when_only_where_the_source_has_a_date(ppo: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The journal knows when a release was published; SOURCE_DATE_EPOCH says when its source was made."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    export_policy(ppo, tmp_path / "a", formats=["onnx"])
    assert "created" not in parse((tmp_path / "a" / "model_card.yaml").read_bytes()).data["provenance"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    export_policy(ppo, tmp_path / "b", formats=["onnx"])
    provenance = parse((tmp_path / "b" / "model_card.yaml").read_bytes()).data["provenance"]
    assert provenance["created"] == "2023-11-14T22:13:20+00:00"
    for wrong in ("tomorrow", "1e99", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
            export_policy(ppo, tmp_path / "c", formats=["onnx"])
        assert not (tmp_path / "c").exists()
