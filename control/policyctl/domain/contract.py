"""What a policy takes and gives: the contract that travels with every release.

Everything that speaks of tensors reads it here: exporters write it,
`config.pbtxt` is generated from it, clients check observations against it and
draw stochastic actions by it. It is plain JSON, without code.

Every shape leaves out the batch dimension, which is always first. It is dynamic,
unless `Contract.max_batch` says how many rows an inference may have.
A scalar space (a discrete action, a discrete observation) has shape ``(1,)``,
because Triton has no zero-dimensional tensor.

Law: ``Contract.from_json(c.to_json()) == c`` for every contract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.chunk import Chunk
from policyctl.domain.drive import Drive
from policyctl.domain.history import Frames, History
from policyctl.domain.json_values import OMIT_DEFAULT, fields_to_json, from_json
from policyctl.domain.tensor import Role, TensorSpec
from policyctl.errors import UsageError

SCHEMA_VERSION: Final = 1

ACTION: Final = "action"

SCORES: Final = ("logits", "q_values")
"""Outputs that a discrete action is chosen by."""

PARAMETERS: Final = (*SCORES, "mean", "log_std")
"""Outputs that belong to the action: what it is chosen by or drawn from. All others are further outputs."""


class ActionKind(StrEnum):
    """What the environment takes."""

    CONTINUOUS = "continuous"
    DISCRETE = "discrete"
    MULTI_DISCRETE = "multi_discrete"
    MULTI_BINARY = "multi_binary"


class DistributionKind(StrEnum):
    """How a stochastic action is drawn from the outputs next to `action`."""

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


@dataclass(frozen=True, slots=True)
class State:
    """What a policy remembers from one step of an episode to the next: an input that an output continues.

    Both are tensors of the contract, among its observations and its outputs.
    A server keeps nothing: the client sends what the last answer gave.

    Attributes:
        input: Name of the observation that carries it.
        output: Name of the output that continues it.
        initial: At the first step of an episode: one value for all elements, or one an element (C order).
    """

    input: str
    output: str
    initial: float | tuple[float, ...] = 0.0


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
        max_batch: Most rows of one inference; None where any number is right.
        states: What the policy remembers within an episode; empty for a policy without memory.
        histories: Which observations hold the last steps, and how; empty where nobody stated it.
        drive: How an action becomes a command of the machine; None where nobody stated it.
        chunk: How an answer holds the actions of several steps; None where it holds one.
    """

    observations: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    action_kind: ActionKind
    distribution: Distribution = field(default_factory=Distribution)
    max_batch: int | None = field(default=None, metadata=OMIT_DEFAULT)
    states: tuple[State, ...] = field(default=(), metadata=OMIT_DEFAULT)
    histories: tuple[History, ...] = field(default=(), metadata=OMIT_DEFAULT)
    drive: Drive | None = field(default=None, metadata=OMIT_DEFAULT)
    chunk: Chunk | None = field(default=None, metadata=OMIT_DEFAULT)

    def __post_init__(self) -> None:
        if not self.observations:
            raise UsageError("contract: a policy needs at least one observation")
        if not self.outputs or self.outputs[0].name != ACTION:
            raise UsageError(f"contract: the first output must be called {ACTION!r}")
        names = [spec.name for spec in (*self.observations, *self.outputs)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"contract: {', '.join(twice)} named more than once")
        if odd := [spec.name for spec in self.outputs if spec.role is not None]:
            raise UsageError(f"contract: the outputs {', '.join(odd)} have roles, which inputs have")
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError(f"contract: max_batch is {self.max_batch}, expected 1 or more")
        self._check_states()
        self._check_distribution()
        self._check_chunk()
        self._check_own_inputs()
        if self.drive is not None:
            self.drive.require_size(math.prod(self.step_shape))
        for history in self.histories:
            history.require(self._environment_spec(history.observation))
        if len({history.observation for history in self.histories}) < len(self.histories):
            raise UsageError("contract: an observation has two histories", remedy="State one for each observation.")

    def _check_states(self) -> None:
        inputs, outputs = ({spec.name: spec for spec in specs} for specs in (self.observations, self.outputs))
        for state in self.states:
            if state.input not in inputs:
                raise UsageError(f"contract: the state {state.input!r} is not among the observations")
            if state.output not in outputs or state.output in (ACTION, *PARAMETERS):
                raise UsageError(f"contract: {state.output!r}, which continues a state, is not among further outputs")
            before, after = inputs[state.input], outputs[state.output]
            if (before.dtype, before.shape) != (after.dtype, after.shape):
                raise UsageError(
                    f"contract: the state {before.name} is {before.dtype}{before.shape},"
                    f" {after.name}, which continues it, is {after.dtype}{after.shape}"
                )
            if isinstance(state.initial, tuple) and len(state.initial) != before.size:
                raise UsageError(
                    f"contract: the state {before.name} begins with {len(state.initial)} values, it has {before.size}"
                )
        for names in ([state.input for state in self.states], [state.output for state in self.states]):
            if len(set(names)) < len(names):
                raise UsageError(f"contract: the states name a tensor twice: {', '.join(names)}")
        if not self.environment:
            raise UsageError("contract: a policy needs at least one observation besides its memory")

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

    def _check_chunk(self) -> None:
        if self.chunk is None:
            return
        if self.action_kind is ActionKind.DISCRETE:
            raise UsageError("contract: a discrete action is one choice, its chunk would hold several")
        self.chunk.require(self.action)

    def _check_own_inputs(self) -> None:
        wide = {"float32", "float64"}
        fits = {
            Role.PREVIOUS_ACTION: (math.prod(self.step_shape), {self.action.dtype, *wide}),
            Role.TIME_STEP: (1, {"int32", "int64", "uint32", "uint64", *wide}),
        }
        for role, (size, dtypes) in fits.items():
            for spec in self.with_role(role):
                if spec.size != size or spec.dtype not in dtypes:
                    raise UsageError(
                        f"contract: {spec.name} ({role.words}) has {spec.size} elements of {spec.dtype},"
                        f" expected {size} of {', '.join(sorted(dtypes))}",
                        remedy="Leave its role out, and give it with each observation.",
                    )

    @property
    def action(self) -> TensorSpec:
        """The first output."""
        return self.outputs[0]

    @property
    def step_shape(self) -> tuple[int, ...]:
        """The shape of the action of one step; `()` for a number."""
        return self.action.shape if self.chunk is None else self.action.shape[1:]

    def of_one_step(self) -> Contract:
        """What an environment meets of it: the action alone, and of a chunk the first one."""
        if self.chunk is None:
            return self
        shape, action = self.step_shape or (1,), self.action
        size = math.prod(shape)
        low, high = (each[:size] if isinstance(each, tuple) else each for each in (action.low, action.high))
        names = tuple(name.removesuffix("[0]") for name in action.features[:size])
        units = action.units[:size] if isinstance(action.units, tuple) else action.units
        step = replace(action, shape=shape, low=low, high=high, features=names, units=units)
        return replace(self, outputs=(step,), distribution=Distribution(), states=(), chunk=None)

    @property
    def environment(self) -> tuple[TensorSpec, ...]:
        """What the environment gives: every observation but the policy's own memory."""
        remembered = {state.input for state in self.states}
        return tuple(spec for spec in self.observations if spec.name not in remembered)

    def frames(self) -> Frames:
        """Makes the observation that holds the last steps, from one step at a time.

        Raises:
            UsageError: The contract states no history, or those of several observations.
        """
        if len(self.histories) != 1:
            raise UsageError(
                f"the contract states the histories of {len(self.histories)} observations, expected one",
                remedy="Make a domain.history.Frames for each."
                if self.histories
                else "Export the policy again, with --describe FILE.",
            )
        return Frames(self.histories[0], self._environment_spec(self.histories[0].observation))

    def _environment_spec(self, name: str) -> TensorSpec:
        specs = {spec.name: spec for spec in self.environment}
        if name not in specs:
            raise UsageError(
                f"contract: unknown observation {name!r} of a history", remedy=f"It has {', '.join(specs)}."
            )
        return specs[name]

    def with_role(self, role: Role) -> tuple[TensorSpec, ...]:
        """The inputs that are for this."""
        return tuple(spec for spec in self.observations if spec.role is role)

    @property
    def further(self) -> tuple[TensorSpec, ...]:
        """Outputs that the action does not depend on: memory, a value, a reference motion, ..."""
        return tuple(spec for spec in self.outputs if spec.name not in (ACTION, *PARAMETERS))

    def output(self, name: str) -> TensorSpec:
        """The output called `name`.

        Raises:
            KeyError: No output has that name.
        """
        for spec in self.outputs:
            if spec.name == name:
                return spec
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a schema version; fields that came later are there only where they say something."""
        return {"schema": SCHEMA_VERSION, **fields_to_json(self)}

    @classmethod
    def from_json(cls, data: Any) -> Contract:
        """Read what `to_json` wrote.

        Raises:
            UsageError: Another schema, a missing or unknown key, a wrong value.
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"contract: expected an object, found {type(data).__name__}")
        if "schema" not in data:
            raise UsageError("contract: schema missing")
        schema = data["schema"]
        if type(schema) is not int or schema != SCHEMA_VERSION:
            raise UsageError(
                f"contract: schema {schema!r}, this version reads {SCHEMA_VERSION}",
                remedy="Export the policy again, or use the version of policyctl that wrote it.",
            )
        fields = {key: value for key, value in data.items() if key != "schema"}
        return from_json(cls, fields, what="contract", every_key=True)
