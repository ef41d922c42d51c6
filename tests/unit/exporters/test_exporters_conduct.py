"""A policy that remembers, draws or branches is refused in words that are true, or served rightly."""

from __future__ import annotations

import importlib.util
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.errors import ParityError, UnsupportedError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.memory import episode
from policyctl_exporters.runtimes import open_runner, runners

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
USUAL = np.array([[1, 0, 0, 0.5], [1, -1, 0, -0.5]], np.float32)
FAR = np.array([[0, 0, 0, 600], [0, 1e6, 0, 1]], np.float32)


SHORT = ("onnx", "torchscript")
"""For what another case shows in OpenVINO too, which is converted from ONNX."""


def _export(source: Any, folder: Path, **settings: Any) -> Any:
    settings = {"observation_space": OBSERVATIONS, "action_space": ACTIONS} | settings
    return export_policy(source, folder, **settings)


def _require_same(result: Any, policy: Callable[[Tensor], Tensor], rows: np.ndarray) -> None:
    with torch.no_grad():
        right = torch.cat([policy(row[None]) for row in torch.tensor(rows)]).numpy()
    assert result.formats
    for form in result.formats:
        runner = open_runner(form, result.output, result.contract)
        answers = np.concatenate([runner({"observation": row[None]})["action"] for row in rows])
        np.testing.assert_allclose(answers, right, rtol=1e-4, atol=1e-5)


@pytest.fixture
def stateful(case: Callable[[str], Path]) -> Any:
    """The module `stateful` of the case, imported."""
    spec = importlib.util.spec_from_file_location("stateful", case("hidden_state") / "stateful.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REMEMBERS = {
    "Ema": "prev",
    "EmaMean": "prev",
    "Calibrate": "n, origin",
    "Phase": "t",
    "ResetOnSize": "h",
    "RateLimit": "last",
    "Latch": "latched",
}


@pytest.mark.case
@pytest.mark.parametrize(("name", "attributes"), REMEMBERS.items())
def test_a_module_that_remembers_is_refused_by_the_names_of_what_it_changes(
    name: str, attributes: str, stateful: Any, tmp_path: Path
) -> None:
    """Also where only a rare observation changes it; compiled, it is served."""
    module = getattr(stateful, name)()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(UnsupportedError, match=f"{name} keeps state between calls: a call changes {attributes}$") as no:
        _export(module, tmp_path / "out")
    assert "torch.jit.script" in no.value.remedy
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert list((tmp_path).glob("out*")) == []


@pytest.mark.case
@pytest.mark.parametrize(("name", "attributes"), REMEMBERS.items())
def test_a_compiled_policy_that_remembers_is_served_with_its_memory(
    name: str, attributes: str, stateful: Any, tmp_path: Path
) -> None:
    """An episode is answered as by the module itself, through the rare observation as well."""
    formats = None if name in ("Calibrate", "RateLimit", "ResetOnSize") else SHORT
    result = _export(torch.jit.script(getattr(stateful, name)().eval()), tmp_path / "out", formats=formats)
    assert ", ".join(state.input for state in result.contract.states) == attributes
    module, rows = getattr(stateful, name)().eval(), np.concatenate([USUAL, FAR, USUAL])
    with torch.no_grad():
        right = torch.cat([module(row[None]) for row in torch.tensor(rows)]).numpy()
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            _, answers = episode(run, result.contract, {"observation": rows})
            np.testing.assert_allclose(answers["action"], right, rtol=1e-4, atol=1e-5)


@pytest.mark.case
@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("name", ["Noise", "SmallNoise"])
def test_a_policy_that_draws_is_refused_by_its_operator(name: str, script: bool, stateful: Any, tmp_path: Path) -> None:
    """However small the noise is."""
    module = getattr(stateful, name)()
    with pytest.raises(UnsupportedError, match=f"{name} draws random numbers when it answers: randn_like") as refusal:
        _export(torch.jit.script(module) if script else module, tmp_path / "out")
    assert "log_std" in refusal.value.remedy


