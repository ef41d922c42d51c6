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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from policyctl.domain.contract import ACTION, ActionKind, Distribution, DistributionKind, State, Transform
from policyctl.domain.images import TO_CHANNELS_FIRST
from policyctl.domain.tensor import Role, TensorSpec
from policyctl.errors import UnsupportedError
from policyctl_exporters.heads import Outputs, chooser, finish_of, law_of
from policyctl_exporters.layers import Greedy, Normalize, OneHot, Permute, Scale
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.spaces import Observation, action_of, unique_names

SUPPORTED = "PPO, RecurrentPPO, MaskablePPO, A2C, TRPO, DQN, QR-DQN, SAC, TD3, DDPG, TQC, CrossQ and ARS"


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands after the features.

    Attributes:
        nets: From features to what the policy gives, by name.
    """

    nets: dict[str, nn.Module]
    outputs: Outputs
    finish: nn.Module


_Parts = tuple[nn.Module, Any, nn.Module, _Head]
"""Features extractor, what preprocesses for it, layers up to the head, and the head."""

_MASKABLE = frozenset({f"Maskable{law}Distribution" for law in ("Categorical", "MultiCategorical", "Bernoulli")})
"""sb3-contrib's distributions whose choices can be ruled out."""

_LSTM_STATE = ("lstm_h", "lstm_c")
"""What the contract calls the hidden and the cell state of an LSTM, unless an observation has that name."""


class _Answer(nn.Module):
    """What the policy gives, by name, from raw observations in the contract's order."""

    def __init__(
        self,
        keys: Sequence[str],
        encoders: Sequence[nn.Module],
        extractor: nn.Module,
        body: nn.Module,
        nets: dict[str, nn.Module],
    ) -> None:
        super().__init__()
        self.keys = list(keys)
        self.encoders = nn.ModuleList(encoders)
        self.extractor, self.body, self.head = extractor, body, nn.ModuleDict(nets)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        count = len(self.keys)
        encoded = [encoder(x) for encoder, x in zip(self.encoders, inputs[:count], strict=True)]
        flat = self.keys == [FLAT]
        features = self.extractor(encoded[0] if flat else dict(zip(self.keys, encoded, strict=True)))
        states: dict[str, Tensor] = {}
        if isinstance(self.body, _LstmStep):
            features, states = self.body(features, *inputs[count:])
        else:
            features = self.body(features)
        more = inputs[count:]
        nets = self.head.items()
        return {
            name: net(features, *more) if isinstance(net, _Masked) else net(features) for name, net in nets
        } | states


