"""Build one graph from a Stable-Baselines3 policy: raw observation in, action out.

The graph is put together from the policy's own layers in the order in which
``policy.predict()`` uses them, with everything around the network that
``predict`` does in NumPy (preprocessing, squashing, rescaling, clipping) as
layers. A class that is not known here, or that overrides what
``predict`` runs through, is refused: a graph that leaves out what it adds
would answer plausibly and wrongly.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policyctl.domain.contract import Contract
from policyctl.domain.images import TO_CHANNELS_FIRST
from policyctl.errors import UnsupportedError
from policyctl_exporters.heads import (
    ConstantSpread,
    Head,
    deterministic_head,
    gaussian_head,
    scores_head,
)
from policyctl_exporters.layers import Normalize, OneHot, Permute, Scale
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.spaces import Observation

SUPPORTED = "PPO, A2C, TRPO, DQN, QR-DQN, SAC, TD3, DDPG, TQC, CrossQ and ARS"


class PolicyGraph(nn.Module):
    """Raw observations, in the contract's order, to all outputs, in the contract's order."""

    def __init__(
        self, keys: Sequence[str], encoders: Sequence[nn.Module], extractor: nn.Module, body: nn.Module, head: nn.Module
    ) -> None:
        super().__init__()
        self.keys = list(keys)
        self.encoders = nn.ModuleList(encoders)
        self.extractor, self.body, self.head = extractor, body, head

    def forward(self, *observations: Tensor) -> tuple[Tensor, ...]:
        """One tensor of shape (n, *spec.shape) for each observation."""
        encoded = [encoder(x) for encoder, x in zip(self.encoders, observations, strict=True)]
        flat = self.keys == [FLAT]
        features = self.extractor(encoded[0] if flat else dict(zip(self.keys, encoded, strict=True)))
        outputs: tuple[Tensor, ...] = self.head(self.body(features))
        return outputs


class _StateDependentSpread(nn.Module):
    """Log standard deviation of gSDE: that of the noise matrix's product with the features.

    Source:
        Raffin et al. (2022), "Smooth Exploration for Robotic Reinforcement
        Learning", https://arxiv.org/abs/2005.05719, equation 9.
    """

    variance: Tensor

    def __init__(self, std: Tensor, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("variance", std.detach().clone() ** 2)
        self.epsilon = epsilon

    def forward(self, features: Tensor) -> Tensor:
        return 0.5 * torch.log(torch.matmul(features**2, self.variance) + self.epsilon)


class _ClampedSpread(nn.Module):
    """Log standard deviation as a network gives it, within SAC's limits."""

    def __init__(self, net: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.net, self.low, self.high = net, low, high

    def forward(self, features: Tensor) -> Tensor:
        return torch.clamp(self.net(features), self.low, self.high)


class _MeanQuantile(nn.Module):
    """Value of each action: the mean over its quantiles."""

    def __init__(self, net: nn.Module, quantiles: int, actions: int) -> None:
        super().__init__()
        self.net, self.quantiles, self.actions = net, quantiles, actions

    def forward(self, features: Tensor) -> Tensor:
        values: Tensor = self.net(features).reshape(-1, self.quantiles, self.actions).mean(dim=1)
        return values


class _ForwardActor(nn.Module):
    """The actor's half of a custom `mlp_extractor`."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, features: Tensor) -> Tensor:
        latent: Tensor = self.extractor.forward_actor(features)
        return latent


def build_graph(
    policy: Any, observations: Sequence[Observation], normalizer: Normalizer | None
) -> tuple[PolicyGraph, Contract]:
    """The graph of a policy, and its contract.

    Args:
        policy: On the CPU, in evaluation mode; its layers are shared, not copied.
        observations: Its inputs.
        normalizer: What observations went through on their way to the policy.

    Raises:
        UnsupportedError: A class of policy that is not known here, or one
            that overrides part of what ``predict`` does.
    """
    extractor, preprocessed, body, head = _parts(policy)
    own = getattr(policy.observation_space, "spaces", {FLAT: policy.observation_space})
    images = bool(preprocessed.normalize_images)
    encoders = [_turned(obs, own[obs.key], encoder(obs, normalizer, images=images)) for obs in observations]
    graph = PolicyGraph([obs.key for obs in observations], encoders, extractor, body, head.module)
    graph.eval()
    graph.requires_grad_(requires_grad=False)
    contract = Contract(
        observations=tuple(obs.spec for obs in observations),
        outputs=head.outputs,
        action_kind=head.action_kind,
        distribution=head.distribution,
    )
    return graph, contract


def encoder(observation: Observation, normalizer: Normalizer | None, *, images: bool) -> nn.Module:
    """From one raw observation to what a features extractor takes.

    Args:
        observation: Which one.
        normalizer: Applied first, where it has statistics for this key.
        images: Whether uint8 images are divided by 255.

    Raises:
        UnsupportedError: A discrete observation that does not count from 0,
            which Stable-Baselines3 cannot encode.
    """
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space

    space, key = observation.space, observation.key
    if normalizer is not None and key in normalizer.statistics:
        statistics = normalizer.statistics[key]
        return Normalize(statistics.mean, normalizer.std(key), normalizer.clip_obs)
    match space:
        case spaces.Discrete() | spaces.MultiDiscrete():
            starts, sizes = (space.start, space.n) if hasattr(space, "n") else (space.start, space.nvec)
            if torch.as_tensor(starts).any():
                raise UnsupportedError(f"observation space {space} does not start at 0")
            return OneHot([int(size) for size in torch.as_tensor(sizes).reshape(-1)])
        case _:
            return Scale(255.0 if images and is_image_space(space) else 1.0)


def _turned(observation: Observation, own: Any, encode: nn.Module) -> nn.Module:
    """Channels of an image to the front, where the environment gives them last."""
    if observation.space.shape == own.shape:
        return encode
    return nn.Sequential(encode, Permute(TO_CHANNELS_FIRST))


def _parts(policy: Any) -> tuple[nn.Module, Any, nn.Module, Head]:
    """Features extractor, what preprocesses for it, layers up to the head, and the head."""
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy
    from stable_baselines3.td3.policies import TD3Policy

    names = [base.__name__ for base in type(policy).__mro__]
    if isinstance(policy, ActorCriticPolicy) and not hasattr(policy, "lstm_actor"):
        return _actor_critic(policy)
    if isinstance(policy, SACPolicy) or not {"TQCPolicy", "CrossQPolicy"}.isdisjoint(names):
        return _squashed_gaussian(policy)
    if isinstance(policy, TD3Policy):
        return _td3(policy)
    if isinstance(policy, DQNPolicy):
        return _values(policy, policy.q_net, policy.q_net.q_net)
    if "QRDQNPolicy" in names:
        net = policy.quantile_net
        mean = _MeanQuantile(net.quantile_net, int(net.n_quantiles), int(policy.action_space.n))
        return _values(policy, net, mean)
    if "ARSPolicy" in names:
        return _ars(policy)
    why = " (it keeps a hidden state between steps)" if hasattr(policy, "lstm_actor") else ""
    raise UnsupportedError(
        f"policies of class {type(policy).__name__} cannot be exported{why}",
        remedy=f"Policies of {SUPPORTED} can; or wrap the network in a torch.nn.Module and export that.",
    )


def _unchanged(module: Any, *methods: str) -> None:
    """Refuse a subclass from outside the libraries that overrides what `predict` runs through."""
    for method in ("predict", "obs_to_tensor", "unscale_action", "_predict", *methods):
        found = inspect.getattr_static(type(module), method)
        home = getattr(inspect.unwrap(getattr(found, "__func__", found)), "__module__", "")
        if home.partition(".")[0] not in {"stable_baselines3", "sb3_contrib"}:
            raise UnsupportedError(
                f"{type(module).__name__} has its own {method}(), which the exported graph would leave out",
                remedy="Wrap the policy in a torch.nn.Module that computes the action, and export that.",
            )


def _actor_critic(policy: Any) -> tuple[nn.Module, Any, nn.Module, Head]:
    from stable_baselines3.common import distributions as law
    from stable_baselines3.common.torch_layers import MlpExtractor

    _unchanged(policy, "get_distribution", "_get_action_dist_from_latent")
    mlp, space, net, kind = policy.mlp_extractor, policy.action_space, policy.action_net, type(policy.action_dist)
    body = mlp.policy_net if type(mlp) is MlpExtractor else _ForwardActor(mlp)
    if kind is law.DiagGaussianDistribution:
        head = gaussian_head(net, ConstantSpread(policy.log_std), space, squash=False)
    elif kind is law.StateDependentNoiseDistribution:
        squash = policy.action_dist.bijector is not None
        head = gaussian_head(net, _sde_spread(policy), space, squash=squash)
    elif kind in (law.CategoricalDistribution, law.MultiCategoricalDistribution, law.BernoulliDistribution):
        # predict() counts discrete actions from 0, also where the space does not.
        head = scores_head(net, space, start=False)
    else:
        raise UnsupportedError(f"{type(policy).__name__} draws from {kind.__name__}, which is not known here")
    return policy.pi_features_extractor, policy, body, head


def _sde_spread(actor: Any) -> nn.Module:
    return _StateDependentSpread(actor.action_dist.get_std(actor.log_std), actor.action_dist.epsilon)


def _squashed_gaussian(policy: Any) -> tuple[nn.Module, Any, nn.Module, Head]:
    import sys

    actor = policy.actor
    _unchanged(policy)
    _unchanged(actor, "forward", "get_action_dist_params")
    if actor.use_sde:
        spread = _sde_spread(actor)
    else:
        home = next(base for base in type(actor).__mro__ if base.__name__ == "Actor")
        limits = vars(sys.modules[home.__module__])
        spread = _ClampedSpread(actor.log_std, limits["LOG_STD_MIN"], limits["LOG_STD_MAX"])
    head = gaussian_head(actor.mu, spread, policy.action_space, squash=True)
    return actor.features_extractor, actor, actor.latent_pi, head


def _td3(policy: Any) -> tuple[nn.Module, Any, nn.Module, Head]:
    actor = policy.actor
    _unchanged(policy)
    _unchanged(actor, "forward")
    head = deterministic_head(actor.mu, policy.action_space, squashed=True)
    return actor.features_extractor, actor, nn.Identity(), head


def _values(policy: Any, network: Any, values: nn.Module) -> tuple[nn.Module, Any, nn.Module, Head]:
    _unchanged(policy)
    _unchanged(network, "forward")
    head = scores_head(values, policy.action_space, name="q_values", stochastic=False, start=False)
    return network.features_extractor, network, nn.Identity(), head


def _ars(policy: Any) -> tuple[nn.Module, Any, nn.Module, Head]:
    from gymnasium import spaces

    _unchanged(policy, "forward")
    if isinstance(policy.action_space, spaces.Box):
        squashed = bool(policy.squash_output)
        head = deterministic_head(policy.action_net, policy.action_space, squashed=squashed)
    else:
        # Scores are given out so that near-ties can be recognised; nothing is drawn from them.
        head = scores_head(policy.action_net, policy.action_space, stochastic=False, start=False)
    return policy.features_extractor, policy, nn.Identity(), head
