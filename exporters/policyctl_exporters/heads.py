"""From what a network gives to `action` and the distribution's parameters.

A head is a traceable module together with the part of the contract that it
fills: its outputs (`action` first), the kind of action and the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policyctl.domain.contract import ActionKind, Distribution, DistributionKind, Transform
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError
from policyctl_exporters.layers import Clip, Greedy, Rescale, Threshold
from policyctl_exporters.spaces import action_of, float32_inside


@dataclass(frozen=True, slots=True)
class Head:
    """A module from features (or scores) to all outputs, and what the contract says of them.

    Attributes:
        module: Takes one tensor, gives one tensor for each of `outputs`.
        outputs: The contract's outputs; `action` is the first.
        action_kind: What the environment takes.
        distribution: How a stochastic action is drawn.
    """

    module: nn.Module
    outputs: tuple[TensorSpec, ...]
    action_kind: ActionKind
    distribution: Distribution = field(default_factory=Distribution)


class _Scores(nn.Module):
    """Action and the scores that it was chosen by."""

    def __init__(self, net: nn.Module, choose: nn.Module) -> None:
        super().__init__()
        self.net, self.choose = net, choose

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.net(features)
        return self.choose(scores), scores


class Gaussian(nn.Module):
    """Action, mean and log standard deviation; `spread` maps features to the latter."""

    def __init__(self, net: nn.Module, spread: nn.Module, finish: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.spread, self.finish, self.shape = net, spread, finish, shape

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three of shape (n, *shape)."""
        mean = self.net(features).reshape(-1, *self.shape)
        log_std = self.spread(features).reshape(-1, *self.shape)
        return self.finish(mean), mean, log_std


class _Deterministic(nn.Module):
    """Action alone."""

    def __init__(self, net: nn.Module, finish: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.finish, self.shape = net, finish, shape

    def forward(self, features: Tensor) -> tuple[Tensor]:
        return (self.finish(self.net(features).reshape(-1, *self.shape)),)


class ConstantSpread(nn.Module):
    """One log standard deviation for all observations, expanded to the batch."""

    log_std: Tensor

    def __init__(self, log_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_std", log_std.detach().clone().reshape(1, -1))

    def forward(self, features: Tensor) -> Tensor:
        """Shape (n, actions)."""
        # A sum with zeros of the batch's length, which unlike expand() traces the
        # same for every runtime and batch.
        return self.log_std + torch.zeros_like(features[:, :1])


class TanhRescale(nn.Module):
    """tanh, then to the action's bounds."""

    def __init__(self, rescale: Rescale) -> None:
        super().__init__()
        self.rescale = rescale

    def forward(self, mean: Tensor) -> Tensor:
        """Squash a batch."""
        scaled: Tensor = self.rescale(torch.tanh(mean))
        return scaled


def rescale_to(space: Any) -> Rescale:
    """From [-1, 1] to the bounds of a Box.

    Raises:
        UnsupportedError: The Box has an infinite bound.
    """
    low, high = float32_inside(space)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UnsupportedError(f"a squashed action needs finite bounds, the action space is {space}")
    return Rescale(low.reshape(space.shape or (1,)), high.reshape(space.shape or (1,)))


def clip_to(space: Any) -> Clip:
    """Clip to the bounds of a Box."""
    low, high = float32_inside(space)
    return Clip(low.reshape(space.shape or (1,)), high.reshape(space.shape or (1,)))


def chooser(space: Any, *, start: bool) -> tuple[nn.Module, int]:
    """What turns scores into the action of a discrete space, and how many scores it takes.

    Args:
        space: Discrete, MultiDiscrete or MultiBinary.
        start: Whether choices count from the space's ``start``.
    """
    kind, spec = action_of(space, start=start)
    if kind is ActionKind.MULTI_BINARY:
        return Threshold(), spec.size
    sizes = [int(n) for n in np.atleast_1d(space.n if kind is ActionKind.DISCRETE else space.nvec)]
    starts = [int(s) for s in np.atleast_1d(space.start)] if start else [0] * len(sizes)
    return Greedy(sizes, starts), sum(sizes)


def scores_head(
    net: nn.Module, space: Any, *, name: str = "logits", stochastic: bool = True, start: bool = True
) -> Head:
    """A head for discrete actions: the scores are given out as they are, not normalised.

    Args:
        net: From features to scores of shape (n, number of choices).
        space: Discrete, MultiDiscrete or MultiBinary.
        name: ``logits`` or ``q_values``.
        stochastic: Whether actions may be drawn by these scores.
        start: Whether choices count from the space's ``start``.
    """
    kind, action = action_of(space, start=start)
    choose, count = chooser(space, start=start)
    distribution = Distribution()
    if stochastic:
        match kind:
            case ActionKind.DISCRETE:
                distribution = Distribution(DistributionKind.CATEGORICAL)
            case ActionKind.MULTI_DISCRETE:
                nvec = tuple(int(n) for n in space.nvec)
                distribution = Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=nvec)
            case _:
                distribution = Distribution(DistributionKind.BERNOULLI)
    scores = TensorSpec(name, "float32", (count,))
    return Head(_Scores(net, choose), (action, scores), kind, distribution)


def gaussian_head(net: nn.Module, spread: nn.Module, space: Any, *, squash: bool) -> Head:
    """A head for continuous actions with a Gaussian around the mean.

    Args:
        net: From features to the mean, shape (n, actions), before any squashing.
        spread: From features to the log standard deviation, same shape.
        space: The Box.
        squash: tanh and rescale to the bounds; otherwise clip to them.
    """
    kind, action = action_of(space)
    finish = TanhRescale(rescale_to(space)) if squash else clip_to(space)
    transform = Transform.TANH_RESCALE if squash else Transform.CLIP
    outputs = (action, *(TensorSpec(name, "float32", action.shape) for name in ("mean", "log_std")))
    module = Gaussian(net, spread, finish, action.shape)
    return Head(module, outputs, kind, Distribution(DistributionKind.GAUSSIAN, transform=transform))


def deterministic_head(net: nn.Module, space: Any, *, squashed: bool) -> Head:
    """A head for continuous actions without a distribution.

    Args:
        net: From features to the action, shape (n, actions).
        space: The Box.
        squashed: `net` ends in [-1, 1], so rescale; otherwise clip to the bounds.
    """
    kind, action = action_of(space)
    finish = rescale_to(space) if squashed else clip_to(space)
    return Head(_Deterministic(net, finish, action.shape), (action,), kind)
