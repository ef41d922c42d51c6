"""What a checkpoint of rsl_rl and its runner's configuration say about the actor.

A checkpoint holds weights, and not what lies between them: the activation, the
kind of distribution. The configuration that the runner was started with says
that, and has to fit the weights. Weights are read without unpickling anything but tensors.

Source:
    rsl-rl-lib 2.1 to 5.5: `modules/actor_critic*.py` and `student_teacher*.py` up to 3, `models/*_model.py` from 4 on.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from policyctl.documents.yaml_text import parse
from policyctl.errors import UnsupportedError, UsageError
from policyctl.plain_files import NOTE_BYTES, open_named
from policyctl_exporters.pickles import require_trust

ACTIVATIONS: Final = (
    *("elu", "selu", "relu", "lrelu", "tanh", "sigmoid", "softplus", "gelu", "swish", "mish"),
    "identity",
)
_NEXT_TO_IT: Final = ("params/agent.yaml", "agent.yaml", "config.yaml")
_WHOLES: Final = ("model_state_dict", "actor_state_dict", "student_state_dict")
_CLASSES: Final = {
    "ActorCritic": False,
    "ActorCriticRecurrent": True,
    "StudentTeacher": False,
    "StudentTeacherRecurrent": True,
    "MLPModel": False,
    "RNNModel": True,
}
"""Whether the actor of a class remembers."""

_READ: Final = frozenset(
    {"class_name", "activation", "hidden_dims", "rnn_type", "rnn_hidden_dim", "rnn_hidden_size", "rnn_num_layers"}
    | {"obs_normalization", "state_dependent_std", "distribution_cfg", "stochastic"}
    | {f"{who}_{what}" for who in ("actor", "student") for what in ("hidden_dims", "obs_normalization")}
)
_READ_OF_LAW: Final = frozenset({"class_name", "action_range", "std_range"})
_BEGINNING: Final = frozenset({"init_noise_std", "noise_std_type", "init_std", "std_type", "learn_std"})
"""Where the spread begins in training, and how it is kept: the weights show both."""

_DISTRIBUTIONS: Final = ("GaussianDistribution", "HeteroscedasticGaussianDistribution", "BetaDistribution")
_OWN: Final = ("actor.", "student.", "mlp.", "memory_", "rnn.")
"""What a key of an actor begins with; others save weights under the same names."""

_UNUSED: Final = ("critic", "teacher", "memory_c", "memory_t")
_LEAST_SPREAD: Final = 1e-6
_GATES: Final = {4: "lstm", 3: "gru"}
_OTHER_CELLS: Final = {"_reverse": "bidirectional", "weight_hr": "an LSTM with a projection"}
"""By a part of a weight's name."""

_AS_JIT: Final = "Save the policy by its as_jit() or export_policy_as_jit(), and export that file."
_OPTION: Final = "Name the configuration of its run: --runner params/agent.yaml (runner='params/agent.yaml')."


