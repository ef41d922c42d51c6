"""TorchScript that keeps its memory in attributes is served with that memory in the contract, or refused by name."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.memory import episode
from policyctl_exporters.runtimes import runners

SEEN, ACTS = 3, 2
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (SEEN,), np.float32)
ACTIONS = spaces.Box(-np.inf, np.inf, (ACTS,), np.float32)


class Net(nn.Module):
    """Two layers, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(SEEN, 8), nn.Tanh(), nn.Linear(8, ACTS))
        self.register_buffer("h", torch.full((1, ACTS), 0.25))


class Recurrent(nn.Module):
    """As rsl_rl and Unitree export it: two layers of an LSTM, which are written in place; it also prints."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(SEEN, 5, num_layers=2)
        self.actor = nn.Linear(5, ACTS)
        self.register_buffer("hidden_state", torch.zeros(2, 1, 5))
        self.register_buffer("cell_state", torch.zeros(2, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        out, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        print("step", x)
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(out.squeeze(0))

    @torch.jit.export
    def reset_memory(self) -> None:
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


class Smooths(Net):
    """An action that follows the last one, as an attribute that is replaced."""

    def forward(self, x: Tensor) -> Tensor:
        self.h = 0.7 * self.h + 0.3 * self.net(x)
        return self.h


class LimitsRates(Net):
    """Of a shape without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(ACTS)

    def forward(self, x: Tensor) -> Tensor:
        action = self.last + torch.clamp(self.net(x) - self.last, -0.1, 0.1)
        self.last = action[0]
        return action


class Branches(Net):
    """Remembers on one of two paths, and counts in a tensor of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        if bool((x[:, 0] > 0).all()):
            self.h = self.h + x[:, :2]
        elif bool((x[:, 1] > 0).all()):
            self.h = torch.zeros_like(self.h)
        return self.net(x) + self.h + self.count


class Loops(Net):
    """Writes as often as the observation says."""

    def forward(self, x: Tensor) -> Tensor:
        turns = 0
        while turns < 4 and bool((self.h < x.abs().sum()).all()):
            self.h = self.h + 0.5
            turns += 1
        for _ in range(2):
            self.h = 0.9 * self.h
        return self.net(x) + self.h


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phase", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.phase += 0.1
        return x + torch.sin(self.phase).unsqueeze(1)


class Deep(Net):
    """In a module within."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.inner(x))


def _saved(module: nn.Module, folder: Path, *, after: int = 0) -> Path:
    """The module as a file, after it took some steps."""
    script, path = torch.jit.script(module.eval()), folder / "policy.pt"
    for _ in range(after):
        script(torch.ones(1, SEEN))
    torch.jit.save(script, path)
    return path


def _export(path: Any, folder: Path, **settings: Any) -> Any:
    spaces_ = {"observation_space": OBSERVATIONS, "action_space": ACTIONS}
    return export_policy(path, folder / "out", golden_rows=8, **(spaces_ | settings))


def _played(module: nn.Module, rows: NDArray[Any]) -> NDArray[Any]:
    with torch.no_grad():
        return np.concatenate([module(torch.from_numpy(row[None])).numpy() for row in rows])


