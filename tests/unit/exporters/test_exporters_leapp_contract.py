"""A release that goes out as a LEAPP bundle comes back with its whole contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.documents.yaml_text import dump, parse
from policyctl.domain.compatibility import compare
from policyctl.domain.contract import Contract, DistributionKind
from policyctl.domain.drive import Description, Drive, DriveKind
from policyctl.domain.tensor import Role
from policyctl.errors import UsageError
from policyctl_exporters import export_policy

SEES = spaces.Box(np.array([-1.0, -np.inf, 0.0, -2.0, -2.0, -3.0], np.float32), np.inf, dtype=np.float32)
FREE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTS = spaces.Box(np.array([-1.0, -0.5], np.float32), np.array([1.0, 0.25], np.float32))


class Gives(nn.Module):
    """Outputs made of one layer of so many numbers."""

    def __init__(self, observes: int, size: int, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.make = nn.Linear(observes, size), make

    def forward(self, obs: Tensor) -> Any:
        return self.make(self.net(obs))


class Walks(nn.Module):
    """Gaussian, with a goal and the number of the step; what it gives last has a name that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(10, 2)

    def forward(self, obs: Tensor, to: Tensor, step: Tensor) -> dict[str, Tensor]:
        mean = self.net(torch.cat([obs, to, step], 1))
        return {"mean": mean, "log_std": torch.full_like(mean, -1.0), "motion": mean.sum(1, keepdim=True)}


class Masked(nn.Module):
    """Scores of three choices, of which a mask rules some out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 3)

    def forward(self, obs: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        scores = self.net(obs)
        return {"logits": torch.where(action_mask > 0, scores, torch.full_like(scores, -1e8)), "value": scores[:, :1]}


class Remembers(nn.Module):
    """A memory that begins with other numbers for each element."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 2)
        self.register_buffer("last", torch.tensor([[0.1, -0.2]]))

    def forward(self, obs: Tensor) -> Tensor:
        self.last = 0.5 * self.last + self.net(obs)
        return self.last.clone()


@dataclass(frozen=True)
class Case:
    """A policy, and what its contract says."""

    module: Any
    observes: spaces.Space[Any]
    acts: spaces.Space[Any]
    said: Description = field(default_factory=Description)
    more: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def walker() -> Case:
    """Everything that a description can say."""
    said = {
        "observations": {"obs": [f"s{place}" for place in range(6)]},
        "joints": ["hip", "knee"],
        "histories": [{"observation": "obs", "length": 3, "terms": [1, 1], "newest": "first", "beginning": "first"}],
        "drive": {
            "kind": "position",
            "scale": [0.25, 0.5],
            "offset": 0.1,
            "stiffness": 40.0,
            "damping": [1.0, 2.0],
            "rate_hz": 50.0,
            "in_graph": False,
        },
        "roles": {"to": "goal", "step": "time_step"},
        "units": {"obs": ["m", "rad"] * 3, "action": "rad", "motion": "m"},
    }
    observes = spaces.Dict({"obs": SEES, "to": FREE, "step": spaces.Box(0.0, 1e6, (1,), np.float32)})
    words = ("stack the last 3 steps in obs", "how many steps of the episode are over as step", "command of an action")
    return Case(Walks(), observes, ACTS, Description.from_data(said, what="test"), words=words)


def chunked() -> Case:
    """Three actions an answer, each with names."""
    module = Gives(3, 6, lambda y: y.reshape(-1, 3, 2))
    acts = spaces.Box(-1.0, 1.0, (3, 2))
    said = {
        "joints": ["x", "y"],
        "chunk": {"horizon": 3, "execute": 2, "interval_s": 0.05},
        "units": {"action": ["m", "s"]},
    }
    words = ("hand out the actions of a chunk",)
    return Case(module, FREE, acts, Description.from_data(said, what="test"), words=words)


def masked() -> Case:
    """A choice that begins at 2."""
    observes = spaces.Dict({"obs": FREE, "action_mask": spaces.MultiBinary(3)})
    return Case(Masked(), observes, spaces.Discrete(3, start=2), Description(roles={"action_mask": Role.ACTION_MASK}))


def several() -> Case:
    """Two choices, whose scores only the contract divides."""
    return Case(Gives(3, 5, lambda y: {"logits": y}), FREE, spaces.MultiDiscrete([3, 2]))


def switches() -> Case:
    """Each on or off, and nothing that draws them."""
    return Case(Gives(3, 2, lambda y: {"action": (y > 0).long()}), FREE, spaces.MultiBinary(2))


def remembers() -> Case:
    """TorchScript, with what it remembers in a buffer; the action is the command itself."""
    said = Description(drive=Drive(DriveKind.TORQUE, rate_hz=200.0, in_graph=True))
    return Case(torch.jit.script(Remembers().eval()), FREE, ACTS, said)


class Reserved(nn.Module):
    """Inputs, outputs and memory with names that the text of a program uses itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 2)
        self.register_buffer("node_1", torch.tensor([[0.1, -0.2]]))

    def forward(self, v1: Tensor, node_0: Tensor) -> dict[str, Tensor]:
        self.node_1 = 0.5 * self.node_1 + self.net(torch.cat([v1, node_0], 1))
        return {"action": self.node_1.clone(), "v2": node_0.sum(1, keepdim=True)}


def reserved() -> Case:
    """Such names stay the contract's; the two inputs have other bounds."""
    observes = spaces.Dict({"v1": spaces.Box(-1.0, 1.0, (3,)), "node_0": spaces.Box(-2.0, 2.0, (3,))})
    return Case(torch.jit.script(Reserved().eval()), observes, ACTS)


