"""Files of `torch.export.save` are served as what they are, and nothing in them runs code while it is read."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policyctl.domain.memory import initial_states
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

SEEN, ACTS = 3, 2
GUIDE = Path(__file__).parents[3] / "docs" / "export.md"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(SEEN, 8), nn.Tanh(), nn.Linear(8, ACTS))

    def forward(self, obs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(obs)


class Camera(nn.Module):
    """Two inputs, an open batch, a size that is computed, and two results by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.move = nn.Conv2d(3, 2, 3), nn.Linear(2 * 4 * 4 + SEEN, ACTS)

    def forward(self, camera: Tensor, arm: Tensor) -> dict[str, Tensor]:
        pixels = self.see(camera.permute(0, 3, 1, 2).float() / 255)
        action = self.move(torch.cat([pixels.reshape(arm.shape[0], -1), arm], 1))
        return {"action": action * torch.ones(arm.shape[0], ACTS), "value": action.sum(1, keepdim=True)}


class Plans(Net):
    """A chunk of actions under the name that chunked policies have for it, and an estimate."""

    def forward(self, obs: Tensor) -> dict[str, Tensor]:
        found = self.net(obs)
        return {"estimate": found[:, :1], "action_chunk": torch.stack([found, -found], dim=1)}


class Recurrent(nn.Module):
    """Memory that begins with something else than zero, in a part of the module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.actor, self.inner = nn.LSTM(SEEN, 5), nn.Linear(5, ACTS), nn.Module()
        self.inner.register_buffer("hidden", torch.full((1, 1, 5), 0.25))
        self.register_buffer("cell", torch.zeros(1, 1, 5), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        out, (hidden, cell) = self.rnn(obs[None], (self.inner.hidden, self.cell))
        self.inner.hidden[:] = hidden
        self.cell.copy_(cell)
        return self.actor(out[0])


class History(nn.Module):
    """The last steps, moved on in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("seen", torch.zeros(1, 4, SEEN))
        self.net = nn.Linear(4 * SEEN, ACTS)

    def forward(self, obs: Tensor) -> Tensor:
        self.seen[:, 1:] = self.seen[:, :-1].clone()
        self.seen[:, 0] = obs
        return self.net(self.seen.flatten(1))


class Cell(nn.Module):
    """One step of a GRU, which ONNX has no operator for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.actor = nn.GRUCell(SEEN, 5), nn.Linear(5, ACTS)
        self.register_buffer("h", torch.zeros(1, 5))

    def forward(self, obs: Tensor) -> Tensor:
        self.h = self.cell(obs, self.h)
        return self.actor(self.h)


class Attention(nn.Module):
    """A transformer, whose attention has no ONNX operator here."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.first, self.last = nn.Linear(SEEN, 12), nn.Linear(4, ACTS)

    def forward(self, obs: Tensor) -> Tensor:
        return self.last(self.layer(self.first(obs).view(obs.shape[0], 3, 4)).mean(1))


def _program(module: nn.Module, *rows: int | None) -> torch.export.ExportedProgram:
    """Exported with an open batch where `rows` is left out, a fixed one, or none where it is None."""
    count = rows[0] if rows else 2
    shapes = [(8, 6, 6, 3)[1:], (SEEN,)] if isinstance(module, Camera) else [(SEEN,)]
    example = tuple(
        torch.zeros(*([] if count is None else [count]), *shape, dtype=torch.uint8 if len(shape) > 1 else torch.float32)
        for shape in shapes
    )
    batch = torch.export.Dim("batch")
    return torch.export.export(module.eval(), example, dynamic_shapes=None if rows else ({0: batch},) * len(example))


def _saved(module: nn.Module, folder: Path, *rows: int | None) -> Path:
    path = folder / "walk.pt2"
    torch.export.save(_program(module, *rows), path)
    return path