class _LstmStep(nn.Module):
    """One step of an LSTM, whose state is batch first as in a contract, and the layers behind it."""

    def __init__(self, lstm: nn.LSTM, body: nn.Module) -> None:
        super().__init__()
        self.lstm, self.body = lstm, body

    def forward(self, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the head takes, shape (n, size), and the state after the step, each of shape (n, layers, size)."""
        before = hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()
        latent, after = self.lstm(features.unsqueeze(0), before)
        states = {name: x.transpose(0, 1) for name, x in zip(_LSTM_STATE, after, strict=True)}
        return self.body(latent.squeeze(0)), states


class _Masked(nn.Module):
    """Log probabilities of choices before masking, and minus infinity for those that a mask rules out.

    Where it rules out every choice of a component, all are alike, as they are for sb3-contrib.
    """

    def __init__(self, net: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.net, self.sizes = net, [int(size) for size in sizes]

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        parts = (torch.split(tensor, self.sizes, dim=1) for tensor in (self.net(features), mask))
        return torch.cat([self._masked(*part) for part in zip(*parts, strict=True)], dim=1)

    @staticmethod
    def _masked(scores: Tensor, allowed: Tensor) -> Tensor:
        scores = scores.log_softmax(1).masked_fill(~allowed, float("-inf"))
        return scores.masked_fill(~allowed.any(1, keepdim=True), 0.0)


class _ConstantSpread(nn.Module):
    """One log standard deviation for all observations, shape (1, actions)."""

    log_std: Tensor

    def __init__(self, log_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_std", log_std.detach().clone().reshape(1, -1))

    def forward(self, features: Tensor) -> Tensor:
        return self.log_std


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


def build_answer(
    policy: Any, observations: Sequence[Observation], normalizer: Normalizer | None
) -> tuple[nn.Module, Outputs, nn.Module]:
    """What a policy gives by name, what the contract says of it, and from what the action is made of to the action.

    Args:
        policy: On the CPU, in evaluation mode; its layers are shared, not copied.
    """
    extractor, preprocessed, body, head = _parts(policy)
    outputs = head.outputs
    if isinstance(body, _LstmStep):
        outputs = _remembering(outputs, body.lstm, observations)
    elif outputs.inputs:
        taken = {obs.spec.name for obs in observations}
        names = unique_names([spec.name for spec in outputs.inputs], taken=taken, prefix="policy")
        inputs = zip(outputs.inputs, names, strict=True)
        outputs = replace(outputs, inputs=tuple(replace(spec, name=name) for spec, name in inputs))
    own = getattr(policy.observation_space, "spaces", {FLAT: policy.observation_space})
    images = bool(preprocessed.normalize_images)
    encoders = [_encoder(obs, own[obs.key], normalizer, images=images) for obs in observations]
    answer = _Answer([obs.key for obs in observations], encoders, extractor, body, head.nets)
    return answer.eval(), outputs, head.finish


def _remembering(outputs: Outputs, lstm: nn.LSTM, observations: Sequence[Observation]) -> Outputs:
    """`outputs` with the state of the actor's LSTM, as pairs of an input and the output that continues it."""
    taken = {*(obs.spec.name for obs in observations), *(spec.name for spec in outputs.specs)}
    before = unique_names(_LSTM_STATE, taken=taken, prefix="policy")
    after = unique_names([f"{name}_out" for name in before], taken=taken, prefix="policy")
    shape = (lstm.num_layers, lstm.hidden_size)

    def tensors(hidden: str, cell: str) -> tuple[TensorSpec, ...]:
        # What an LSTM gives out lies between -1 and 1; its cell is not bounded.
        return TensorSpec(hidden, "float32", shape, -1.0, 1.0), TensorSpec(cell, "float32", shape)

    return replace(
        outputs,
        specs=(*outputs.specs, *tensors(*after)),
        keys={**outputs.keys, **dict(zip(after, _LSTM_STATE, strict=True))},
        inputs=tensors(*before),
        states=tuple(State(first, second) for first, second in zip(before, after, strict=True)),
    )


def _encoder(observation: Observation, own: Any, normalizer: Normalizer | None, *, images: bool) -> nn.Module:
    """From one raw observation to what a features extractor takes, in the layout of the policy's `own` space."""
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space

    space, key = observation.space, observation.key
    if normalizer is not None and key in normalizer.statistics:
        encode: nn.Module = Normalize(normalizer.statistics[key].mean, normalizer.std(key), normalizer.clip_obs)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if torch.as_tensor(space.start).any():
            raise UnsupportedError(f"observation space {space} does not start at 0")
        sizes = torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        encode = OneHot([int(size) for size in sizes.reshape(-1)])
    else:
        encode = Scale(255.0 if images and is_image_space(space) else 1.0)
    # Channels of an image to the front, where the environment gives them last.
    return encode if space.shape == own.shape else nn.Sequential(encode, Permute(TO_CHANNELS_FIRST))


def _parts(policy: Any) -> _Parts:
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy
    from stable_baselines3.td3.policies import TD3Policy

    names = [base.__name__ for base in type(policy).__mro__]
    if "RecurrentActorCriticPolicy" in names:
        return _recurrent(policy)
    if isinstance(policy, ActorCriticPolicy) or "MaskableActorCriticPolicy" in names:
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
    raise UnsupportedError(
        f"policies of class {type(policy).__name__} cannot be exported",
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


def _actor_critic(policy: Any) -> _Parts:
    from stable_baselines3.common import distributions as law
    from stable_baselines3.common.torch_layers import MlpExtractor

    _unchanged(policy, "get_distribution", "_get_action_dist_from_latent")
    mlp, space, net, kind = policy.mlp_extractor, policy.action_space, policy.action_net, type(policy.action_dist)
    body = mlp.policy_net if type(mlp) is MlpExtractor else _ForwardActor(mlp)
    if kind is law.DiagGaussianDistribution:
        head = _gaussian(net, _ConstantSpread(policy.log_std), space, squash=False)
    elif kind is law.StateDependentNoiseDistribution:
        squash = policy.action_dist.bijector is not None
        head = _gaussian(net, _sde_spread(policy), space, squash=squash)
    elif kind in (law.CategoricalDistribution, law.MultiCategoricalDistribution, law.BernoulliDistribution):
        # predict() counts discrete actions from 0, also where the space does not.
        head = _scores(net, space)
    elif kind.__name__ in _MASKABLE:
        head = _masked_scores(net, space)
    else:
        raise UnsupportedError(f"{type(policy).__name__} draws from {kind.__name__}, which is not known here")
    return policy.pi_features_extractor, policy, body, head


def _recurrent(policy: Any) -> _Parts:
    """The actor alone: what the critic is made of, and remembers, has no part in the action."""
    _unchanged(policy, "_process_sequence")
    lstm = policy.lstm_actor
    if lstm.batch_first or lstm.bidirectional or lstm.proj_size:
        raise UnsupportedError(
            f"{type(policy).__name__} has an LSTM that is batch_first, bidirectional or projected,"
            " which sb3-contrib does not run on several episodes",
            remedy="Train it without these lstm_kwargs.",
        )
    extractor, preprocessed, body, head = _actor_critic(policy)
    return extractor, preprocessed, _LstmStep(lstm, body), head


def _sde_spread(actor: Any) -> nn.Module:
    return _StateDependentSpread(actor.action_dist.get_std(actor.log_std), actor.action_dist.epsilon)


def _squashed_gaussian(policy: Any) -> _Parts:
    import sys

    actor = policy.actor
    _unchanged(policy)
    _unchanged(actor, "forward", "get_action_dist_params")
    if actor.use_sde:
        spread = _sde_spread(actor)
    else:
        home = next(base for base in type(actor).__mro__ if base.__name__ == "Actor")
        limits = vars(sys.modules[home.__module__])
        # Hardtanh clamps: the spread as the network gives it, within SAC's limits.
        spread = nn.Sequential(actor.log_std, nn.Hardtanh(limits["LOG_STD_MIN"], limits["LOG_STD_MAX"]))
    head = _gaussian(actor.mu, spread, policy.action_space, squash=True)
    return actor.features_extractor, actor, actor.latent_pi, head


def _td3(policy: Any) -> _Parts:
    actor = policy.actor
    _unchanged(policy)
    _unchanged(actor, "forward")
    head = _deterministic(actor.mu, policy.action_space, squashed=True)
    return actor.features_extractor, actor, nn.Identity(), head


def _values(policy: Any, network: Any, values: nn.Module) -> _Parts:
    _unchanged(policy)
    _unchanged(network, "forward")
    head = _scores(values, policy.action_space, name="q_values", stochastic=False)
    return network.features_extractor, network, nn.Identity(), head


def _ars(policy: Any) -> _Parts:
    from gymnasium import spaces

    _unchanged(policy, "forward")
    if isinstance(policy.action_space, spaces.Box):
        squashed = bool(policy.squash_output)
        head = _deterministic(policy.action_net, policy.action_space, squashed=squashed)
    else:
        # Scores are given out so that near-ties can be recognised; nothing is drawn from them.
        head = _scores(policy.action_net, policy.action_space, stochastic=False)
    return policy.features_extractor, policy, nn.Identity(), head


def _scores(net: nn.Module, space: Any, *, name: str = "logits", stochastic: bool = True) -> _Head:
    """Discrete actions by scores, which are given out as they are; predict() counts choices from 0."""
    kind, action = action_of(space, start=False)
    choose, count = chooser(space, start=False)
    specs = (action, TensorSpec(name, "float32", (count,)))
    law = law_of(specs, kind, getattr(space, "nvec", ())) if stochastic else Distribution()
    return _Head({name: net}, Outputs(specs, {name: name}, name, kind, law), choose)


def _masked_scores(net: nn.Module, space: Any) -> _Head:
    """The same with a mask over the choices; each of several zeros and ones is a choice of two."""
    kind, action = action_of(space, start=False)
    sizes = _choices(space, action)
    inputs = (TensorSpec("action_mask", "bool", (sum(sizes),), role=Role.ACTION_MASK),)
    specs = (action, TensorSpec("logits", "float32", (sum(sizes),)))
    law = Distribution(DistributionKind.CATEGORICAL)
    if kind is not ActionKind.DISCRETE:
        law = Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=tuple(sizes))
    outputs = Outputs(specs, {"logits": "logits"}, "logits", kind, law, inputs)
    return _Head({"logits": _Masked(net, sizes)}, outputs, Greedy(sizes, [0] * len(sizes)))


def _choices(space: Any, action: TensorSpec) -> list[int]:
    """How many choices each component of an action has."""
    if hasattr(space, "nvec"):
        return [int(n) for n in space.nvec]
    return [2] * action.size if type(space).__name__ == "MultiBinary" else [int(space.n)]


def _gaussian(mean: nn.Module, spread: nn.Module, space: Any, *, squash: bool) -> _Head:
    """Continuous actions around a mean: squashed by tanh and rescaled to the bounds, or clipped to them."""
    _, action = action_of(space)
    nets = {"mean": mean, "log_std": spread}
    specs = (action, *(TensorSpec(name, "float32", action.shape) for name in nets))
    transform = Transform.TANH_RESCALE if squash else Transform.CLIP
    law = Distribution(DistributionKind.GAUSSIAN, transform=transform)
    finish = finish_of("mean", space, squashed=squash)
    outputs = Outputs(specs, {name: name for name in nets}, "mean", ActionKind.CONTINUOUS, law)
    return _Head(nets, outputs, nn.Sequential(nn.Tanh(), finish) if squash else finish)


def _deterministic(net: nn.Module, space: Any, *, squashed: bool) -> _Head:
    """Continuous actions without a distribution; `squashed` where `net` ends in [-1, 1]."""
    _, action = action_of(space)
    outputs = Outputs((action,), {ACTION: ACTION}, ACTION, ActionKind.CONTINUOUS, Distribution())
    return _Head({ACTION: net}, outputs, finish_of(ACTION, space, squashed=squashed))