@pytest.mark.case
@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("name", ["Clutch", "Buttons", "Dropout"])
def test_a_policy_that_branches_is_served_with_both_branches(
    name: str, script: bool, stateful: Any, tmp_path: Path
) -> None:
    """An emergency stop above 500 stops in every artifact, alone: rows of other clients do not set it off."""
    module = getattr(stateful, name)().eval()
    formats = SHORT if script else ("onnx", "openvino", "torchscript")
    result = _export(torch.jit.script(module) if script else module, tmp_path / "out", formats=formats)
    assert result.contract.max_batch == (None if name == "Dropout" else 1)
    _require_same(result, module, np.concatenate([USUAL, FAR]))


@pytest.mark.case
def test_the_emergency_stop_of_the_case_stops(case: Callable[[str], Path], tmp_path: Path) -> None:
    """An observation of 600 gives no action, whatever the exporter saw meanwhile."""
    spec = importlib.util.spec_from_file_location("pol", case("traced_branch") / "pol.py")
    assert spec is not None
    assert spec.loader is not None
    policies = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(policies)
    result = _export(policies.Stop(), tmp_path / "out")
    for form in result.formats:
        answer = open_runner(form, result.output, result.contract)({"observation": FAR[:1]})
        assert answer["action"].tolist() == [[0.0, 0.0]]


@pytest.mark.case
def test_a_recurrent_torchscript_file_is_served_with_its_buffers_as_states(
    case: Callable[[str], Path], tmp_path: Path
) -> None:
    """It takes one observation at a time, and so it is served."""
    space = spaces.Box(-1, 1, (6,), np.float32)
    contract = _export(case("lstm_message") / "motion.pt", tmp_path / "out", observation_space=space).contract
    assert [state.input for state in contract.states] == ["cell_state", "hidden_state"]


class Net(nn.Module):
    """What the policies below have in common."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)


class Counter(Net):
    """Counts in plain Python."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + float(next(self.ticks))


class History(Net):
    """Keeps observations in a list of a plain object."""

    def __init__(self) -> None:
        super().__init__()
        self.log = type("Log", (), {})()
        self.log.rows = []

    def forward(self, x: Tensor) -> Tensor:
        self.log.rows = [*self.log.rows[-3:], x[0]]
        return self.net(x - self.log.rows[0])