def _played(path: Path, rows: NDArray[Any]) -> NDArray[Any]:
    """What the file itself answers, left alone for an episode."""
    program = torch.export.load(path).module()
    with torch.no_grad():
        return np.concatenate([program(torch.from_numpy(row[None])).numpy() for row in rows])


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        (Recurrent, {"cell": 0.0, "inner_hidden": 0.25}),
        (History, {"seen": 0.0}),
        pytest.param(Cell, {"h": 0.0}, marks=pytest.mark.long),
    ],
)
def test_buffers_that_a_program_changes_are_served_as_states(
    kind: Any, states: dict[str, float], tmp_path: Path
) -> None:
    """Two episodes of 20 steps in turn get, in every format, what two programs that are left alone answer."""
    path = _saved(kind(), tmp_path, 1)
    result = export_policy(path, tmp_path / "out", golden_rows=8)
    assert result.failed == {}
    assert {state.input: state.initial for state in result.contract.states} == states
    assert [spec.name for spec in result.contract.environment] == ["obs"]
    rows = np.random.default_rng(0).standard_normal((2, 20, SEEN)).astype(np.float32)
    right = [_played(path, each) for each in rows]
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            memories = [initial_states(result.contract) for _ in rows]
            for step in range(20):
                for caller, memory in enumerate(memories):
                    answer = run({"obs": rows[caller, step : step + 1], **memory})
                    memories[caller] = {state.input: answer[state.output] for state in result.contract.states}
                    np.testing.assert_allclose(answer["action"][0], right[caller][step], rtol=0, atol=2e-5)


def test_an_open_batch_with_several_inputs_and_results_is_served(tmp_path: Path) -> None:
    """Names, shapes and types come from the file; a size that the graph computes stays one."""
    path = _saved(Camera(), tmp_path)
    result = export_policy(path, tmp_path / "out", golden_rows=8)
    assert result.failed == {}
    contract = result.contract
    assert {spec.name: (spec.shape, spec.dtype) for spec in contract.observations} == {
        "arm": ((SEEN,), "float32"),
        "camera": ((6, 6, 3), "uint8"),
    }
    assert [spec.name for spec in contract.outputs] == ["action", "value"]
    assert contract.max_batch is None
    card = (result.output / "model_card.yaml").read_text()
    assert "pt2" in card
    assert "walk.pt2" in card


def test_a_transformer_with_an_open_batch_is_served_in_every_format(tmp_path: Path) -> None:
    """torch takes its attention apart first, and parity holds every format against the program as it was."""
    result = export_policy(_saved(Attention(), tmp_path), tmp_path / "out", golden_rows=8)
    assert result.failed == {}
    assert result.contract.max_batch is None


@pytest.mark.parametrize(("rows", "limit"), [(1, None), (4, None), (None, 1)])
def test_a_fixed_batch_is_served_as_what_it_is(rows: int | None, limit: int | None, tmp_path: Path) -> None:
    """A file for one row or four is right for any number here; one without a batch answers one row at a time."""
    result = export_policy(_saved(Net(), tmp_path, rows), tmp_path / "out", formats=["torchscript"], golden_rows=8)
    assert result.contract.max_batch == limit
    assert result.contract.observations[0].shape == (SEEN,)