CASES = {case.__name__: case for case in (walker, chunked, masked, several, switches, remembers, reserved)}


@pytest.fixture
def bundle(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the release of a policy as a bundle: its contract, the description, and what the command said."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(tmp_path / "models"))

    def make(case: Case, form: str) -> tuple[Contract, Path, str]:
        build, options = tmp_path / "build", {"observation_space": case.observes, "action_space": case.acts}
        result = export_policy(
            case.module, build, formats=[form], golden_rows=8, description=case.said, **options, **case.more
        )
        assert run("publish", str(build), "--model", "walk", "--release", "1.0.0").code == 0
        done = run("release", "export", "walk", "1.0.0", str(tmp_path / "leapp"), "--leapp")
        assert done.code == 0, done.err
        return result.contract, tmp_path / "leapp" / "walk.yaml", done.err

    return make


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", CASES)
def test_a_contract_goes_through_a_leapp_bundle_unchanged(name: str, form: str, bundle: Any, tmp_path: Path) -> None:
    """Bounds, law, names, units, roles, histories, drive and chunk; what LEAPP's runtime leaves undone is said."""
    case = CASES[name]()
    contract, description, said = bundle(case, form)
    again = export_policy(description, tmp_path / "again", formats=[form], golden_rows=8).contract
    assert compare(contract, again) == compare(again, contract) == ()
    assert (again.distribution, again.drive, again.histories) == (
        contract.distribution,
        contract.drive,
        contract.histories,
    )
    assert all(task in said for task in case.words)
    assert bool(case.words) == ("LEAPP's runtime leaves to its caller" in said)


def test_what_leapp_has_fields_for_stands_in_them(bundle: Any) -> None:
    """The rate of the pipeline; and of an action that is a command as it stands, what it commands."""
    _, description, _ = bundle(remembers(), "onnx")
    document = parse(description.read_bytes(), what="test").data
    assert document["pipeline"]["configs"]["frequency"] == 200.0
    (action,) = [each for each in document["models"]["walk"]["outputs"] if each["name"] == "action"]
    assert action["kind"] == "target/joint/torques"


def _without_contract(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = parse(path.read_bytes(), what="test").data
    document["pipeline"]["configs"].pop("policyctl contract")
    path.write_text(dump(document), encoding="utf-8")
    return document


def test_the_fields_of_leapp_itself_are_read(bundle: Any, tmp_path: Path) -> None:
    """Without the contract of a release, as LEAPP writes bundles: the rate, and a torque that nothing is applied to."""
    _, description, _ = bundle(remembers(), "onnx")
    _without_contract(description)
    contract = export_policy(description, tmp_path / "again", formats=["onnx"], golden_rows=8).contract
    assert contract.drive == Drive(DriveKind.TORQUE, rate_hz=200.0, in_graph=True)


def test_what_a_person_says_goes_before_the_contract_of_a_bundle(bundle: Any, tmp_path: Path) -> None:
    """A description over it; and with spaces of one's own the models alone count."""
    _, description, _ = bundle(chunked(), "onnx")
    said = Description(drive=Drive(scale=2.0))
    contract = export_policy(description, tmp_path / "one", formats=["onnx"], golden_rows=8, description=said).contract
    assert contract.drive == Drive(scale=2.0)
    assert contract.chunk is not None
    wide = spaces.Box(-5.0, 5.0, (3, 2))
    contract = export_policy(description, tmp_path / "two", formats=["onnx"], golden_rows=8, action_space=wide).contract
    assert (contract.action.low, contract.chunk) == (-5.0, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["observations"][0].update(shape=[4]), r"the observation space says float32\[4\]"),
        (lambda c: c["outputs"][1].update(name="other_out"), "contract: 'last_out', which continues a state"),
        (lambda c: c["outputs"].append({**c["outputs"][1], "name": "more"}), "the tensor more differs"),
        (lambda c: c["outputs"][0].update(name="other"), "the first output must be called 'action'"),
        (lambda c: c["states"][0].update(initial=[0.1, -0.3]), "the memory differs"),
        (lambda c: c.update(action_kind="multi_binary"), "the action space MultiBinary"),
    ],
)
def test_a_contract_that_is_not_of_the_models_is_refused(
    change: Any, problem: str, bundle: Any, tmp_path: Path
) -> None:
    """Another shape, name, memory or kind: somebody has changed the description."""
    _, description, _ = bundle(remembers(), "onnx")
    document = parse(description.read_bytes(), what="test").data
    change(document["pipeline"]["configs"]["policyctl contract"])
    description.write_text(dump(document), encoding="utf-8")
    with pytest.raises(UsageError, match=problem):
        export_policy(description, tmp_path / "again", formats=["onnx"], golden_rows=8)


def test_the_cases_have_what_they_are_for(tmp_path: Path) -> None:
    """A law for each kind of draw that a name promises, and a mask with its role."""
    laws = {}
    for name in ("walker", "masked", "several"):
        case = CASES[name]()
        contract = export_policy(
            case.module,
            tmp_path / name,
            formats=["onnx"],
            golden_rows=8,
            observation_space=case.observes,
            action_space=case.acts,
            description=case.said,
        ).contract
        laws[name] = contract.distribution.kind
        assert name != "masked" or contract.with_role(Role.ACTION_MASK)
    assert laws == {
        "walker": DistributionKind.GAUSSIAN,
        "masked": DistributionKind.CATEGORICAL,
        "several": DistributionKind.MULTI_CATEGORICAL,
    }
