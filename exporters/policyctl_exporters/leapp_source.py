"""A policy that comes as a LEAPP bundle: its nodes become one model, and what flows back becomes memory.

Nodes of TorchScript and torch.export are parts of one TorchScript program, nodes of ONNX of one ONNX
graph. What is right is what the unmodified nodes answer, run in their order. Nodes of both kinds
cannot be one model here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from policyctl.domain.contract import ACTION, ActionKind, Contract
from policyctl.domain.limits import bounds, limits
from policyctl.domain.memory import initial_states
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.conduct import checked
from policyctl_exporters.leapp_bundle import Bundle, Node, Place, read_bundle
from policyctl_exporters.onnx_file import rename
from policyctl_exporters.onnx_roles import action_among
from policyctl_exporters.pt2_file import load_exported
from policyctl_exporters.pt2_source import open_text, own_space
from policyctl_exporters.pt2_text import ProgramText, fresh_root
from policyctl_exporters.source import HEADS, Arrays, Head, Options, Source


def open_leapp(path: Path, options: Options) -> Source:
    """Read a LEAPP description, and the models next to it, as a policy.

    Raises:
        UsageError: Not a bundle, or one that is not whole.
        UnsupportedError: Nodes that cannot be one model.
    """
    bundle = read_bundle(path)
    said = (options.observation_space, options.action_space, options.head, options.states)
    stated = None if any(said) else bundle.contract
    if stated is not None:
        options = replace(options, observation_space=_observed(stated, bundle), action_space=_acted(stated))
    kinds = {node.backend == "onnx" for node in bundle.nodes}
    if len(kinds) > 1:
        shown = ", ".join(f"{node.name} ({node.backend})" for node in bundle.nodes)
        raise UnsupportedError(
            f"{bundle.name} has nodes that cannot be one model: {shown}",
            remedy="Export all nodes with jit or pt2, or all with onnx.",
        )
    names = [*bundle.outputs]
    acting = [name for name, kind in options.head.named.items() if kind in (ACTION, "mean")]
    action = next((name for name in (*acting, ACTION) if name in names), action_among(names))
    if kinds == {True}:
        from policyctl_exporters.leapp_onnx import open_chain

        source = open_chain(bundle, options)
    else:
        action = action or (names[0] if len(names) == 1 else "")
        alone = not options.head and action and not {*names} & {*HEADS}
        options = replace(
            options,
            head=Head(named={action: "action"}) if alone else options.head,
            observation_space=options.observation_space or (None if bundle.has_batch else _rows(bundle)),
        )
        source = open_text(Chain(bundle, options), options, name=bundle.name, kind="leapp")
    source = replace(source, kind="leapp", file=(bundle.name, bundle.digest))
    return _with_names(source, bundle, action) if stated is None else _as_stated(_called(source, bundle), stated)


def _observed(stated: Contract, bundle: Bundle) -> Any:
    """What a contract says that the environment gives, by the names that the bundle has inside."""
    from gymnasium import spaces

    def space(spec: TensorSpec) -> Any:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "b":
            return spaces.MultiBinary(spec.shape)
        whole = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        found = limits(spec)
        low, high = (np.full(spec.shape, end, dtype) for end in ((found.low, found.high) if found else whole))
        return spaces.Box(low, high, dtype=dtype.type)

    inside = {tensor: name for name, (_, tensor) in bundle.inputs.items()}
    return spaces.Dict({inside.get(spec.name, spec.name): space(spec) for spec in stated.environment})


def _acted(stated: Contract) -> Any:
    """The space of the actions of a contract; None where it states no bounds, or not those that a choice needs."""
    from gymnasium import spaces

    action = stated.action
    low, high = (each.reshape(action.shape) for each in bounds(action))
    if action.low is action.high is None or (action.dtype != "float32" and not np.isfinite([low, high]).all()):
        return None
    match stated.action_kind:
        case ActionKind.CONTINUOUS:
            return spaces.Box(*(each.astype(np.float32) for each in (low, high)))
        case ActionKind.DISCRETE:
            return spaces.Discrete(int(high[0] - low[0]) + 1, start=int(low[0]))
        case ActionKind.MULTI_DISCRETE:
            return spaces.MultiDiscrete((high - low + 1).astype(np.int64), start=low.astype(np.int64))
        case ActionKind.MULTI_BINARY:
            return spaces.MultiBinary(action.size)


def _called(source: Source, bundle: Bundle) -> Source:
    """The policy with the names that its model has, where a bundle has others inside: `v1` is `x_walk_v1` there."""
    own, states = source.contract, bundle.states
    names = {name: tensor for name, (_, tensor) in {**bundle.inputs, **states, **bundle.outputs}.items()}
    names |= {state.output: bundle.feedback[states[state.input]][1] for state in own.states if state.input in states}
    names = {name: tensor for name, tensor in names.items() if name != tensor}
    if not names:
        return source

    def back(spec: TensorSpec) -> TensorSpec:
        return replace(spec, name=names.get(spec.name, spec.name))

    def reference(observations: Arrays) -> dict[str, Any]:
        given = {spec.name: observations[back(spec).name] for spec in own.observations}
        return {names.get(name, name): values for name, values in source.reference(given).items()}

    contract = replace(
        own,
        observations=tuple(map(back, own.observations)),
        outputs=tuple(map(back, own.outputs)),
        states=tuple(
            replace(state, input=names.get(state.input, state.input), output=names.get(state.output, state.output))
            for state in own.states
        ),
    )
    content = source.onnx
    if content is not None:
        import onnx

        model = onnx.load_from_string(content)
        rename(model, names)
        content = model.SerializeToString(deterministic=True)
    return replace(source, contract=contract, reference=reference, onnx=content)


def _as_stated(source: Source, stated: Contract) -> Source:
    """The policy with the contract that its bundle states; an export proves its law as any other.

    Raises:
        UsageError: Its tensors, its memory or its action are not those of the models.
    """
    own = source.contract
    for said, has in ((stated.observations, own.observations), (stated.outputs, own.outputs)):
        names = [{(spec.name, spec.dtype, spec.shape) for spec in specs} for specs in (said, has)]
        if odd := sorted(names[0] ^ names[1]):
            raise _strange(f"the tensor {odd[0][0]}")
    pairs = [{(state.input, state.output) for state in contract.states} for contract in (stated, own)]
    begun = [initial_states(contract) for contract in (stated, own)]
    if pairs[0] != pairs[1] or any(not np.array_equal(value, begun[1][name]) for name, value in begun[0].items()):
        raise _strange("the memory")
    if stated.action_kind is not own.action_kind:
        raise _strange("the kind of the action")
    rows = [limit for limit in (stated.max_batch, own.max_batch) if limit is not None]
    specs = {spec.name: spec for spec in (*stated.observations, *stated.outputs)}
    return replace(
        source,
        contract=replace(
            stated,
            # In the order in which the graph has them.
            observations=tuple(specs[spec.name] for spec in own.observations),
            outputs=tuple(specs[spec.name] for spec in own.outputs),
            max_batch=min(rows, default=None),
        ),
    )


def _strange(what: str) -> UsageError:
    return UsageError(
        f"the bundle states a contract that its models do not have: {what} differs",
        remedy="Write the bundle again: policyctl release export MODEL RELEASE FOLDER --leapp.",
    )


def _rows(bundle: Bundle) -> Any:
    """What a bundle takes that has no batch: each tensor whole."""
    from gymnasium import spaces

    ports = {name: bundle.port(place) for name, place in bundle.inputs.items()}
    return spaces.Dict({name: own_space(port, port.dims, spaces) for name, port in ports.items()})


def _with_names(source: Source, bundle: Bundle, action: str) -> Source:
    """The contract with what the description says of elements, of what the output `action` commands, and how often."""
    nodes = {node.name: node for node in bundle.nodes}
    places = {**bundle.inputs, **bundle.outputs}
    places |= {ACTION: places[action]} if action else {}

    def named(spec: TensorSpec) -> TensorSpec:
        if spec.name not in places:
            return spec
        node, tensor = nodes[places[spec.name][0]], places[spec.name][1]
        known = node.features.get(tensor, ())
        fitting = known if len(known) == spec.size else spec.features
        return replace(spec, features=fitting, units=node.units.get(tensor, spec.units))

    own = source.contract
    observations, outputs = (tuple(map(named, group)) for group in (own.observations, own.outputs))
    contract = replace(own, observations=observations, outputs=outputs, drive=bundle.drive(action))
    return replace(source, contract=contract)


class Chain:
    """Nodes of torch as one program."""

    bare = False
    least_rows = 1

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._bundle, self._options = bundle, options
        self.inputs = tuple(replace(bundle.port(place), name=name) for name, place in bundle.inputs.items())
        self.outputs = tuple(
            replace(bundle.port(place, output=True), name=name) for name, place in bundle.outputs.items()
        )
        self._texts = {
            node.name: ProgramText(
                load_exported(node.content, name=node.path.name, trust_pickle=options.trust_pickle),
                name=node.path.name,
            )
            for node in bundle.nodes
            if node.backend == "pt2"
        }

    def compiled(self, *, unbatched: bool) -> torch.jit.ScriptModule:
        """All nodes in one `forward`; what flows back is written to buffers."""
        root = fresh_root()
        for number, node in enumerate(self._bundle.nodes):
            root.add_module(f"node_{number}", self._part(node))
        self._remember(root)
        lines = [f"{port.name} = {port.name}.reshape({[*port.dims]})" for port in self.inputs if unbatched]
        values = {place: name for name, place in self._bundle.inputs.items()}
        values |= {place: f"self.{name}" for name, place in self._bundle.states.items()}
        results: dict[Place, str] = {}
        for number, node in enumerate(self._bundle.nodes):
            arguments = []
            for port in node.inputs:
                place = (node.name, port.name)
                arguments.append(results[self._bundle.wires[place]] if place in self._bundle.wires else values[place])
            lines.append(f"v{number} = self.node_{number}({', '.join(arguments)})")
            results |= self._results(node, number)
        lines += [
            f"self.{name}.copy_({results[self._bundle.feedback[place]]})" for name, place in self._bundle.states.items()
        ]
        end = ".unsqueeze(0)" if unbatched else ""
        pairs = ", ".join(f"{name!r}: {results[place]}{end}" for name, place in self._bundle.outputs.items())
        text = f"def forward(self, {', '.join(f'{port.name}: Tensor' for port in self.inputs)}):\n"
        script: Any = torch.jit.script(root.eval())
        try:
            script.define(text + "".join(f"    {line}\n" for line in [*lines, f"return {{{pairs}}}"]))
        except RuntimeError as error:
            raise UsageError(
                f"{self._bundle.name}: its nodes do not fit what it says of them: {error}",
                remedy="Write the bundle again by leapp.compile_graph().",
            ) from error
        module: torch.jit.ScriptModule = script
        return module

    def unmodified(self) -> nn.Module:
        """The nodes as they are, run in their order as LEAPP runs them."""
        parts = {
            node.name: self._texts[node.name].unmodified() if node.name in self._texts else self._script(node)
            for node in self._bundle.nodes
        }
        chained = _Chained(self._bundle, parts)
        self._remember(chained)
        return chained

    def ask(self, module: nn.Module, named: Mapping[str, Tensor]) -> Any:
        """One step of `unmodified`."""
        return module(named)

    def _remember(self, module: nn.Module) -> None:
        for name, place in self._bundle.states.items():
            port = self._bundle.port(place)
            value = torch.zeros([size or 1 for size in port.dims], dtype=getattr(torch, port.dtype))
            if place in self._bundle.initial:
                value.copy_(torch.tensor(self._bundle.initial[place]))
            module.register_buffer(name, value)

    def _part(self, node: Node) -> nn.Module:
        text = self._texts.get(node.name)
        return self._script(node) if text is None else text.compiled(unbatched=False)

    def _script(self, node: Node) -> torch.jit.ScriptModule:
        trusted = self._options.trust_operators
        return checked(node.content, name=node.path.name, trusted=trusted, remembers=True).module.eval()

    def _results(self, node: Node, number: int) -> dict[Place, str]:
        text = self._texts.get(node.name)
        if text is not None:
            keys = [""] if text.bare else [f"[{port.name!r}]" for port in text.outputs]
        else:
            schema: Any = self._script(node).forward.schema  # type: ignore[attr-defined]
            keys = _keys(schema.returns[0].type, [port.name for port in node.outputs])
        if len(keys) != len(node.outputs):
            raise UsageError(
                f"{self._bundle.name}: the model of {node.name} gives {len(keys)} tensors, and it says"
                f" {len(node.outputs)}",
                remedy="Let its forward() give each tensor by itself, or in a tuple.",
            )
        return {(node.name, port.name): f"v{number}{key}" for port, key in zip(node.outputs, keys, strict=True)}


def _keys(kind: Any, names: Sequence[str]) -> list[str]:
    """How TorchScript reaches each tensor of a result of this type: by its place, within others, or by its name."""
    if kind.kind() == "TupleType":
        return [f"[{place}]{key}" for place, each in enumerate(kind.elements()) for key in _keys(each, names)]
    if kind.kind() == "ListType":
        return [f"[{place}]" for place in range(len(names))]
    return [f"[{name!r}]" for name in names] if kind.kind() == "DictType" else [""]


class _Chained(nn.Module):
    """Nodes that run one after another in Python."""

    def __init__(self, bundle: Bundle, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._bundle = bundle
        self._names = {node.name: f"node_{number}" for number, node in enumerate(bundle.nodes)}
        for name, part in parts.items():
            self.add_module(self._names[name], part)

    def forward(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One step."""
        values = {place: named[name] for name, place in self._bundle.inputs.items()}
        values |= {place: getattr(self, name) for name, place in self._bundle.states.items()}
        results: dict[Place, Tensor] = {}
        for node in self._bundle.nodes:
            places = [(node.name, port.name) for port in node.inputs]
            given = [results[self._bundle.wires[p]] if p in self._bundle.wires else values[p] for p in places]
            found = self.get_submodule(self._names[node.name])(*given)
            given_back = zip(node.outputs, tree_leaves(found), strict=True)
            results |= {(node.name, port.name): each for port, each in given_back}
        for name, place in self._bundle.states.items():
            setattr(self, name, results[self._bundle.feedback[place]].clone())
        return {name: results[place] for name, place in self._bundle.outputs.items()}
