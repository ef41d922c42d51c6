"""A choice that a policy gives as floats is served where its operators make whole numbers, and else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from gymnasium import spaces
from onnx import TensorProto
from onnx_graphs import node, port, save
from torch import Tensor, nn
from torch.nn import functional

from policyctl.errors import UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners
from policyctl_exporters.whole_numbers import whole

BOX = spaces.Box(-1.0, 1.0, (4,))
ROWS = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32))
TABLE = torch.tensor([3.0, 1.0, 2.0])
HALVES = torch.tensor([0.0, 0.5, 1.0])


def best(y: Tensor) -> Tensor:
    """The choice that most policies make."""
    return y.argmax(1, keepdim=True).float()


def large(x: Tensor) -> Tensor:
    """Whole, and maybe as large as an integer can be."""
    return x[:, :2].long().float()


def written(y: Tensor) -> Tensor:
    """Place by place."""
    found = torch.zeros_like(y)
    found[:, 0] = y.argmax(1).float()
    found[:, 1] += (y[:, 1] > 0).float()
    return found


def half_written(y: Tensor) -> Tensor:
    """With a fraction in one place."""
    found = (y > 0).float()
    found[:, 0] += 0.5 * (y[:, 0] > 1e4)
    return found


def fraction_below(y: Tensor) -> Tensor:
    """A whole number written over a part of what has fractions."""
    found = y.clone()
    found[:, 0] = y.argmax(1).float()
    return found


def fraction_constant(y: Tensor) -> Tensor:
    """The same over a part of a constant."""
    found = torch.full_like(y, 0.5)
    found[:, 0] = y.argmax(1).float()
    return found


def left_blank(y: Tensor) -> Tensor:
    """One place holds whatever lay in memory."""
    found = torch.empty_like(y)
    found[:, 0] = y.argmax(1).float()
    return found


def sum_into(y: Tensor) -> Tensor:
    """Whole numbers, put into a part of what has fractions."""
    found = y.clone()
    torch.add((y[:, 0] > 0).float(), (y[:, 1] > 0).float(), out=found[:, 0])
    return found


def read_again(y: Tensor) -> Tensor:
    """The bits of an integer as a float; then somebody looks at the integer once more."""
    place = y.argmax(1).to(torch.int32)
    bits = place.view(torch.float32)
    place.view(-1)
    return bits


def read_before(y: Tensor) -> Tensor:
    """The bits of zeros as a float; then an integer is written there."""
    place = torch.zeros(y.shape[0], dtype=torch.int32)
    bits = place.view(torch.float32)
    place.copy_(y.argmax(1))
    return bits


CHOICES: dict[str, Any] = {
    "a comparison": lambda x, y: (y > 0).float(),
    "the best of two, twice": lambda x, y: torch.stack([y.argmax(1), y.argmin(1)], dim=1).float(),
    "one number plus another": lambda x, y: (y > 0).float() * 2.0 - torch.clamp((x[:, :2] > 0).double(), 0, 1),
    "a table of choices": lambda x, y: TABLE[torch.stack([y.argmax(1)] * 2, dim=1)],
    "an embedding of choices": lambda x, y: functional.embedding(y.argmax(1), TABLE[:, None]),
    "a row of a table": lambda x, y: (x[:, :1] > 2).float() + TABLE.index_select(0, y.argmax(1))[:, None],
    "gathered choices": lambda x, y: ((x[:, :1] > 0).float() * TABLE).gather(1, y.argmax(1, keepdim=True)),
    "one of two choices": lambda x, y: torch.where(y > 0, torch.ones(()), (x[:, :2] > 0).float()),
    "one code times a table": lambda x, y: (y == y.amax(1, keepdim=True)).float() @ TABLE[:2, None],
    "a count": lambda x, y: (x > 0).float().sum(1, keepdim=True),
    "rounded all the same": lambda x, y: best(y).round().floor().ceil(),
    "without NaN": lambda x, y: torch.nan_to_num(best(y)).clamp(0.0, 3.0),
    "ruled out": lambda x, y: best(y).masked_fill(x[:, :1] > 0, 2.0),
    "written into zeros": lambda x, y: written(y),
    "padded": lambda x, y: functional.pad(best(y), (0, 1), value=1.0),
    "in order": lambda x, y: torch.cat([best(y), best(-y), best(x)], 1).sort(1).values,
    "the largest": lambda x, y: torch.cat([best(y), best(x)], 1).amax(1, keepdim=True),
    "arranged": lambda x, y: torch.cat([best(x)[:, None].expand(-1, 2, 1).flip(1).squeeze(-1), best(y)], 1)[:, 1:],
    "in half precision": lambda x, y: y.argmax(1, keepdim=True).half().float(),
    "the mode of a distribution": lambda x, y: torch.stack(
        [torch.distributions.Categorical(logits=each, validate_args=False).mode.float() for each in (x, y)], dim=1
    ),
    "cut off": lambda x, y: large(x * 3) + 2.0,
    "integers": lambda x, y: (y * 3).long(),
}
FRACTIONS: dict[str, Any] = {
    "half a choice far out": lambda x, y: (y > 0).float() + 0.5 * (x[:, :2].abs() > 1e4).float(),
    "half of a sum": lambda x, y: torch.add(best(y), best(x), alpha=0.5),
    "a quotient": lambda x, y: best(y) / 2,
    "a mean": lambda x, y: (x > 0).float().mean(1, keepdim=True),
    "beyond a limit the limit": lambda x, y: torch.where(y.abs() < 1e4, (y > 0).float(), y),
    "a limit that no usual row meets": lambda x, y: torch.clamp((y > 0).float(), max=(1e6 - x[:, :1]).abs()),
    "a table with halves": lambda x, y: HALVES[2 * (y.abs() < 1e4).long() + 0 * y.long() - (y.abs() > 1e4).long()],
    "a part of a table with halves": lambda x, y: HALVES[:1].expand(2) + 0 * (y > 0).float() + HALVES[1] * (y > 1e4),
    "one code times halves": lambda x, y: (y == y.amax(1, keepdim=True)).float() @ HALVES[:2, None],
    "ruled out by a half": lambda x, y: best(y).masked_fill(x[:, :1] > 1e4, 0.5),
    "padded by a half": lambda x, y: functional.pad(best(y), (0, 1), value=0.5),
    "a place that is written to": lambda x, y: half_written(y),
    "a fraction next to what is written": lambda x, y: fraction_below(y),
    "a constant fraction next to what is written": lambda x, y: fraction_constant(y),
    "a place that nothing is written to": lambda x, y: left_blank(y),
    "a sum that is put next to a fraction": lambda x, y: sum_into(y),
    "rounded, where NaN stays NaN": lambda x, y: y.round(),
    "without NaN, with fractions": lambda x, y: torch.nan_to_num(y),
    "bits of an integer": lambda x, y: (y > 1e4).int().view(torch.float32),
    "bits of an integer that is looked at again": lambda x, y: read_again(y),
    "bits where an integer is written later": lambda x, y: read_before(y),
    "infinite in half precision": lambda x, y: ((y > 1e4) * 300.0 * 300.0).half().float(),
    "a product that may be infinite, from itself": lambda x, y: large(x) * large(x) * large(x) * 0.0,
    "a sum that another order rounds otherwise": lambda x, y: large(x).sum(1, keepdim=True),
}


class Gives(nn.Module):
    """Whatever `make` makes of the observation."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.make = nn.Linear(4, 2), make

    def forward(self, x: Tensor) -> Any:
        return self.make(x, self.net(x))


