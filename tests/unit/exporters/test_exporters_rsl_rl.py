"""Checkpoints of rsl_rl are served as their own modules answer, of every major version, or refused in a sentence.

The reference is the package where it is installed. Where it is not, it is the layers that its checkpoints hold.
"""

from __future__ import annotations

import inspect
import json
import pickle
import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policyctl.domain.golden import Golden
from policyctl.domain.memory import initial_states
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

OBSERVED, ACTS, HIDDEN, STEPS = 5, 3, 8, 20
GUIDE = Path(__file__).parents[3] / "docs" / "export.md"
Step = Callable[[Tensor], Tensor]


class Made:
    """A checkpoint, the configuration of its run, and what it answers step by step."""

    def __init__(self, checkpoint: dict[str, Any], runner: dict[str, Any], step: Step) -> None:
        self.checkpoint, self.runner, self.step = checkpoint, runner, step

    def saved(self, folder: Path, runner: dict[str, Any] | None = None) -> Path:
        """As a runner lays it out: the configuration in `params`."""
        (folder / "params").mkdir(exist_ok=True)
        (folder / "params" / "agent.yaml").write_text(json.dumps(self.runner if runner is None else runner))
        torch.save(self.checkpoint, folder / "model_1.pt")
        return folder / "model_1.pt"


def _layers(observed: int, outputs: int = ACTS) -> nn.Sequential:
    return nn.Sequential(nn.Linear(observed, 16), nn.ELU(), nn.Linear(16, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, outputs))


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def by_hand(kind: str, generation: int) -> Made:
    """A checkpoint as a generation of rsl_rl lays it out: 2, 3, or 4 and later."""
    torch.manual_seed(0)
    mean, std = torch.randn(1, OBSERVED), torch.rand(1, OBSERVED) + 0.5
    rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](OBSERVED, HIDDEN, 2) if kind in ("lstm", "gru") else None
    net = _layers(HIDDEN if rnn else OBSERVED)
    state: list[Any] = [None]

    def step(row: Tensor) -> Tensor:
        latent = (row - mean) / (std + 0.01)
        if rnn:
            out, state[0] = rnn(latent[None], state[0])
            latent = out[0]
        return net(latent)

    normalizer = {"_mean": mean, "_var": std**2, "_std": std, "count": torch.tensor(7)}
    who, memory = ("student", "memory_s") if kind == "student" else ("actor", "memory_a")
    policy: dict[str, Any] = {"activation": "elu", f"{who}_hidden_dims": [16, HIDDEN]}
    policy["class_name"] = {"student": "StudentTeacher"}.get(kind, "ActorCriticRecurrent" if rnn else "ActorCritic")
    if rnn:
        policy |= {"rnn_type": kind, "rnn_hidden_dim": HIDDEN, "rnn_num_layers": 2}
    own = {f"{who}_obs_normalizer.{key}": value for key, value in normalizer.items()}
    weights = {"std": torch.ones(ACTS) / 2, **_named(who, net), **(_named(f"{memory}.rnn", rnn) if rnn else {})}
    weights |= {"critic.0.weight": torch.zeros(1, 2), "memory_c.rnn.weight_ih_l0": torch.zeros(1, 2)}
    more = {"optimizer_state_dict": {}, "iter": 1, "infos": None}
    if generation == 2:
        checkpoint = {"model_state_dict": weights, "obs_norm_state_dict": normalizer, **more}
        return Made(checkpoint, {"seed": 42, "empirical_normalization": True, "policy": policy}, step)
    if generation == 3:
        policy[f"{who}_obs_normalization"] = True
        return Made({"model_state_dict": weights | own, **more}, {"seed": 42, "policy": policy}, step)
    section = {
        "class_name": "rsl_rl.models:RNNModel" if rnn else "MLPModel",
        "activation": "elu",
        "hidden_dims": [16, HIDDEN],
        "obs_normalization": True,
        "distribution_cfg": {"class_name": "GaussianDistribution"},
    }
    weights = {"distribution.std_param": torch.ones(ACTS) / 2, **_named("mlp", net)}
    weights |= {f"obs_normalizer.{key}": value for key, value in normalizer.items()}
    weights |= _named("rnn.rnn", rnn) if rnn else {}
    checkpoint = {f"{who}_state_dict": weights, "critic_state_dict": {}, **more}
    return Made(checkpoint, {"seed": 42, who: section, "obs_groups": {who: ["policy", "goal"]}}, step)