class QuietLatch(Net):
    """Its buffer holds the same value after every usual call."""

    latched: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("latched", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.latched = torch.maximum(self.latched, (x.max() > 500).float())
        return self.net(x) * (1 - self.latched)


def _note(cell: list[float], x: Tensor) -> float:
    cell.append(cell[-1] + 1.0)
    return cell[-1] + 0.0 * x.shape[0]


_CELL = [0.0]


class Elsewhere(Net):
    """Keeps its state outside the module."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + _note(_CELL, x)


_FIRST: dict[str, Tensor] = {}


class Calibrates(Net):
    """Keeps what it observed first outside the module, and answers alike from then on."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - _FIRST.setdefault("x", x.mean(dim=0)))


class Numpy(Net):
    """Draws by Python and not by torch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + (1.0 if random.random() < 1e-9 else 0.0)


class Cache(Net):
    """Computes a table once, whatever is observed."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, 2)
        return self.net(x) + self.table


class Writes(Net):
    """Changes the observation that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0).add_(1.0)
        return self.net(x)


class Mixes(Net):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - x.mean(0, keepdim=True))


class KnowsItsBatch(Net):
    """Computes otherwise for two rows, and only for two."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * float(x.shape[0] == 2) + x[:, 2:4]


class OneRow(Net):
    """Has a batch of one in its code."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(1, 2, 2).flatten(1))


class Through(Net):
    """Computes in NumPy, which no exporter sees."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.from_numpy(np.tanh(x.numpy())))


class Selects(Net):
    """Branches on how many entries are positive, by the shape of a result."""

    def forward(self, x: Tensor) -> Tensor:
        if x[x > 0].shape[0] > 3:
            return self.net(x)
        return self.net(-x)


class Part(nn.Module):
    """Remembers one extreme observation."""

    def __init__(self) -> None:
        super().__init__()
        self.latched = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.latched = torch.maximum(self.latched, (x > 0.99).all().float())
        return 1 - self.latched


class Unlisted(Net):
    """Keeps a module that latches where no list of modules has it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [Part()]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.parts[0](x)


class OfTheClass(Net):
    """Latches in an attribute of its class."""

    latched = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        OfTheClass.latched = torch.maximum(OfTheClass.latched, (x > 0.99).all().float())
        return self.net(x) * (1 - OfTheClass.latched)


CLOSE = spaces.Box(-1.0, 1.0, (4,), np.float32)


@pytest.mark.parametrize("kind", [Unlisted, OfTheClass])
def test_a_latch_that_no_attribute_shows_is_found_where_it_is_used(kind: Any, tmp_path: Path) -> None:
    """A second call that computes with what the first one observed gives it away."""
    OfTheClass.latched = torch.zeros(1)
    with pytest.raises(UnsupportedError, match=f"{kind.__name__} computes with what an earlier call observed, at "):
        _export(kind(), tmp_path / "out", observation_space=CLOSE)


_FAILURES: list[float] = []


class FailsOnce(Net):
    """An operator fails on one extreme observation, and from then on it stops."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            torch.linalg.inv((x[:1] < 0.99).any().float().reshape(1, 1))
        except RuntimeError:
            _FAILURES.append(1.0)
        return self.net(x) * (0.0 if _FAILURES else 1.0)


class FailsOnceOnOneRow(FailsOnce):
    """The same, which takes one row."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(1, 4))


@pytest.mark.parametrize("kind", [FailsOnce, FailsOnceOnOneRow])
def test_a_latch_that_nothing_reads_is_found_by_asking_again(kind: Any, tmp_path: Path) -> None:
    """The usual observations are asked again after the extreme ones, also where one row is taken at a time."""
    _FAILURES.clear()
    with pytest.raises(UnsupportedError, match=rf"{kind.__name__} answers the same .* in another order, so it keeps"):
        _export(kind(), tmp_path / "out", observation_space=CLOSE)


class StopsInInferenceMode(Net):
    """Stops at an observation that is never drawn; torch shows operators of inference mode whole."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        if (x[:, 0] > 0.5).all() and x[0, 1] == 0.25:
            return self.net(x) * 0
        return self.net(x)


class ReadsInInferenceMode(Net):
    """Reads a number."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.net(x) * x.max().item()


def test_what_is_read_in_inference_mode_is_read(tmp_path: Path) -> None:
    """A branch is kept, and what cannot be kept is refused."""
    result = _export(StopsInInferenceMode(), tmp_path / "out", observation_space=CLOSE)
    stops = np.array([[0.75, 0.25, 0, 0], [0.75, 0, 0, 0]], np.float32)
    _require_same(result, StopsInInferenceMode(), stops)
    with pytest.raises(UnsupportedError, match="ReadsInInferenceMode uses values of the observation"):
        _export(ReadsInInferenceMode(), tmp_path / "other", observation_space=CLOSE)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (Counter(), "Counter keeps state between calls: a call changes ticks$"),
        (History(), "History keeps state between calls: a call changes log$"),
        (QuietLatch(), "QuietLatch keeps state between calls: a call changes latched$"),
        (Elsewhere(), "Elsewhere answers an observation differently the second time"),
        (Calibrates(), r"Calibrates computes with what an earlier call observed, at test_exporters_conduct\.py:\d+"),
        (Numpy(), r"Numpy draws random numbers when it answers: Python's random"),
        (Through(), r"Through uses values of the observation at test_exporters_conduct.py:\d+"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_state_noise_and_python_arithmetic_are_found_wherever_they_hide(
    module: nn.Module, problem: str, tmp_path: Path
) -> None:
    """In plain attributes, objects, globals, other generators, and in arrays outside torch."""
    with pytest.raises(UnsupportedError, match=problem):
        _export(module, tmp_path / "out")


@pytest.mark.parametrize("module", [Cache(), Writes()], ids=["cache", "writes"])
def test_what_changes_no_answer_is_no_state(module: nn.Module, tmp_path: Path) -> None:
    """A table made once is no memory, and a policy may write to its own copy of the observation."""
    result = _export(module, tmp_path / "out", formats=SHORT)
    assert result.contract.max_batch is None
    rows = USUAL.copy()
    _require_same(result, module, rows)
    assert (rows == USUAL).all()


@pytest.mark.parametrize("module", [Mixes(), KnowsItsBatch(), OneRow(), Selects()], ids=lambda m: type(m).__name__)
def test_rows_that_cannot_share_a_batch_are_served_one_at_a_time(module: nn.Module, tmp_path: Path) -> None:
    """Where rows change one another's answers, and where two rows do not run at all."""
    formats = None if isinstance(module, Mixes) else SHORT
    result = _export(module, tmp_path / "out", formats=formats)
    assert result.contract.max_batch == 1
    _require_same(result, module, np.concatenate([USUAL, FAR[:1]]))


def test_a_policy_that_fails_on_one_observation_is_refused_with_its_own_words(tmp_path: Path) -> None:
    """One sentence, with the error of the policy, and no traceback."""
    with pytest.raises(UsageError, match="Linear fails on one observation: RuntimeError: mat1 and mat2 shapes"):
        _export(nn.Linear(5, 2), tmp_path / "out")
    with pytest.raises(UsageError, match="fails on one observation: RuntimeError: mat1 and mat2 shapes"):
        _export(torch.jit.script(nn.Linear(5, 2)), tmp_path / "out")


class Chooses(Net):
    """Branches by an operator that takes functions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.higher_order.cond(x.max() > 500, torch.zeros_like, torch.clone, (self.net(x),))


def test_an_operator_that_takes_functions_is_refused_by_its_name(tmp_path: Path) -> None:
    """The remedy is a branch that is kept."""
    with pytest.raises(UnsupportedError, match=r"Chooses uses torch\.cond, which no format") as refusal:
        _export(Chooses(), tmp_path / "out")
    assert "torch.where" in refusal.value.remedy


def test_a_compiled_module_is_exported_as_what_it_was(tmp_path: Path) -> None:
    """`torch.compile` is undone in the copy, also around a part of the policy."""
    module = nn.Sequential(torch.compile(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 2))
    plain = nn.Sequential(module[0]._orig_mod, *module[1:])
    result = _export(module, tmp_path / "out", formats=["torchscript"])
    _require_same(result, plain, USUAL)
    assert type(module[0]).__name__ == "OptimizedModule"


class Mode(Net):
    """Acts by a distribution of torch, which validates its arguments."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        law = torch.distributions.Categorical(logits=self.net(x))
        return {"action": law.probs.argmax(-1), "logits": law.logits}


def test_a_policy_that_acts_by_a_distribution_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation of arguments is no branch; it is on again afterwards."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    result = _export(Mode(), tmp_path / "out", action_space=spaces.Discrete(2), formats=["onnx", "torchscript"])
    assert result.contract.max_batch is None
    _require_same(result, lambda rows: Mode()(rows)["action"][:, None], USUAL)
    with pytest.raises(ValueError, match="Expected parameter"):
        Mode()(torch.full((1, 4), torch.nan))


class EachRow(Net):
    """Loops over the rows of a batch in Python, which an exporter repeats for the rows that it saw."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(row) for row in x])


def test_a_graph_that_fails_at_another_batch_is_refused_in_one_line(tmp_path: Path) -> None:
    """The runtime's own last line, and no traceback of it."""
    with pytest.raises(ParityError, match="torchscript: fails on a batch of 1: RuntimeError") as refusal:
        _export(EachRow(), tmp_path / "out", formats=["torchscript"])
    assert "\n" not in refusal.value.problem


def test_a_branch_in_a_features_extractor_is_kept(tmp_path: Path) -> None:
    """A custom extractor of Stable-Baselines3 is compiled where it branches, and the policy's own code stays."""
    sb3 = pytest.importorskip("stable_baselines3")
    import branching_extractor
    from exporter_models import tiny

    settings = {"features_extractor_class": branching_extractor.Stopping, "net_arch": [8]}
    model = tiny(sb3.PPO, OBSERVATIONS, spaces.Box(-9.0, 9.0, (2,)), policy_kwargs=settings)
    result = export_policy(model, tmp_path / "out")
    assert len(result.formats) == 3
    right = np.concatenate([model.predict(row[None], deterministic=True)[0] for row in FAR])
    for form in result.formats:
        runner = open_runner(form, result.output, result.contract)
        answers = np.concatenate([runner({"observation": row[None]})["action"] for row in FAR])
        np.testing.assert_allclose(answers, right, rtol=1e-4, atol=1e-5)
