"""What a policy takes and gives: the contract that travels with every release.

Everything that speaks of tensors reads it here: exporters write it,
`config.pbtxt` is generated from it, clients check observations against it and
draw stochastic actions by it. It is plain JSON, without code.

Every shape leaves out the batch dimension, which is always first and dynamic.
A scalar space (a discrete action, a discrete observation) has shape ``(1,)``,
because Triton has no zero-dimensional tensor.

Law: ``Contract.from_json(c.to_json()) == c`` for every contract.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.json_values import expect_keys, integer, items, number, text
from policyctl.errors import UsageError

SCHEMA_VERSION: Final = 1

DTYPES: Final = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
_TENSOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")

ACTION: Final = "action"

Bound = float | tuple[float, ...] | None


class ActionKind(StrEnum):
    """What the environment takes."""

    CONTINUOUS = "continuous"
    DISCRETE = "discrete"
    MULTI_DISCRETE = "multi_discrete"
    MULTI_BINARY = "multi_binary"


class DistributionKind(StrEnum):
    """How a stochastic action is drawn from the outputs beside `action`."""

    NONE = "none"
    """Deterministic policy (TD3, DDPG, ARS, Q-values): there is nothing to draw."""
    CATEGORICAL = "categorical"
    """Output ``logits``, shape (n,)."""
    MULTI_CATEGORICAL = "multi_categorical"
    """Output ``logits``, shape (sum(nvec),), one block a component."""
    BERNOULLI = "bernoulli"
    """Output ``logits``, shape (n,): each component is 1 with sigmoid(logit)."""
    GAUSSIAN = "gaussian"
    """Outputs ``mean`` and ``log_std``, each of the action's shape."""


class Transform(StrEnum):
    """What turns a Gaussian sample into the action."""

    NONE = "none"
    CLIP = "clip"
    """Clip to the action's bounds."""
    TANH_RESCALE = "tanh_rescale"
    """tanh, then rescale from [-1, 1] to the action's bounds."""
    RESCALE = "rescale"
    """Clip to [-1, 1], then rescale to the action's bounds."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor, without its batch dimension.

    Attributes:
        name: A letter, then letters, digits and ``_``.
        dtype: A NumPy dtype name, one of `DTYPES`.
        shape: At least one positive dimension.
        low: Smallest value: one for all, one an element (C order), or None
            for unbounded. An element that is unbounded alone is ``-inf``.
        high: Largest value, in the same form (``inf``).
        features: What each element is called, C order; empty where unknown.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: Bound = None
    high: Bound = None
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if _TENSOR_NAME.fullmatch(self.name) is None:
            raise UsageError(
                f"tensor name {self.name!r} is not allowed",
                remedy="Use a letter, then up to 62 letters, digits and '_'.",
            )
        if self.dtype not in DTYPES:
            raise UsageError(
                f"tensor {self.name}: dtype {self.dtype!r} is not served",
                remedy=f"Use one of {', '.join(DTYPES)}.",
            )
        if not self.shape or any(d <= 0 for d in self.shape):
            raise UsageError(
                f"tensor {self.name}: shape {self.shape} is not at least one positive dimension",
                remedy="Give the shape of one observation or action, without the batch dimension.",
            )
        self._check_bound("low", self.low, unbounded=-math.inf)
        self._check_bound("high", self.high, unbounded=math.inf)
        if self.features and len(self.features) != self.size:
            raise UsageError(
                f"tensor {self.name}: {len(self.features)} feature names, its shape {self.shape} needs {self.size}",
                remedy="Name every element, in C order, or none.",
            )

    def _check_bound(self, which: str, bound: Bound, *, unbounded: float) -> None:
        if bound is None:
            return
        if isinstance(bound, tuple) and len(bound) != self.size:
            raise UsageError(
                f"tensor {self.name}: {which} has {len(bound)} values, its shape {self.shape} needs {self.size}",
            )
        alone = not isinstance(bound, tuple)
        for value in bound if isinstance(bound, tuple) else (bound,):
            if not math.isfinite(value) and (alone or value != unbounded):
                raise UsageError(
                    f"tensor {self.name}: {which} {bound} is not a bound",
                    remedy=f"Leave it out where there is none; {unbounded} stands for one element alone.",
                )

    @property
    def size(self) -> int:
        """Elements of one item."""
        return math.prod(self.shape)

    def feature(self, index: int) -> str:
        """What element `index` (C order) is called, for messages."""
        if self.features:
            return f"{self.name}[{index}] ({self.features[index]})"
        return f"{self.name}[{index}]"

    def to_json(self) -> dict[str, Any]:
        """A JSON object; unbounded values become null."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "low": _bound_to_json(self.low),
            "high": _bound_to_json(self.high),
            "features": list(self.features),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read what `to_json` wrote.

        Raises:
            UsageError: A key is missing, unknown, or has a wrong type.
        """
        expect_keys("tensor", data, {"name", "dtype", "shape", "low", "high", "features"})
        name = text("tensor: name", data["name"])
        what = f"tensor {name!r}:"
        return cls(
            name=name,
            dtype=text(f"{what} dtype", data["dtype"]),
            shape=tuple(integer(f"{what} shape: a dimension", d) for d in items(f"{what} shape", data["shape"])),
            low=_bound_from_json(f"{what} low", data["low"], -math.inf),
            high=_bound_from_json(f"{what} high", data["high"], math.inf),
            features=tuple(text(f"{what} features: one", f) for f in items(f"{what} features", data["features"])),
        )


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a client draws an action that is not the deterministic one.

    Attributes:
        kind: Which law.
        nvec: Choices of each component (multi-categorical only).
        transform: From a Gaussian sample to the action (Gaussian only).
    """

    kind: DistributionKind = DistributionKind.NONE
    nvec: tuple[int, ...] = ()
    transform: Transform = Transform.NONE

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "kind": self.kind.value,
            "nvec": list(self.nvec),
            "transform": self.transform.value,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Distribution:
        """Read what `to_json` wrote.

        Raises:
            UsageError: A key is missing or unknown, or a value is not one of ours.
        """
        expect_keys("distribution", data, {"kind", "nvec", "transform"})
        nvec = items("distribution: nvec", data["nvec"])
        try:
            return cls(
                kind=DistributionKind(data["kind"]),
                nvec=tuple(integer("distribution: nvec: one", n) for n in nvec),
                transform=Transform(data["transform"]),
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"distribution: {error}") from error