@pytest.mark.parametrize(
    ("kind", "states", "batches"),
    [
        (Recurrent, {"cell_state": 0.0, "hidden_state": 0.0}, True),
        (Smooths, {"h": 0.25}, True),
        (LimitsRates, {"last": 0.0}, False),
        (Branches, {"count": 0.0, "h": 0.25}, False),
        (Loops, {"h": 0.25}, False),
        (Deep, {"inner_phase": 0.0}, True),
    ],
)
def test_memory_in_attributes_is_served_as_states(
    kind: Any, states: dict[str, float], batches: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two episodes in turn get, in every format, what two copies of the policy answer them; nothing is printed."""
    result = _export(_saved(kind(), tmp_path), tmp_path)
    assert result.failed == {}
    assert {state.input: state.initial for state in result.contract.states} == states
    assert result.contract.max_batch == (None if batches else 1)
    rows = np.random.default_rng(0).standard_normal((2, 15, SEEN)).astype(np.float32)
    right = [_played(kind().eval(), each) for each in rows]
    capfd.readouterr()
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            memories: list[Any] = [None, None]
            for step in range(15):
                for caller in range(2):
                    seen = {"observation": rows[caller, step : step + 1]}
                    if memories[caller] is None:
                        _, answer = episode(run, result.contract, seen)
                    else:
                        answer = run(seen | memories[caller])
                    memories[caller] = {state.input: answer[state.output] for state in result.contract.states}
                    np.testing.assert_allclose(answer["action"][0], right[caller][step], rtol=0, atol=2e-5)
    assert capfd.readouterr().out == ""


def test_a_live_program_stays_as_it_was(tmp_path: Path) -> None:
    """Its own memory is what an episode begins with, and no export moves it."""
    program = torch.jit.script(Smooths().eval())
    program(torch.ones(1, SEEN))
    before = program.h.clone()
    (state,) = _export(program, tmp_path, formats=["torchscript"]).contract.states
    np.testing.assert_array_equal(np.asarray(state.initial, np.float32), before.reshape(-1).detach().numpy())
    assert torch.equal(program.h, before)


@torch.jit.script
class Count:
    def __init__(self) -> None:
        self.n = 0


class CountsInPython(Net):
    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0

    def forward(self, x: Tensor) -> Tensor:
        self.ticks += 1
        return self.net(x) + self.ticks


class CountsInAnObject(Net):
    def __init__(self) -> None:
        super().__init__()
        self.count = Count()

    def forward(self, x: Tensor) -> Tensor:
        self.count.n += 1
        return self.net(x) + self.count.n


class InAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.past = [torch.zeros(1, ACTS)]

    def forward(self, x: Tensor) -> Tensor:
        self.past[0] = self.net(x)
        return self.past[0]


class Grows(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.cat([self.h, self.net(x)])
        return self.h.sum(0, keepdim=True)


class Shares(Net):
    """Two names of one tensor: what is written by one is read by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.h

    def forward(self, x: Tensor) -> Tensor:
        self.h.mul_(0.5).add_(self.net(x))
        return self.alias + 0.0


class BeginsWithNan(Net):
    """Marks a first step by NaN, which no contract writes down."""

    def __init__(self) -> None:
        super().__init__()
        self.h[:] = torch.nan

    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.where(torch.isnan(self.h), self.net(x), 0.5 * self.h)
        return self.h


class BeginsWithInfinity(Net):
    """Keeps the least of all answers."""

    def __init__(self) -> None:
        super().__init__()
        self.h[:] = torch.inf

    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.minimum(self.h, self.net(x))
        return self.h


class RingBuffer(Net):
    """An index that other memory than its own leads astray."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("at", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("past", torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        action = self.net(x)
        self.past[self.at] = action
        self.at = (self.at + 1) % 4
        return action + self.past.mean(0)


def test_an_index_that_is_not_brought_into_its_range_is_refused(tmp_path: Path) -> None:
    """Memory travels with a request: what a client sends must not end in an error of the runtime."""
    with pytest.raises(UnsupportedError, match=r"policy\.pt fails with other memory than its own: .*out of") as refusal:
        _export(_saved(RingBuffer(), tmp_path), tmp_path)
    assert "Bring an index into its range" in refusal.value.remedy


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (CountsInPython, r"policy\.pt keeps state between calls: a call changes ticks, no tensor of numbers but int$"),
        (CountsInAnObject, r"a call changes count\.n, no tensor of numbers but int$"),
        (InAList, "a call changes past, no tensor of numbers but list$"),
        (Grows, r"a call changes h, float32\[1, 2\] before it and float32\[2, 2\] after it$"),
        (BeginsWithNan, r"a call changes h, which begins with NaN or infinity$"),
        (BeginsWithInfinity, r"a call changes h, which begins with NaN or infinity$"),
        (Shares, r"policy\.pt remembers more than h, which a call changes$"),
    ],
)
def test_what_cannot_become_a_state_is_refused_by_name(kind: Any, problem: str, tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(UnsupportedError, match=problem) as refusal:
        _export(_saved(kind(), tmp_path), tmp_path)
    assert "Keep it in tensors that have one shape and type" in refusal.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_file_that_begins_in_the_middle_of_an_episode_is_refused(tmp_path: Path) -> None:
    """Its own reset begins with other memory, and which of the two a robot begins with nobody can say."""
    with pytest.raises(
        UnsupportedError, match=r"begins with other memory than its reset_memory\(\) sets: cell_state, hidden_state$"
    ) as refusal:
        _export(_saved(Recurrent(), tmp_path, after=3), tmp_path)
    assert "Call reset_memory() before you save" in refusal.value.remedy


class CannotReset(Smooths):
    @torch.jit.export
    def reset(self) -> None:
        raise RuntimeError("not yet written")


def test_a_reset_that_fails_is_refused(tmp_path: Path) -> None:
    """It cannot say what an episode begins with."""
    with pytest.raises(UnsupportedError, match=r"policy\.pt: reset\(\), which begins an episode, fails: .*not yet"):
        _export(_saved(CannotReset(), tmp_path), tmp_path)


def test_pairs_of_states_are_refused_where_the_source_has_no_such_tensors(tmp_path: Path) -> None:
    """A module's memory is not named so, and what a program keeps in its attributes is found without."""
    refusals = {
        Smooths(): r"--state names tensors of an ONNX, \.pt2 or TorchScript file, and Smooths is not one",
        _saved(Smooths(), tmp_path): r"policy\.pt has no input h: its forward\(\) takes x",
    }
    for source, problem in refusals.items():
        with pytest.raises(UsageError, match=problem):
            _export(source, tmp_path, states={"h": "h_out"})


class Explicit(nn.Module):
    """Layers of an LSTM whose memory goes in and comes out: layers first, then the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.actor = nn.LSTM(SEEN, 5, num_layers=2), nn.Linear(5, ACTS)

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, (h, c) = self.rnn(obs.unsqueeze(0), (h, c))
        return self.actor(out.squeeze(0)), h, c


class Nested(Explicit):
    """The same, with the pair as a pair, and an estimate after it."""

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        action, h, c = super().forward(obs, h, c)
        return action, (h, c), action[:, :1]


class ByName(Explicit):
    """The same, batch first, by keys."""

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        out, (after, cell) = self.rnn(obs.unsqueeze(0), (h.transpose(0, 1), c.transpose(0, 1)))
        return {"pi": self.actor(out[0]), "h_n": after.transpose(0, 1), "c_n": cell.transpose(0, 1)}


@pytest.mark.parametrize(
    ("kind", "states", "head"),
    [
        (Explicit, {"h": "1", "c": "2"}, None),
        (Nested, {"h": "1", "c": "2"}, {"0": "action"}),
        (ByName, {"h": "h_n", "c": "c_n"}, None),
    ],
)
def test_memory_that_is_an_argument_is_memory_in_the_contract(
    kind: Any, states: Any, head: Any, tmp_path: Path
) -> None:
    """Fifty steps of two interleaved episodes are the module's own, in every format and for any number of rows."""
    module = kind().eval()
    first = [torch.zeros((1, 2, 5) if kind is ByName else (2, 1, 5))] * 2
    torch.jit.trace(module, (torch.zeros(1, SEEN), *first), strict=False).save(str(tmp_path / "policy.pt"))
    space = spaces.Dict({"obs": OBSERVATIONS, **dict.fromkeys("hc", spaces.Box(-np.inf, np.inf, (2, 5)))})
    result = _export(tmp_path / "policy.pt", tmp_path, observation_space=space, states=states, head=head)
    assert result.contract.max_batch is None
    assert {state.input: state.output for state in result.contract.states} == {"h": "h_out", "c": "c_out"}
    assert [spec.name for spec in result.contract.environment] == ["obs"]
    rows = np.random.default_rng(0).standard_normal((50, 2, SEEN)).astype(np.float32)
    right, own = [], [torch.zeros(2, 2, 5)] * 2
    with torch.no_grad():
        for row in rows:
            action, *after = tree_leaves(module(torch.from_numpy(row), *own))
            right.append(action.numpy())
            own = after[:2]
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            memory = {name: np.zeros((2, 2, 5), np.float32) for name in "hc"}
            for row, action in zip(rows, right, strict=True):
                answer = run({"obs": row, **memory})
                memory = {name: answer[f"{name}_out"] for name in "hc"}
                np.testing.assert_allclose(answer["action"], action, rtol=0, atol=2e-5)


class Steps(nn.Module):
    """What the guide exports."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.actor = nn.LSTM(47, 64), nn.Linear(64, 12)

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> Any:
        out, (h, c) = self.rnn(obs.unsqueeze(0), (h, c))
        return self.actor(out.squeeze(0)), h, c


def test_the_command_of_the_guide_names_memory(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of arguments and the places of outputs."""
    monkeypatch.chdir(tmp_path)
    torch.jit.trace(Steps().eval(), (torch.zeros(1, 47), *[torch.zeros(1, 1, 64)] * 2)).save("steps.pt")
    guide = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    (command,) = re.findall(r"^policyctl (export steps\.pt .*)$", guide, re.MULTILINE)
    done = run(*shlex.split(command), "-f", "torchscript")
    assert done.code == 0, done.err
    assert "h_out continues h: memory" in done.err


def test_arguments_that_nobody_describes_are_refused_with_what_to_say(tmp_path: Path) -> None:
    """Without their shapes, with shapes that the program does not take, and with an output that it does not give."""
    example = (torch.zeros(1, SEEN), torch.zeros(2, 1, 5), torch.zeros(2, 1, 5))
    torch.jit.trace(Explicit().eval(), example).save(str(tmp_path / "policy.pt"))

    def refused(problem: str, shape: tuple[int, ...] | None, after: str) -> str:
        keys = {} if shape is None else dict.fromkeys("hc", spaces.Box(-1.0, 1.0, shape))
        space = spaces.Dict({"obs": OBSERVATIONS, **keys})
        with pytest.raises(UsageError, match=problem) as refusal:
            _export(tmp_path / "policy.pt", tmp_path, observation_space=space, states={"h": after, "c": "2"})
        return refusal.value.remedy

    assert "--observation h=1x64" in refused("takes obs, h, c, and the observation space names obs", None, "1")
    assert "without the batch" in refused("takes and gives no tensors of these shapes: ", (3, 5), "1")
    refused("has no state h=7", (2, 5), "7")


class GivesANumber(Net):
    """A number next to the tensors."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, float]:
        return self.net(x), h + 1.0, 0.5


class GivesNothing(Net):
    """Nothing next to the tensors."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Optional[Tensor]]:  # noqa: UP045
        return self.net(x), h + 1.0, None


@pytest.mark.parametrize(("kind", "what"), [(GivesANumber, "float"), (GivesNothing, "NoneType")])
def test_what_is_no_tensor_next_to_memory_is_refused(kind: Any, what: str, tmp_path: Path) -> None:
    """With its place and type."""
    space = spaces.Dict({"x": OBSERVATIONS, "h": spaces.Box(-np.inf, np.inf, (3,))})
    with pytest.raises(UsageError, match=rf"gives 2 \({what}\) next to its tensors"):
        _export(_saved(kind(), tmp_path), tmp_path, observation_space=space, states={"h": "1"})


class Fades(Net):
    """Memory with its batch first, which takes it in the second place too, by broadcasting."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = 0.9 * h + 0.1 * torch.cat([x, x[:, :1]], 1).unsqueeze(1)
        return self.net(x) + h.sum((1, 2)).unsqueeze(1), h


class TwoOrders(Explicit):
    """Memory with its layers first, and frames with their batch first."""

    def forward(self, obs: Tensor, h: Tensor, c: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        frames = torch.cat([frames[:, 1:], obs.unsqueeze(1)], 1)
        out, (h, c) = self.rnn(frames.mean(1).unsqueeze(0), (h, c))
        return self.actor(out.squeeze(0)), h, c, frames


@pytest.mark.parametrize(
    ("module", "rows", "states"),
    [
        (Fades, {"x": (SEEN,), "h": (2, 4)}, {"h": "1"}),
        (
            TwoOrders,
            {"obs": (SEEN,), "h": (2, 5), "c": (2, 5), "frames": (3, SEEN)},
            {"h": "1", "c": "2", "frames": "3"},
        ),
    ],
)
def test_the_batch_of_each_state_is_where_the_program_has_it(
    module: Any, rows: dict[str, tuple[int, ...]], states: dict[str, str], tmp_path: Path
) -> None:
    """A place that only seems to fit is left, and two states may have it in two places."""
    space = spaces.Dict({name: spaces.Box(-10.0, 10.0, shape) for name, shape in rows.items()})
    path = _saved(module(), tmp_path)
    result = _export(path, tmp_path, observation_space=space, states=states, formats=["torchscript"])
    assert result.contract.max_batch is None
    assert {state.input for state in result.contract.states} == {*states}


class LosesAWrite(Net):
    """The ONNX exporter loses this write, which only a rare observation sets off."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.h if bool((x > 5000).any()) else self.h.clone()
        torch.add(h, 1.0, out=h)
        return self.net(x) + self.h


def test_a_format_that_loses_a_write_is_not_written(tmp_path: Path) -> None:
    """However large the observation, memory is compared by its own size."""
    result = _export(_saved(LosesAWrite(), tmp_path), tmp_path)
    assert [form.value for form in result.formats] == ["torchscript"]
    assert "output h_out differs from the policy's by 1" in result.failed["onnx"].problem


def test_a_served_program_has_no_memory_left(tmp_path: Path) -> None:
    """An artifact asked the same twice answers the same: nothing of a caller stays in the server."""
    result = _export(_saved(Recurrent(), tmp_path), tmp_path, formats=["torchscript"])
    program = torch.jit.load(io.BytesIO((result.output / "model.pt").read_bytes()))
    given = [torch.ones(1, SEEN), torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)]
    assert all(torch.equal(a, b) for a, b in zip(program(*given), program(*given), strict=True))