def of_package(kind: str) -> Made:
    """A checkpoint of the installed package's own module, and that module."""
    rsl_rl = pytest.importorskip("rsl_rl.modules", reason="rsl-rl-lib is not installed")
    torch.manual_seed(0)
    with redirect_stdout(StringIO()):
        try:
            from rsl_rl import models
        except ImportError:
            return _of_modules(rsl_rl, kind)
        return _of_models(models, kind)


def _observed(groups: tuple[str, ...]) -> Any:
    from tensordict import TensorDict

    return TensorDict({group: torch.zeros(1, OBSERVED) for group in groups}, batch_size=[1])


def _stirred(module: nn.Module) -> nn.Module:
    """Its statistics, and every weight, somewhere else than where they begin."""
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith(("_mean", "_std")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        for weight in module.parameters():
            weight.add_(torch.rand_like(weight) * 0.3)
    # In some versions it gives nothing.
    module.eval()
    return module


def _of_models(models: Any, kind: str) -> Made:
    law = {"beta": "Beta", "spread": "HeteroscedasticGaussian"}.get(kind, "Gaussian")
    settings: dict[str, Any] = {"hidden_dims": [16, HIDDEN], "activation": "selu", "obs_normalization": True}
    if "distribution_cfg" in inspect.signature(models.MLPModel).parameters:
        settings["distribution_cfg"] = {"class_name": f"rsl_rl.modules.distribution:{law}Distribution"}
    elif kind == "beta":
        pytest.skip("this version has no beta distribution")
    else:
        settings |= {"stochastic": True, "state_dependent_std": kind == "spread"}
    recurrent = kind in ("lstm", "gru")
    model = models.RNNModel if recurrent else models.MLPModel
    more = {"rnn_type": kind, "rnn_hidden_dim": HIDDEN, "rnn_num_layers": 2} if recurrent else {}
    who = "student" if kind == "student" else "actor"
    made = _stirred(model(_observed(("policy",)), {who: ["policy"]}, who, ACTS, **settings, **more))

    def step(row: Tensor) -> Tensor:
        obs = _observed(("policy",))
        obs["policy"] = row
        return made(obs)

    checkpoint = {f"{who}_state_dict": made.state_dict(), "iter": 3, "infos": None, "optimizer_state_dict": {}}
    return Made(checkpoint, {who: {"class_name": model.__name__, **settings, **more}}, step)


def _of_modules(modules: Any, kind: str) -> Made:
    recurrent, student = kind in ("lstm", "gru"), kind == "student"
    name = "StudentTeacher" if student else "ActorCriticRecurrent" if recurrent else "ActorCritic"
    module, settings = getattr(modules, name), {"activation": "selu"}
    accepted = inspect.signature(module).parameters
    for who in ("student", "teacher") if student else ("actor", "critic"):
        settings[f"{who}_hidden_dims"] = [16, HIDDEN]
        if f"{who}_obs_normalization" in accepted:
            settings[f"{who}_obs_normalization"] = True
    if recurrent:
        size = "rnn_hidden_dim" if "rnn_hidden_dim" in accepted else "rnn_hidden_size"
        settings |= {"rnn_type": kind, size: HIDDEN, "rnn_num_layers": 2}
    if kind == "beta" or (kind == "spread" and "state_dependent_std" not in accepted):
        pytest.skip("this version has no such distribution")
    if kind == "spread":
        settings["state_dependent_std"] = True
    groups = {"policy": ["policy"], "critic": ["policy"], "teacher": ["policy"]}
    by_groups = "obs_groups" in accepted
    sizes = (_observed(("policy",)), groups, ACTS) if by_groups else (OBSERVED, OBSERVED, ACTS)
    made = _stirred(module(*sizes, **settings))

    def step(row: Tensor) -> Tensor:
        obs = row
        if by_groups:
            obs = _observed(("policy",))
            obs["policy"] = row
        return made.act_inference(obs)

    checkpoint = {"model_state_dict": made.state_dict(), "optimizer_state_dict": {}, "iter": 3, "infos": None}
    return Made(checkpoint, {"policy": {"class_name": name, **settings}}, step)


def _check(made: Made, folder: Path, *, formats: list[str] | None = None) -> Any:
    """Two episodes in turn get what the module answers, in every format."""
    result = export_policy(made.saved(folder), folder / "out", formats=formats, golden_rows=8)
    assert result.contract.max_batch is None
    rows = np.random.default_rng(0).standard_normal((2, STEPS, OBSERVED)).astype(np.float32)
    with torch.no_grad():
        # The memory of the module stays from one row to the next: so one episode of it, twice as long.
        right = [made.step(torch.from_numpy(row[None])).numpy() for row in rows.reshape(-1, OBSERVED)]
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            memory = initial_states(result.contract)
            for row, action in zip(rows.reshape(-1, OBSERVED), right, strict=True):
                answer = run({"observation": row[None], **memory})
                memory = {state.input: answer[state.output] for state in result.contract.states}
                np.testing.assert_allclose(answer["action"], action, rtol=0, atol=2e-5)
    return result


@pytest.mark.parametrize(
    ("kind", "generation"),
    [
        *(("mlp", generation) for generation in (2, 3, 5)),
        *(("student", generation) for generation in (2, 3, 5)),
        ("lstm", 2),
        ("gru", 5),
        *(pytest.param("lstm", generation, marks=pytest.mark.long) for generation in (3, 5)),
        *(pytest.param("gru", generation, marks=pytest.mark.long) for generation in (2, 3)),
    ],
)
def test_checkpoints_of_every_generation_are_served(kind: str, generation: int, tmp_path: Path) -> None:
    """Weights, activation, statistics and memory, wherever that generation keeps them."""
    result = _check(by_hand(kind, generation), tmp_path, formats=["torchscript"])
    states = {"lstm": ["cell_state", "hidden_state"], "gru": ["hidden_state"]}.get(kind, [])
    assert [state.input for state in result.contract.states] == states
    assert result.contract.distribution.kind == "gaussian"
    card = (result.output / "model_card.yaml").read_text()
    assert "rsl_rl" in card
    assert "seed: 42" in card


@pytest.mark.long
def test_a_recurrent_checkpoint_is_served_in_every_format(tmp_path: Path) -> None:
    """ONNX, OpenVINO and TorchScript, over the whole episode."""
    assert len(_check(by_hand("lstm", 2), tmp_path).formats) == 3


@pytest.mark.parametrize("kind", ["mlp", "lstm", "gru", "student", "spread", "beta"])
def test_the_installed_package_answers_the_same(kind: str, tmp_path: Path) -> None:
    """The reference is rsl_rl's own module, with its own checkpoint."""
    _check(of_package(kind), tmp_path, formats=["torchscript"])


def test_a_configuration_is_named_or_lies_next_to_the_checkpoint(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Each command of the guide runs; without a configuration the refusal says which option gives it."""
    monkeypatch.chdir(tmp_path)
    path = by_hand("mlp", 3).saved(tmp_path)
    commands = re.findall(r"^policyctl (export model_\S+ .*)$", GUIDE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        done = run(*shlex.split(command.replace(command.split()[1], path.name)))
        assert done.code == 0, done.err
    (tmp_path / "params" / "agent.yaml").rename(tmp_path / "elsewhere.yaml")
    done = run("export", path, "-o", "other")
    assert done.code == 2
    assert "does not say its activation" in done.err
    assert "--runner params/agent.yaml" in done.err
    assert run("export", path, "--runner", "elsewhere.yaml", "-o", "other", "-f", "torchscript").code == 0
    assert run("export", "walk.pt", "--runner", "gone.yaml", "-o", "another").code == 2


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda runner: {"train_cfg": {**runner, "algorithm": {"class_name": "rsl_rl.algorithms:PPO"}}},
        lambda runner: (
            {key: {"desc": None, "value": value} for key, value in runner.items()}
            | {"algorithm": {"value": {"class_name": "PPO"}}}
        ),
    ],
)
def test_a_configuration_is_read_where_others_put_it(laid_out: Any, tmp_path: Path) -> None:
    """Within the configuration of a training, and as Weights and Biases keeps it."""
    made = by_hand("mlp", 3)
    result = export_policy(
        made.saved(tmp_path, laid_out(made.runner)), tmp_path / "out", formats=["torchscript"], golden_rows=8
    )
    assert "algorithm: PPO" in (result.output / "model_card.yaml").read_text()


def test_a_configuration_as_isaac_lab_writes_it_is_read(tmp_path: Path) -> None:
    """With Python's tuples, and with references, which the export reads as plain values and never as code."""
    path, trap = by_hand("mlp", 3).saved(tmp_path), tmp_path / "trap"
    (tmp_path / "params" / "agent.yaml").write_text(
        "seed: 7\nobs_groups: &groups\n  policy: !!python/tuple\n  - policy\nother: *groups\n"
        f"unused: !!python/object/apply:pathlib.Path.touch\n- !!python/object/apply:pathlib.Path [{trap}]\n"
        "policy:\n  class_name: ActorCritic\n  actor_hidden_dims: !!python/tuple [16, 8]\n"
        "  actor_obs_normalization: true\n  activation: elu\n"
    )
    result = export_policy(path, tmp_path / "out", formats=["torchscript"], golden_rows=8)
    assert "seed: 7" in (result.output / "model_card.yaml").read_text()
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"actor_hidden_dims": [32, 8]},
            r"is of another run: it says hidden layers of \[32, 8\], and \[16, 8\] are in",
        ),
        ({"rnn_type": "gru"}, "is of another run: it says the memory gru, and lstm is in"),
        ({"rnn_hidden_dim": 64}, "is of another run: it says rnn_hidden_dim 64"),
        ({"class_name": "ActorCritic"}, "is of another run: it says the class ActorCritic, and a memory is in"),
        ({"class_name": "ActorCriticMoE"}, "the class ActorCriticMoE, which is not rsl_rl's own"),
        ({"actor_obs_normalization": False}, "is of another run: it says no normaliser of observations, and one is in"),
        ({"activation": "snake"}, "the activation 'snake' is not known"),
    ],
)
def test_a_configuration_of_another_run_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """What it says is held against the weights, before anything is exported."""
    made = by_hand("lstm", 3)
    path = made.saved(tmp_path, {"policy": {**made.runner["policy"], **change}})
    with pytest.raises((UsageError, UnsupportedError), match=problem) as refusal:
        export_policy(path, tmp_path / "out")
    assert refusal.value.remedy
    assert not (tmp_path / "out").exists()