@dataclass(frozen=True, slots=True)
class Contract:
    """Names, shapes, dtypes and bounds of observations and actions.

    Attributes:
        observations: Every input, in the order in which artifacts take them.
        outputs: Every output, in the order in which artifacts give them;
            `action` is the first.
        action_kind: How the action is to be read: a `discrete` action of
            shape (1,) is the integer that the environment takes.
        distribution: How a stochastic action is drawn.
    """

    observations: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    action_kind: ActionKind
    distribution: Distribution = field(default_factory=Distribution)

    def __post_init__(self) -> None:
        if not self.observations:
            raise UsageError("contract: a policy needs at least one observation")
        if not self.outputs or self.outputs[0].name != ACTION:
            raise UsageError(f"contract: the first output must be called {ACTION!r}")
        names = [spec.name for spec in (*self.observations, *self.outputs)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"contract: {', '.join(twice)} named more than once")
        self._check_distribution()

    def _check_distribution(self) -> None:
        law, action = self.distribution, self.action
        shapes = {spec.name: spec.shape for spec in self.outputs}
        match law.kind:
            case DistributionKind.NONE:
                return
            case DistributionKind.GAUSSIAN:
                needed = dict.fromkeys(("mean", "log_std"), action.shape)
            case DistributionKind.BERNOULLI:
                needed = {"logits": (action.size,)}
            case DistributionKind.CATEGORICAL:
                needed = {"logits": shapes.get("logits", ())}
            case DistributionKind.MULTI_CATEGORICAL:
                if len(law.nvec) != action.size or min(law.nvec) < 1:
                    raise UsageError(f"contract: nvec {law.nvec} is not one positive count for each of {action.size}")
                needed = {"logits": (sum(law.nvec),)}
        for name, shape in needed.items():
            if name not in shapes:
                raise UsageError(f"contract: a {law.kind} action is drawn from the output {name!r}, which is missing")
            if math.prod(shapes[name]) != math.prod(shape):
                raise UsageError(f"contract: output {name!r} has shape {shapes[name]}, {law.kind} needs {shape}")

    @property
    def action(self) -> TensorSpec:
        """The first output."""
        return self.outputs[0]

    def output(self, name: str) -> TensorSpec:
        """The output called `name`.

        Raises:
            KeyError: There is none.
        """
        for spec in self.outputs:
            if spec.name == name:
                return spec
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a schema version."""
        return {
            "schema": SCHEMA_VERSION,
            "observations": [spec.to_json() for spec in self.observations],
            "outputs": [spec.to_json() for spec in self.outputs],
            "action_kind": self.action_kind.value,
            "distribution": self.distribution.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """Read what `to_json` wrote.

        Raises:
            UsageError: Another schema, a missing or unknown key, a wrong value.
        """
        expect_keys(
            "contract",
            data,
            {"schema", "observations", "outputs", "action_kind", "distribution"},
        )
        if type(data["schema"]) is not int or data["schema"] != SCHEMA_VERSION:
            raise UsageError(
                f"contract: schema {data['schema']!r}, this version reads {SCHEMA_VERSION}",
                remedy="Export the policy again, or use the version of policyctl that wrote it.",
            )
        try:
            kind = ActionKind(data["action_kind"])
        except (TypeError, ValueError) as error:
            raise UsageError(f"contract: {error}") from error
        observations = items("contract: observations", data["observations"])
        outputs = items("contract: outputs", data["outputs"])
        return cls(
            observations=tuple(TensorSpec.from_json(spec) for spec in observations),
            outputs=tuple(TensorSpec.from_json(spec) for spec in outputs),
            action_kind=kind,
            distribution=Distribution.from_json(data["distribution"]),
        )


def bound_of(values: Sequence[float], *, unbounded: float) -> Bound:
    """The shortest form of one bound an element.

    Args:
        values: One a element, C order.
        unbounded: The value that means there is none (``-inf`` or ``inf``).
    """
    distinct = set(values)
    if distinct == {unbounded}:
        return None
    if len(distinct) == 1:
        return float(next(iter(distinct)))
    return tuple(float(v) for v in values)


def _bound_to_json(bound: Bound) -> Any:
    if bound is None:
        return None
    if isinstance(bound, tuple):
        return [v if math.isfinite(v) else None for v in bound]
    return bound


def _bound_from_json(what: str, data: Any, unbounded: float) -> Bound:
    if data is None:
        return None
    if isinstance(data, list):
        return tuple(unbounded if v is None else number(what, v) for v in data)
    return number(what, data)