@dataclass(frozen=True, slots=True)
class Actor:
    """What the actor of a checkpoint is.

    Attributes:
        layers: Weight, of shape (outputs, inputs), and bias of each layer.
        activation: Between them, one of `ACTIVATIONS`.
        normalizer: Mean and standard deviation of observations, of shape (1, inputs); None without.
        memory: Weights of the LSTM or GRU before the layers, by torch's names; empty without.
        cell: ``lstm`` or ``gru``.
        spread: Standard deviation of actions; None where the policy has none, or it depends on the observation.
        halves: What the last layer's halves are: empty where it has none, ``gaussian`` or ``beta``.
        limits: What a beta distribution lies between.
        notes: For the person who exports.
        algorithm: What trained it; ``rsl_rl`` where the configuration does not say it.
        seed: Of the training; None where the configuration does not say it.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    activation: str
    normalizer: tuple[Tensor, Tensor] | None
    memory: Mapping[str, Tensor]
    cell: str
    spread: Tensor | None
    halves: str
    limits: tuple[float, float]
    notes: tuple[str, ...]
    algorithm: str
    seed: int | None

    @property
    def observes(self) -> int:
        """How many elements an observation has."""
        weight = self.memory["weight_ih_l0"] if self.memory else self.layers[0][0]
        return int(weight.shape[1])

    @property
    def does(self) -> int:
        """How many elements an action has."""
        outputs = int(self.layers[-1][0].shape[0])
        return outputs // 2 if self.halves else outputs


def read_checkpoint(content: bytes, *, name: str, trust_pickle: bool) -> Mapping[str, Any] | None:
    """The checkpoint in a file of `torch.save`; None where it holds something else.

    Raises:
        UsageError: It holds pickles of more than tensors, and nobody vouched for it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not any(key.encode() in content for key in _WHOLES):
            return None
        require_trust(name, trusted=trust_pickle)
        found = _unpickled(content, name)
    # Whatever a file raises that torch.save did not write, or that is damaged.
    except Exception:  # noqa: BLE001
        return None
    whole = next((found[key] for key in _WHOLES if key in found), None) if isinstance(found, Mapping) else None
    own = isinstance(whole, Mapping) and any(str(key).startswith(_OWN) for key in whole)
    return found if own else None


def _unpickled(content: bytes, name: str) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    # A damaged or foreign pickle can raise anything at all.
    except Exception as error:
        raise UsageError(
            f"{name} cannot be unpickled ({type(error).__name__}: {error})", remedy="Check that it is complete."
        ) from error


def read_runner(runner: Path | None, checkpoint: Path) -> tuple[Mapping[str, Any], str]:
    """The configuration of a run, and what its file is called.

    Args:
        runner: Where a person says that it is; None for where a runner writes it, next to the checkpoint.

    Raises:
        UsageError: No configuration exists.
    """
    places = [checkpoint.parent / each for each in _NEXT_TO_IT]
    path = runner or next((place for place in places if place.is_file()), None)
    if path is None or not path.is_file():
        missing = f"{runner} does not exist" if runner else "no configuration lies next to it"
        raise UsageError(
            f"{checkpoint.name} is a checkpoint of rsl_rl, which does not say its activation, and {missing}",
            remedy=_OPTION,
        )
    with open_named(path, most_bytes=NOTE_BYTES) as file:
        # Runners write tuples and references, which people would not.
        return _plain(parse(file.read(), what=path.name).data), path.name


def describe(checkpoint: Mapping[str, Any], runner: Mapping[str, Any], *, name: str, runner_name: str) -> Actor:
    """What the actor is, by its weights and by the configuration of its run.

    Raises:
        UsageError: One of both is not of rsl_rl, or they do not fit each other.
        UnsupportedError: An actor of another class, or with parts that no class of rsl_rl has.
    """
    return _Reading(checkpoint, runner, name, runner_name).actor()