class Touch:
    """A pickle of this creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_but_tensors_is_unpickled_without_trust(tmp_path: Path) -> None:
    """A checkpoint that holds code is refused, its code does not run, and trust reads it."""
    made, trap = by_hand("mlp", 3), tmp_path / "trap"
    made.checkpoint["infos"] = Touch(trap)
    path = made.saved(tmp_path)
    with pytest.raises(UsageError, match=r"model_1\.pt holds pickles") as refusal:
        export_policy(path, tmp_path / "out")
    assert "--trust-pickle" in refusal.value.remedy
    assert not trap.exists()
    export_policy(path, tmp_path / "out", trust_pickle=True, formats=["torchscript"], golden_rows=8)
    assert trap.exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda made: made.update(model_state_dict={"fc1.weight": torch.zeros(1)}), "holds weights and no program"),
        (lambda made: made["model_state_dict"].update(std=torch.ones(2)), "a std of 2 elements for 3 actions"),
        (lambda made: made["obs_norm_state_dict"].update(_mean=torch.ones(1, 1)), "a normaliser of 1 elements"),
        (lambda made: made["obs_norm_state_dict"].update(_std=torch.ones(1, 1)), "a normaliser of 1 elements"),
        (lambda made: made["model_state_dict"].update({"history_encoder.0.weight": torch.zeros(1)}), "history_encoder"),
        (lambda made: made["model_state_dict"].pop("actor.2.bias"), "an actor that is not a row of layers"),
        (lambda made: made.pop("model_state_dict"), "holds weights and no program"),
    ],
)
def test_other_weights_are_refused_by_name(
    change: Callable[[dict[str, Any]], Any], problem: str, tmp_path: Path
) -> None:
    """Weights of another class, some that are missing, and a file that is no checkpoint."""
    made = by_hand("mlp", 2)
    change(made.checkpoint)
    with pytest.raises((UsageError, UnsupportedError), match=problem):
        export_policy(made.saved(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("rnn", "problem"),
    [
        (nn.RNN(OBSERVED, HIDDEN), "a memory that is a plain RNN"),
        (nn.LSTM(OBSERVED, HIDDEN, bidirectional=True), "a memory that is bidirectional"),
        (nn.LSTM(OBSERVED, HIDDEN, proj_size=HIDDEN // 2), "a memory that is an LSTM with a projection"),
    ],
)
def test_another_memory_than_that_of_rsl_rl_is_refused_by_name(rnn: nn.Module, problem: str, tmp_path: Path) -> None:
    """It is not served as the LSTM or the GRU that its sizes resemble."""
    made = by_hand("lstm", 3)
    weights = {k: v for k, v in made.checkpoint["model_state_dict"].items() if not k.startswith("memory_a")}
    made.checkpoint["model_state_dict"] = weights | _named("memory_a.rnn", rnn)
    with pytest.raises(UnsupportedError, match=problem) as refusal:
        export_policy(made.saved(tmp_path), tmp_path / "out")
    assert "as_jit()" in refusal.value.remedy


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"activation": "crelu"}, "what the activation 'crelu' is depends on the version of rsl_rl"),
        ({"state_dependent_std": True}, "the last layer gives halves, and 3 outputs are in"),
        ({"tanh_output": True}, "says tanh_output: True, which no actor of rsl_rl's own classes knows"),
        ({"last_activation": "tanh"}, "says last_activation: tanh"),
        ({"distribution_cfg": {"class_name": "GaussianDistribution", "squash": True}}, "distribution_cfg.squash: True"),
    ],
)
def test_what_a_configuration_leaves_open_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """One activation was ReLU, CReLU and CELU under one name, and an odd number of outputs has no halves."""
    made = by_hand("mlp", 3)
    with pytest.raises((UsageError, UnsupportedError), match=problem):
        export_policy(made.saved(tmp_path, {"policy": {**made.runner["policy"], **change}}), tmp_path / "out")


@pytest.mark.parametrize("settings", [{}, {"state_dependent_std": True}])
def test_a_last_layer_of_means_and_spreads_is_never_an_action_of_both(settings: dict[str, Any], tmp_path: Path) -> None:
    """Without a std the configuration has to say that the layer gives it; with a std it must not say so."""
    made = by_hand("mlp", 3)
    if not settings:
        made.checkpoint["model_state_dict"].pop("std")
    wide = nn.Linear(HIDDEN, 2 * ACTS)
    made.checkpoint["model_state_dict"] |= {"actor.4.weight": wide.weight, "actor.4.bias": wide.bias}
    with pytest.raises((UsageError, UnsupportedError), match=r"so its 6 outputs may be|halves, and a std is in"):
        export_policy(made.saved(tmp_path, {"policy": {**made.runner["policy"], **settings}}), tmp_path / "out")


def test_settings_that_are_off_or_of_training_alone_change_nothing(tmp_path: Path) -> None:
    """Forks and newer versions write settings that are off; a spread is served within its range."""
    made = by_hand("mlp", 5)
    law = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "log", "std_range": [0.6, 2.0]}
    more = {"cnn_cfg": None, "tanh_output": False, "critic_layers": 3, "distribution_cfg": law}
    path = made.saved(tmp_path, {**made.runner, "actor": {**made.runner["actor"], **more}})
    result = export_policy(path, tmp_path / "out", formats=["torchscript"], golden_rows=8)
    golden = Golden.from_bytes((result.output / "golden.npz").read_bytes(), result.contract)
    spread = golden.outputs["log_std"]
    np.testing.assert_allclose(np.exp(spread), 0.6, rtol=1e-6)


@pytest.mark.parametrize("limits", [5, [0.1], {"a": 1}, "ab", ["a", "b"], [0.1, 1.0, 2.0]])
@pytest.mark.parametrize("key", ["std_range", "action_range"])
def test_a_range_that_is_not_two_numbers_is_refused(key: str, limits: Any, tmp_path: Path) -> None:
    """It would cut a spread, or an action, somewhere else."""
    made = by_hand("mlp", 5)
    law = {"class_name": "GaussianDistribution", "std_type": "log", key: limits}
    path = made.saved(tmp_path, {**made.runner, "actor": {**made.runner["actor"], "distribution_cfg": law}})
    with pytest.raises(UsageError, match=f"{key} of its distribution is .*, expected two numbers"):
        export_policy(path, tmp_path / "out")


def test_a_damaged_checkpoint_and_a_foreign_configuration_are_refused(tmp_path: Path) -> None:
    """Cut short, a pickle under this name, and a configuration of something else."""
    made = by_hand("mlp", 2)
    path = made.saved(tmp_path, {"robot": "go2"})
    with pytest.raises(UsageError, match="neither `policy` nor `actor`"):
        export_policy(path, tmp_path / "out")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"model_1\.pt is damaged"):
        export_policy(path, tmp_path / "out")
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UsageError, match=r"model_1\.pt was written by torch\.save"):
        export_policy(path, tmp_path / "out")