def is_whole(make: Any) -> bool:
    """What is known of the answer to one row."""
    return whole(Gives(make).eval(), [ROWS[:1]], lambda found: found)


@pytest.mark.parametrize("name", CHOICES)
def test_floats_that_operators_make_of_integers_are_whole(name: str) -> None:
    """Whatever is observed: what they make of them is whole, and as large as its type can hold."""
    assert is_whole(CHOICES[name])


@pytest.mark.parametrize("name", FRACTIONS)
def test_floats_that_may_have_fractions_are_not_whole_though_all_usual_rows_are(name: str) -> None:
    """Nor is what may be infinite, or NaN, or rounded otherwise by another runtime."""
    assert not is_whole(FRACTIONS[name])


class All(nn.Module):
    """Every such choice, next to one another, and a value."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.net(x)
        made = [make(x, y).reshape(x.shape[0], -1).float() for make in CHOICES.values()]
        return {"actions": torch.cat(made, 1), "value": y[:, :1]}


def saved(module: nn.Module, form: str, folder: Path) -> Any:
    """The policy as somebody hands it over."""
    match form:
        case "torchscript":
            torch.jit.save(torch.jit.trace(module, ROWS[:2], strict=False, check_trace=False), folder / "policy.pt")
            return folder / "policy.pt"
        case "pt2":
            batch = {"x": {0: torch.export.Dim("batch", min=2)}}
            torch.export.save(torch.export.export(module, (ROWS[:2],), dynamic_shapes=batch), folder / "policy.pt2")
            return folder / "policy.pt2"
        case _:
            return module


@pytest.mark.parametrize("form", ["module", "torchscript", "pt2"])
def test_choices_that_a_policy_gives_as_floats_are_its_action(form: str, tmp_path: Path) -> None:
    """Every artifact gives what the policy gives, of each construction, as integers."""
    policy = All().eval()
    wanted = policy(ROWS)["actions"].detach().numpy()
    space = spaces.MultiDiscrete([9] * wanted.shape[1])
    result = export_policy(
        saved(policy, form, tmp_path), tmp_path / "out", golden_rows=8, observation_space=BOX, action_space=space
    )
    assert result.failed == {}
    assert result.contract.action.dtype == "int64"
    (observation,) = [spec.name for spec in result.contract.observations]
    for each in result.formats:
        for run in runners(each, result.output, result.contract).values():
            np.testing.assert_array_equal(run({observation: ROWS.numpy()})["action"], wanted)


@pytest.mark.parametrize("form", ["module", "torchscript", "pt2"])
@pytest.mark.parametrize("name", ["a place that is written to", "rounded, where NaN stays NaN"])
def test_a_choice_that_may_have_fractions_is_refused(tmp_path: Path, name: str, form: str) -> None:
    """What is served would be cut to an integer, and differ from what the policy says."""
    module = Gives(lambda x, y: {"actions": FRACTIONS[name](x, y), "value": y[:, :1]}).eval()
    space = spaces.MultiDiscrete([9, 9])
    with pytest.raises(UsageError, match="the module's actions may have fractions"):
        export_policy(saved(module, form, tmp_path), tmp_path / "out", observation_space=BOX, action_space=space)


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LINEAR = node("MatMul", ["obs", "w"], ["y"])
BEST = [LINEAR, node("ArgMax", ["y"], ["best"], axis=1, keepdims=1), node("Cast", ["best"], ["choice"], to=FLOAT)]
POSITIVE = [LINEAR, node("Greater", ["y", "none"], ["above"]), node("Cast", ["above"], ["switch"], to=FLOAT)]
WHOLE_GRAPHS: dict[str, Any] = {
    "the best, as a float": ([*BEST, node("Identity", ["choice"], ["action"])], 1),
    "switches": ([*POSITIVE, node("Identity", ["switch"], ["action"])], 2),
    "one number plus another": (
        [*POSITIVE, node("Mul", ["switch", "two"], ["m"]), node("Add", ["m", "two"], ["action"])],
        2,
    ),
    "a table of choices": ([*BEST[:2], node("Gather", ["wholes", "best"], ["action"], axis=0)], 1),
    "one of two": ([*POSITIVE, node("Where", ["above", "two", "none"], ["action"])], 2),
    "side by side": (
        [
            *(*BEST, *POSITIVE[1:]),
            node("Concat", ["choice", "switch"], ["c"], axis=1),
            node("Neg", ["c"], ["n"]),
            node("Clip", ["n", "least", "most"], ["action"]),
        ],
        3,
    ),
}
FRACTION_GRAPHS: dict[str, Any] = {
    "rounded, where NaN stays NaN": ([LINEAR, node("Round", ["y"], ["action"])], 2),
    "a quotient": ([*POSITIVE, node("Div", ["switch", "two"], ["action"])], 2),
    "a table with halves": ([*BEST[:2], node("Gather", ["halves", "best"], ["action"], axis=0)], 1),
    "half a choice far out": (
        [*POSITIVE, node("Mul", ["switch", "half"], ["m"]), node("Add", ["m", "m"], ["action"])],
        2,
    ),
    "beyond a limit the limit": ([*POSITIVE, node("Where", ["above", "switch", "y"], ["action"])], 2),
    "a limit that is observed": ([*POSITIVE, node("Min", ["switch", "y"], ["action"])], 2),
    "infinite in half precision": (
        [
            *POSITIVE,
            node("Mul", ["switch", "many"], ["m"]),
            node("Cast", ["m"], ["h"], to=HALF),
            node("Cast", ["h"], ["action"], to=FLOAT),
        ],
        2,
    ),
}
NUMBERS = {"none": np.float32(0), "two": np.float32(2), "half": np.float32(0.5), "many": np.float32(1e5)} | {
    "wholes": np.array([3, 1], np.float32),
    "halves": np.array([0, 0.5], np.float32),
    "least": np.float32(-3),
    "most": np.float32(3),
}


def graph(made: tuple[list[Any], int], folder: Path) -> Path:
    """A file of these nodes, whose action has so many floats."""
    nodes, size = made
    return save(folder, nodes, {"obs": ["n", 4]}, [port("action", ["n", size])], weights=NUMBERS)


@pytest.mark.parametrize("name", WHOLE_GRAPHS)
def test_whole_floats_of_an_onnx_file_are_its_choices(name: str, tmp_path: Path) -> None:
    """They are served as integers, and are what the file gives."""
    source = graph(WHOLE_GRAPHS[name], tmp_path)
    wanted = ort.InferenceSession(str(source)).run(None, {"obs": ROWS.numpy()})[0]
    space = spaces.MultiDiscrete([9] * wanted.shape[1])
    result = export_policy(source, tmp_path / "out", golden_rows=8, action_space=space)
    assert (result.failed, result.contract.action.dtype) == ({}, "int64")
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            np.testing.assert_array_equal(run({"obs": ROWS.numpy()})["action"], wanted)


@pytest.mark.parametrize("name", FRACTION_GRAPHS)
def test_floats_of_an_onnx_file_that_may_have_fractions_are_no_choices(name: str, tmp_path: Path) -> None:
    """The refusal says what to do."""
    space = spaces.MultiDiscrete([9] * FRACTION_GRAPHS[name][1])
    with pytest.raises(UsageError, match=r"action is float32\[\d\] for one observation") as refusal:
        export_policy(graph(FRACTION_GRAPHS[name], tmp_path), tmp_path / "out", action_space=space)
    assert "export it again as integers" in refusal.value.remedy


def test_limits_that_a_file_of_an_old_opset_keeps_in_attributes_may_have_fractions(tmp_path: Path) -> None:
    """A choice of 2 that is cut to 1.5 is no choice."""
    nodes = [*BEST, node("Clip", ["choice"], ["action"], min=0.0, max=1.5)]
    source = save(tmp_path, nodes, {"obs": ["n", 4]}, [port("action", ["n", 1])], domains={"": 10})
    with pytest.raises(UsageError, match=r"action is float32\[1\] for one observation"):
        export_policy(source, tmp_path / "out", action_space=spaces.Discrete(9))


class Rarely(nn.Module):
    """A choice that a branch makes half of, for observations that nobody draws."""

    def forward(self, x: Tensor) -> Tensor:
        choice = (x[:, :1] > 0).float()
        if bool((x.abs() > 1e4).any()):
            choice = choice * 0.5
        return choice


def test_a_choice_behind_a_branch_may_have_fractions(tmp_path: Path) -> None:
    """In a file of TorchScript the other side of a branch is not seen."""
    torch.jit.save(torch.jit.script(Rarely()), str(tmp_path / "rarely.pt"))
    options = {"observation_space": BOX, "action_space": spaces.Discrete(2), "head": "action"}
    with pytest.raises(UsageError, match="the module's action may have fractions") as refusal:
        export_policy(tmp_path / "rarely.pt", tmp_path / "out", **options)
    assert ".long()" in refusal.value.remedy