class Explicit(nn.Module):
    """It takes its memory, and gives what continues it."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.names = nn.Linear(SEEN + ACTS, ACTS), names

    def forward(self, obs: Tensor, h_in: Tensor) -> Any:
        action = torch.tanh(self.net(torch.cat([obs, h_in], 1)))
        after = 0.5 * h_in + action
        return dict(zip(self.names, (action, after), strict=True)) if self.names else (action, after)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("action", "h_out"), {}),
        pytest.param(("action", "carry"), {"states": {"h_in": "carry"}}, marks=pytest.mark.long),
        ((), {"states": {"h_in": "output_1"}, "head": {"output_0": "action"}}),
    ],
)
def test_an_output_that_continues_an_input_is_memory(
    names: tuple[str, ...], said: dict[str, Any], tmp_path: Path
) -> None:
    """By its name, or as somebody says; an episode is the program's own with its memory handed on."""
    path, module = tmp_path / "walk.pt2", Explicit(names).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, SEEN), torch.zeros(1, ACTS))), path)
    result = export_policy(path, tmp_path / "out", formats=["onnx"], golden_rows=8, **said)
    assert [state.input for state in result.contract.states] == ["h_in"]
    assert [spec.name for spec in result.contract.environment] == ["obs"]
    (run,) = runners(result.formats[0], result.output, result.contract).values()
    memory, right = initial_states(result.contract), torch.zeros(1, ACTS)
    for row in np.random.default_rng(0).standard_normal((20, 1, SEEN)).astype(np.float32):
        answer = run({"obs": row, **memory})
        memory = {state.input: answer[state.output] for state in result.contract.states}
        with torch.no_grad():
            found = module(torch.from_numpy(row), right)
        action, right = found.values() if names else found
        np.testing.assert_allclose(answer["action"], action.numpy(), rtol=0, atol=2e-5)


def test_a_program_that_may_have_memory_is_refused_until_somebody_says_so(tmp_path: Path) -> None:
    """Served without it, it would forget: the refusal names the pair, and the options that settle it."""
    path, module = tmp_path / "walk.pt2", Explicit(("action", "carry")).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, SEEN), torch.zeros(1, ACTS))), path)
    with pytest.raises(UsageError, match=r"walk.pt2 may have memory \(h_in -> carry\)") as refusal:
        export_policy(path, tmp_path / "out")
    assert "--state h_in=carry" in refusal.value.remedy
    export_policy(path, tmp_path / "out", head={"carry": "output"}, formats=["torchscript"], golden_rows=8)


class Fixed(Net):
    """Right for its own number of rows alone."""

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(obs.reshape(4, 1, SEEN)).reshape(4, ACTS)


class Remembers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4, ACTS))

    def forward(self, obs: Tensor) -> Tensor:
        self.last.copy_(self.net(obs) + self.last / 2)
        return self.last.clone()


class Noise(Net):
    def forward(self, obs: Tensor) -> Tensor:
        action = self.net(obs)
        return action + torch.randn_like(action)


class Branches(Net):
    def forward(self, obs: Tensor) -> Tensor:
        return torch.cond(obs.sum() > 0, self.net, lambda x: -self.net(x), (obs,))


@pytest.mark.parametrize(
    ("module", "rows", "problem"),
    [
        (Fixed(), 4, "takes 4 rows at once, and not any other number"),
        (Remembers(), 4, "remembers 4 rows at once: last"),
        (Noise(), 1, "draws random numbers"),
        (Branches(), 1, "uses the operator higher_order.cond"),
    ],
)
def test_a_program_that_cannot_be_served_is_refused_by_name(
    module: nn.Module, rows: int, problem: str, tmp_path: Path
) -> None:
    """The refusal says what it does, and leaves nothing."""
    with pytest.raises((UnsupportedError, UsageError), match=problem) as refusal:
        export_policy(_saved(module, tmp_path, rows), tmp_path / "out", formats=["torchscript"])
    assert refusal.value.remedy
    assert not (tmp_path / "out").exists()


