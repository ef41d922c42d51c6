"""A policy that comes as a checkpoint of rsl_rl, with its runner's configuration.

Its actor is built again, without that package, as a TorchScript program, whose memory becomes states
as that of any such program. Tests hold it against the package's own modules.

TorchScript reads the annotations here, so they are types, not texts.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from policyctl_exporters.conduct import checked
from policyctl_exporters.modules import open_module, open_program
from policyctl_exporters.program_memory import memory_of
from policyctl_exporters.rsl_rl_checkpoint import ACTIVATIONS, Actor, describe, read_runner
from policyctl_exporters.source import Options, Source

_MODULES: Final = (
    *(nn.ELU, nn.SELU, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.Mish),
    nn.Identity,
)
"""Of each of `ACTIVATIONS`."""


def open_checkpoint(checkpoint: Mapping[str, Any], path: Path, options: Options) -> Source:
    """The actor of a checkpoint.

    Raises:
        UsageError: Its configuration is missing, of another run, or none of rsl_rl.
        UnsupportedError: Its actor is of another class.
    """
    from gymnasium import spaces

    runner, runner_name = read_runner(options.runner, path)
    actor = describe(checkpoint, runner, name=path.name, runner_name=runner_name)
    limits = actor.limits if actor.halves == "beta" else (-torch.inf, torch.inf)
    options = replace(
        options,
        observation_space=options.observation_space or spaces.Box(-torch.inf, torch.inf, (actor.observes,)),
        action_space=options.action_space or spaces.Box(*limits, (actor.does,)),
    )
    module = {"": Feedforward, "lstm": WithLstm, "gru": WithGru}[actor.cell](actor).eval()
    script: Any = torch.jit.script(module)
    content = script.save_to_buffer()
    program = checked(content, name=path.name, trusted=False, remembers=True)
    program.module.eval()
    if memory := memory_of(program, content, name=path.name, trusted=False):
        source = open_program(memory, options, kind="rsl_rl", notes=actor.notes)
    else:
        source = open_module(program.module, options, kind="rsl_rl", notes=actor.notes)
    seed = {} if actor.seed is None else {"seed": actor.seed}
    return replace(source, algorithm=actor.algorithm, training={"framework": {"name": "rsl_rl"}, **seed})


class _Head(nn.Module):
    """From what was observed, or remembered, to the action.

    Attributes:
        halves: 0 where the last layer gives means alone, 1 for a Gaussian and 2 for a beta distribution.
    """

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        between = dict(zip(ACTIVATIONS, _MODULES, strict=True))[actor.activation]
        layers: list[nn.Module] = []
        for weight, bias in actor.layers:
            layers += [between()] if layers else []
            layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
            layers[-1].load_state_dict({"weight": weight, "bias": bias})
        self.layers = nn.Sequential(*layers)
        self.halves = ["", "gaussian", "beta"].index(actor.halves)
        self.actions, self.low, self.high = actor.does, float(actor.limits[0]), float(actor.limits[1])
        self.has_spread = actor.spread is not None
        spread = torch.ones(actor.does) if actor.spread is None else actor.spread
        self.register_buffer("log_std", spread.log())

    def forward(self, latent: Tensor) -> dict[str, Tensor]:
        """What the contract's outputs are made of, each of shape (n, actions)."""
        found = self.layers(latent)
        if self.halves == 2:
            alpha = nn.functional.softplus(found[:, : self.actions]) + 1.0
            beta = nn.functional.softplus(found[:, self.actions :]) + 1.0
            return {"action": alpha / (alpha + beta) * (self.high - self.low) + self.low}
        if self.halves == 1:
            return {"action": found[:, : self.actions]}
        if self.has_spread:
            return {"mean": found, "log_std": self.log_std}
        return {"action": found}


class _Normalizer(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, observation: Tensor) -> Tensor:
        """As rsl_rl's `EmpiricalNormalization` in every version."""
        return (observation - self.mean) / (self.std + 0.01)


def _normalizer(actor: Actor) -> nn.Module:
    return nn.Identity() if actor.normalizer is None else _Normalizer(*actor.normalizer)


class Feedforward(nn.Module):
    """An actor without memory."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.normalizer = _normalizer(actor)
        self.head = _Head(actor)

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """Observations of shape (n, observed)."""
        answer: dict[str, Tensor] = self.head(self.normalizer(observation))
        return answer


class _WithMemory(nn.Module):
    hidden_state: Tensor

    def __init__(self, actor: Actor, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        weights = actor.memory
        hidden, layers = weights["weight_hh_l0"].shape[1], len([key for key in weights if key.startswith("weight_ih")])
        self.normalizer = _normalizer(actor)
        self.rnn = kind(actor.observes, hidden, layers)
        self.rnn.load_state_dict({key: value.float() for key, value in weights.items()})
        self.head = _Head(actor)
        self.register_buffer("hidden_state", torch.zeros(layers, 1, hidden))


class WithLstm(_WithMemory):
    """An actor that remembers by an LSTM."""

    cell_state: Tensor

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor, nn.LSTM)
        self.register_buffer("cell_state", torch.zeros_like(self.hidden_state))

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """One step."""
        normalized = self.normalizer(observation).unsqueeze(0)
        out, (hidden, cell) = self.rnn(normalized, (self.hidden_state, self.cell_state))
        self.hidden_state = hidden
        self.cell_state = cell
        answer: dict[str, Tensor] = self.head(out.squeeze(0))
        return answer


class WithGru(_WithMemory):
    """An actor that remembers by a GRU."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor, nn.GRU)

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """One step."""
        out, hidden = self.rnn(self.normalizer(observation).unsqueeze(0), self.hidden_state)
        self.hidden_state = hidden
        answer: dict[str, Tensor] = self.head(out.squeeze(0))
        return answer