class _Reading:
    def __init__(self, checkpoint: Mapping[str, Any], runner: Mapping[str, Any], name: str, runner_name: str) -> None:
        self._checkpoint, self._name, self._runner_name = checkpoint, name, runner_name
        whole = next(key for key in _WHOLES if key in checkpoint)
        self._weights = {key: value for key, value in dict(checkpoint[whole]).items() if isinstance(value, Tensor)}
        self._student = "student" in whole or any(key.startswith("student.") for key in self._weights)
        self._runner = next((each for each in _candidates(runner) if self._section(each) is not None), {})
        self._policy = self._section(self._runner) or {}
        if not self._policy:
            raise UsageError(
                f"{runner_name} is not the configuration of an rsl_rl runner: it has neither `policy` nor `actor`",
                remedy=_OPTION,
            )

    def _section(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        keys = ("student", "policy") if self._student else ("actor", "policy", "policy_cfg")
        found = next((document[key] for key in keys if isinstance(document.get(key), Mapping)), None)
        return found if found is not None and "activation" in found else None

    def actor(self) -> Actor:
        """The whole."""
        recurrent = self._is_recurrent()
        who, memory_of = ("student", "memory_s") if self._student else ("actor", "memory_a")
        layers, memory = self._part(who, "mlp"), self._part(f"{memory_of}.rnn", "rnn.rnn")
        normalizer = self._part(f"{who}_obs_normalizer", "obs_normalizer")
        self._refuse_others()
        self._refuse_other_settings()
        if recurrent != bool(memory):
            self._refuse_other_run(f"the class {self._class()}, and {'no' if recurrent else 'a'} memory is in")
        cell = self._cell(memory) if memory else ""
        stack = self._layers(layers)
        halves, limits = self._halves()
        self._require_sizes(stack, memory)
        self._require_spread(halves, len(stack[-1][0]))
        activation = str(self._policy["activation"]).lower()
        if activation == "crelu":
            raise UnsupportedError(
                f"{self._runner_name}: what the activation 'crelu' is depends on the version of rsl_rl", remedy=_AS_JIT
            )
        if activation not in ACTIVATIONS:
            raise UsageError(
                f"{self._runner_name}: the activation {activation!r} is not known",
                remedy=f"rsl_rl has {', '.join(ACTIVATIONS)}.",
            )
        seed = self._runner.get("seed")
        return Actor(
            layers=stack,
            activation=activation,
            normalizer=self._normalizer(normalizer, (memory["weight_ih_l0"] if memory else stack[0][0]).shape[1]),
            memory=memory,
            cell=cell,
            spread=None if halves else self._spread(len(stack[-1][0])),
            halves=halves,
            limits=limits,
            notes=self._notes(),
            algorithm=_last(self._section_of("algorithm").get("class_name")) or "rsl_rl",
            seed=seed if type(seed) is int else None,
        )

    def _part(self, *prefixes: str) -> dict[str, Tensor]:
        """Weights below one of these names, without it; they count as used."""
        found = {}
        for prefix in prefixes:
            for key in [key for key in self._weights if key.startswith(f"{prefix}.")]:
                found[key.removeprefix(f"{prefix}.")] = self._weights.pop(key)
        return found

    def _refuse_others(self) -> None:
        known = {"std", "log_std", "distribution.std_param", "distribution.log_std_param"}
        others = {key.partition(".")[0] for key in self._weights if key not in known}
        others = {key for key in others if not key.startswith(_UNUSED)}
        if others:
            raise UnsupportedError(
                f"{self._name} holds {', '.join(sorted(others))}, which no actor of rsl_rl's own classes has",
                remedy=_AS_JIT,
            )

    def _refuse_other_settings(self) -> None:
        """Refuse settings that may change the network in a way that is not known here, unless they are off."""
        own = {key: value for key, value in self._policy.items() if not key.startswith(("critic_", "teacher_"))}
        law = {f"distribution_cfg.{key}": value for key, value in self._law().items() if key not in _READ_OF_LAW}
        unknown = {key: value for key, value in (own | law).items() if key not in _READ and value}
        shown = [f"{key}: {value}" for key, value in unknown.items() if key.rpartition(".")[2] not in _BEGINNING]
        if shown:
            raise UnsupportedError(
                f"{self._runner_name} says {', '.join(shown)}, which no actor of rsl_rl's own classes knows",
                remedy=_AS_JIT,
            )

    def _law(self) -> Mapping[str, Any]:
        law = self._policy.get("distribution_cfg")
        return law if isinstance(law, Mapping) else {}

    def _require_spread(self, halves: str, outputs: int) -> None:
        """Hold the spread in the weights against what the last layer is said to give."""
        held = any(not key.startswith(_UNUSED) for key in self._weights)
        if halves and (outputs % 2 or held):
            has = f"{outputs} outputs are in" if outputs % 2 else "a std is in"
            self._refuse_other_run(f"that the last layer gives halves, and {has}")
        drawn = not self._student or self._law() or self._policy.get("stochastic") is True
        if not (halves or held) and (drawn or self._class().startswith("StudentTeacher")):
            raise UnsupportedError(
                f"{self._name} has no std, so its {outputs} outputs may be a mean and a std,"
                f" and {self._runner_name} does not say so",
                remedy=f"Name the configuration that says state_dependent_std or a distribution. {_AS_JIT}",
            )

    def _section_of(self, key: str) -> Mapping[str, Any]:
        found = self._runner.get(key)
        return found if isinstance(found, Mapping) else {}

    def _class(self) -> str:
        return _last(self._policy.get("class_name") or self._section_of("runner").get("policy_class_name"))

    def _is_recurrent(self) -> bool:
        kind = self._class()
        if kind and kind not in _CLASSES:
            raise UnsupportedError(
                f"{self._runner_name}: the policy is of the class {kind}, which is not rsl_rl's own",
                remedy="Save the policy by its as_jit() or export_policy_as_jit(), and export that file."
                " Or give FILE.py:callable that builds it and loads its weights.",
            )
        return _CLASSES[kind] if kind else any(key.startswith("memory_a") for key in self._weights)

    def _layers(self, part: Mapping[str, Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
        numbers = sorted(int(key.partition(".")[0]) for key in part if key.endswith(".weight"))
        names = {f"{number}.{kind}" for number in numbers for kind in ("weight", "bias")}
        # Between two layers stands one activation.
        if not numbers or numbers != [*range(0, 2 * len(numbers), 2)] or names != part.keys():
            raise UnsupportedError(
                f"{self._name} has an actor that is not a row of layers: {', '.join(sorted(part)) or 'nothing'}",
                remedy=_AS_JIT,
            )
        return tuple((part[f"{number}.weight"].float(), part[f"{number}.bias"].float()) for number in numbers)

    def _cell(self, memory: Mapping[str, Tensor]) -> str:
        other = next((what for part, what in _OTHER_CELLS.items() if any(part in key for key in memory)), "")
        if not {"weight_ih_l0", "weight_hh_l0"} <= memory.keys():
            other = other or "of another kind than an LSTM or a GRU"
        elif memory["weight_ih_l0"].shape[0] == memory["weight_hh_l0"].shape[1]:
            other = "a plain RNN"
        if other:
            raise UnsupportedError(f"{self._name} has a memory that is {other}", remedy=_AS_JIT)
        weight, hidden = memory["weight_ih_l0"], memory["weight_hh_l0"].shape[1]
        cell = _GATES.get(weight.shape[0] // hidden, "")
        said = str(self._policy.get("rnn_type", cell)).lower()
        if said != cell:
            self._refuse_other_run(f"the memory {said}, and {cell or 'another one'} is in")
        return cell

    def _require_sizes(self, layers: Sequence[tuple[Tensor, Tensor]], memory: Mapping[str, Tensor]) -> None:
        keys = ("student_hidden_dims", "hidden_dims") if self._student else ("actor_hidden_dims", "hidden_dims")
        said = next((self._policy[key] for key in keys if isinstance(self._policy.get(key), list)), None)
        have = [int(weight.shape[0]) for weight, _ in layers[:-1]]
        inputs = int(layers[0][0].shape[1])
        if said is not None and [inputs if size == -1 else size for size in said] != have:
            self._refuse_other_run(f"hidden layers of {said}, and {have} are in")
        for key, have_size in (("rnn_hidden_dim", inputs), ("rnn_hidden_size", inputs), ("rnn_num_layers", None)):
            size = len([name for name in memory if name.startswith("weight_ih")]) if have_size is None else have_size
            if memory and type(self._policy.get(key)) is int and self._policy[key] != size:
                self._refuse_other_run(f"{key} {self._policy[key]}, and {size} is in")

    def _normalizer(self, own: Mapping[str, Tensor], observes: int) -> tuple[Tensor, Tensor] | None:
        of_runner = self._checkpoint.get("obs_norm_state_dict")
        found = own or (of_runner if isinstance(of_runner, Mapping) else {})
        keys = ("student_obs_normalization" if self._student else "actor_obs_normalization", "obs_normalization")
        said = next((self._policy[key] for key in keys if type(self._policy.get(key)) is bool), None)
        if said is None and not own:
            said = self._runner.get("empirical_normalization")
        if type(said) is bool and said != bool(found):
            says, has = ("a", "none") if said else ("no", "one")
            self._refuse_other_run(f"{says} normaliser of observations, and {has} is in")
        if not found:
            return None
        if not {"_mean", "_std"} <= found.keys():
            raise UnsupportedError(
                f"{self._name} has a normaliser of another class than rsl_rl's: {', '.join(sorted(found))}",
                remedy=_AS_JIT,
            )
        for key in ("_mean", "_std"):
            if found[key].numel() != observes:
                raise UnsupportedError(
                    f"{self._name} has a normaliser of {found[key].numel()} elements, and the actor takes {observes}",
                    remedy=_AS_JIT,
                )
        return found["_mean"].float().reshape(1, -1), found["_std"].float().reshape(1, -1)

    def _spread(self, actions: int) -> Tensor | None:
        found = {key.rpartition(".")[2].removesuffix("_param"): value for key, value in self._weights.items()}
        std = found["log_std"].exp() if "log_std" in found else found.get("std")
        if std is not None and std.numel() != actions:
            raise UnsupportedError(
                f"{self._name} has a std of {std.numel()} elements for {actions} actions",
                remedy=f"{_AS_JIT} It gives the action without its spread.",
            )
        if std is not None and (limits := self._range("std_range")):
            std = std.clamp(max(limits[0], _LEAST_SPREAD), limits[1])
        # Of a spread that training drove below zero no draw can be made.
        return std.float() if std is not None and bool((std > 0).all()) else None

    def _halves(self) -> tuple[str, tuple[float, float]]:
        law = self._law()
        kind = _last(law.get("class_name"))
        if kind and kind not in _DISTRIBUTIONS:
            raise UnsupportedError(
                f"{self._runner_name}: the distribution {kind} is not rsl_rl's own",
                remedy="Save the policy by its as_jit(), and export that file.",
            )
        limits = self._range("action_range") or (-1.0, 1.0)
        if kind == "BetaDistribution":
            return "beta", limits
        both = kind == "HeteroscedasticGaussianDistribution" or self._policy.get("state_dependent_std") is True
        return "gaussian" if both else "", limits

    def _range(self, key: str) -> tuple[float, float] | None:
        """Two numbers of the distribution; None where it says nothing of them."""
        limits = self._law().get(key)
        if not limits:
            return None
        try:
            # Text is iterated by letters; within a list YAML reads 1e-3 as text.
            low, high = map(float, limits if isinstance(limits, list | tuple) else ())
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{self._runner_name}: {key} of its distribution is {limits!r}, expected two numbers",
                remedy="Name the configuration that the run was trained with.",
            ) from error
        return low, high

    def _notes(self) -> tuple[str, ...]:
        notes = [f"the activation, and what the actor is, come from {self._runner_name}"]
        groups = self._runner.get("obs_groups")
        own = next((groups[k] for k in ("actor", "student", "policy") if k in groups), None) if groups else None
        if isinstance(own, list) and len(own) > 1:
            notes.append(f"an observation is {', '.join(map(str, own))} in this order")
        if isinstance(limit := self._runner.get("clip_actions"), int | float) and not isinstance(limit, bool):
            notes.append(f"the runner clips actions to +-{limit:g}, which is left to the caller; --action says bounds")
        return tuple(notes)

    def _refuse_other_run(self, what: str) -> None:
        raise UsageError(f"{self._runner_name} is of another run: it says {what} {self._name}", remedy=_OPTION)


def _last(name: Any) -> str:
    """The class that a configuration names, with or without its module."""
    return str(name or "").replace(":", ".").rpartition(".")[2]


def _candidates(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where runners and loggers put the runner's part."""
    inner = [document.get(key) for key in ("train_cfg", "agent", "agent_cfg", "runner_cfg", "train")]
    return [each for each in (document, *inner) if isinstance(each, Mapping)]


def _plain(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document; as Weights and Biases writes it, each value stands under `value`."""
    return {
        key: each["value"] if isinstance(each, Mapping) and "value" in each and {*each} <= {"value", "desc"} else each
        for key, each in document.items()
    }