def _changed(path: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> Path:
    """The same archive with other records, written as torch writes it."""
    reader = torch._C.PyTorchFileReader(str(path))
    target = path.with_name("changed.pt2")
    writer = torch._C.PyTorchFileWriter(str(target))
    own = {"version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment", ".data/version"}
    records = {name: reader.get_record(name) for name in reader.get_all_records() if name not in own}
    for name, content in {**records, **(more or {})}.items():
        changed = change(name, content)
        writer.write_record(name, changed, len(changed))
    writer.write_end_of_file()
    return target


def _program_text(pattern: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        text, count = re.subn(pattern, lambda _: new, content.decode())
        assert count, f"{pattern} stands nowhere in the file"
        json.loads(text)
        return text.encode()

    return change


class Touch:
    """A pickle of this creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_runs_while_it_is_read(tmp_path: Path) -> None:
    """Sizes that are code, modules that a tree of arguments names, pickles and libraries are refused before torch.

    So are names that would be code in the Python that torch writes of a graph.
    """
    path, trap = _saved(Camera(), tmp_path), tmp_path / "trap"
    code = json.dumps(f"__import__('pathlib').Path({str(trap)!r}).touch()")
    tree = json.dumps('[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": 1}", "children_spec": []}]')
    evil = io.BytesIO()
    torch.save({"a": Touch(trap)}, evil)

    def sample(name: str, content: bytes) -> bytes:
        return evil.getvalue() if name.startswith("data/sample_inputs") else content

    def same(name: str, content: bytes) -> bytes:
        return content

    cases = [
        (_program_text(r'"Symbol\(.s\d+., positive=True, integer=True\)"', code), None, "which is not arithmetic"),
        (_program_text(r'"in_spec": "(\\.|[^"\\])*"', f'"in_spec": {tree}'), None, "tuples, lists and dicts"),
        (_program_text(r"torch\.ops\.aten\.cat\.default", "torch.ops.my.cat.default"), None, "the operator my.cat"),
        (_program_text(r'"forward_arg_names": \["camera"', f'"forward_arg_names": [{code}'), None, "more than a name"),
        (_program_text(r'"name": "cat"', f'"name": {code}'), None, "more than a name"),
        (_program_text(r'"as_int": 1}', '"as_operator": "torch.os.getcwd"}'), None, "the operator torch.os.getcwd"),
        (_program_text(r'"as_int": 1}', f'"as_string": {code}}}'), None, "which may end inside a quotation"),
        (sample, None, "data/sample_inputs/model.pt. holds pickles"),
        (same, {"data/constants/opaque_obj_0": pickle.dumps(Touch(trap))}, "an object other than tensors"),
        (same, {"data/aotinductor/model/lib.so": b"code"}, "holds compiled code"),
    ]
    for change, more, problem in cases:
        with pytest.raises((UnsupportedError, UsageError), match=problem):
            export_policy(_changed(path, change, more), tmp_path / "out")
    assert not trap.exists()


@pytest.mark.parametrize("module", [Net, Cell], ids=["as it is", "taken apart"])
def test_guards_that_a_file_carries_never_run(module: type[nn.Module], tmp_path: Path) -> None:
    """Torch keeps guards as Python, and would compile them with the program: they are dropped."""
    trap = tmp_path / "trap"
    guard = json.dumps([f"__import__('pathlib').Path({str(trap)!r}).touch() or True"])
    path = _saved(module(), tmp_path, 1)
    export_policy(
        _changed(path, _program_text(r'"guards_code": \[[^\]]*\]', f'"guards_code": {guard}')), tmp_path / "out"
    )
    assert (tmp_path / "out" / "contract.json").exists()
    assert not trap.exists()


@pytest.mark.parametrize("legacy", [True, False], ids=["before torch 2.8", "now"])
def test_a_compressed_record_is_refused_before_it_is_unpacked(legacy: bool, tmp_path: Path) -> None:
    """A few MB that unpack to all memory would end the process, and torch compresses nothing."""
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json" if legacy else "bomb/models/model.json", "{}")
        archive.writestr("extra_files/x", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(UsageError, match="one of its records is compressed"):
        export_policy(path, tmp_path / "out")


def test_records_that_share_the_bytes_of_a_file_are_refused(tmp_path: Path) -> None:
    """Many records over the same bytes unpack to more than the file."""
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", bytes(5000))
        for number in range(3):
            again = copy.copy(archive.infolist()[0])
            again.filename = f"extra_files/{number}"
            archive.filelist.append(again)
    with pytest.raises(UsageError, match="its records claim more bytes than the file has"):
        export_policy(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda good: good[: len(good) // 2], "is damaged, or not of torch.export.save"),
        (lambda good: b"", "is damaged, or not of torch.export.save"),
        (lambda good: pickle.dumps({"weights": 1}), "is damaged, or not of torch.export.save"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_a_sentence(
    content: Callable[[bytes], bytes], problem: str, tmp_path: Path
) -> None:
    """Cut short, empty, or a pickle with this name."""
    path = _saved(Net(), tmp_path)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(UsageError, match=problem) as refusal:
        export_policy(path, tmp_path / "out")
    assert "torch.export.save" in refusal.value.remedy


def test_torchscript_under_this_name_and_a_newer_schema_are_refused(tmp_path: Path) -> None:
    """What a newer torch wrote is named with its version; TorchScript is no program of torch.export."""
    path = _saved(Net(), tmp_path)
    newer = _changed(path, _program_text(r'"schema_version": \{"major": \d+', '"schema_version": {"major": 99'))
    with pytest.raises(UsageError, match=r"cannot read changed.pt2 \(saved by torch 2[^,]*, schema 99\."):
        export_policy(newer, tmp_path / "out")
    torch.jit.save(torch.jit.script(Net()), path)
    with pytest.raises(UsageError, match=r"walk\.pt2"):
        export_policy(path, tmp_path / "out")


def test_a_file_of_before_torch_2_8_is_read(tmp_path: Path) -> None:
    """It was a plain archive, whose weights are pickles of tensors."""
    from torch._export.serde.serialize import SCHEMA_VERSION, serialize

    written = serialize(_program(Net()))
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        archive.writestr("serialized_exported_program.json", written.exported_program)
        archive.writestr("serialized_state_dict.pt", written.state_dict)
        archive.writestr("serialized_constants.pt", written.constants)
        archive.writestr("serialized_example_inputs.pt", written.example_inputs)
    result = export_policy(path, tmp_path / "out", formats=["torchscript"], golden_rows=8)
    assert result.contract.observations[0].shape == (SEEN,)


def test_the_commands_of_the_guide_run(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command about a .pt2 file, as the guide has it; spaces that do not fit are refused in words."""
    monkeypatch.chdir(tmp_path)
    _saved(Net(), tmp_path)
    commands = re.findall(r"^policyctl (export \S+\.pt2 .*)$", GUIDE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        done = run(*shlex.split(command))
        assert done.code == 0, done.err
    done = run("export", "walk.pt2", "--observation", "5", "--action", str(ACTS), "-o", "other")
    assert done.code == 2
    assert "input obs is float32[any, 3], the observation space says [5]" in done.err


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also the second time in a process, whose counters have moved on."""
    path = _saved(Recurrent(), tmp_path, 1)
    files = []
    for number in range(2):
        export_policy(path, tmp_path / f"out{number}", formats=["torchscript"], golden_rows=8)
        files.append({p.name: p.read_bytes() for p in sorted((tmp_path / f"out{number}").iterdir())})
    assert files[0] == files[1]


class Table(nn.Module):
    """Scores of two choices at once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(SEEN, 6)

    def forward(self, obs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(obs).reshape(-1, 2, 3)}


def test_a_chunk_of_actions_is_the_action_by_its_name(tmp_path: Path) -> None:
    """Its steps come from the file's own shape; what stands next to it is kept."""
    result = export_policy(_saved(Plans(), tmp_path), tmp_path / "out", formats=["torchscript"], golden_rows=8)
    shapes = [(spec.name, spec.shape) for spec in result.contract.outputs]
    assert shapes == [("action", (2, ACTS)), ("estimate", (1,))]


def test_scores_of_several_dimensions_need_an_action_space(tmp_path: Path) -> None:
    """Of shape (2, 3) they may choose one of 6, or twice one of 3."""
    with pytest.raises(UsageError, match=r"its logits are \[any, 2, 3\]") as refusal:
        export_policy(_saved(Table(), tmp_path), tmp_path / "out")
    assert "multidiscrete" in refusal.value.remedy
