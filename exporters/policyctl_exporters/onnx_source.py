"""A policy that comes as an ONNX file.

Inputs and outputs are named as a contract wants them, and `action` is put
first; where the file gives scores or a mean, the steps to the action are
appended. Nothing else of the graph is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, ActionKind, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.source import Arrays, Options, Source
from policyctl_exporters.spaces import OUTPUT_NAMES, action_of, float32_inside, observations_of

_HEADS: Final = ("action", "logits", "q_values", "mean")
_FLOAT32_MAX: Final = np.finfo(np.float32).max


def open_onnx(path: Path, options: Options) -> Source:
    """Read an ONNX file as a policy.

    Args:
        path: The file, with a dynamic batch dimension first on every input and output.
        options: Spaces refine bounds and, for MultiDiscrete and MultiBinary
            actions, tell how scores are read; `head` says what the first
            output is where none is called ``action``.

    Raises:
        UsageError: Not a valid model, a fixed batch size, or outputs that do
            not make an action.
        UnsupportedError: A normaliser, which must be part of the file.
    """
    import onnx

    if options.normalizer is not None and options.normalizer is not False:
        raise UnsupportedError(
            f"{path.name}: a normalizer cannot be put in front of an ONNX file",
            remedy="Export from the torch policy, or put the normalisation into the ONNX graph.",
        )
    content = path.read_bytes()
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model)
    # protobuf and the checker raise what they like on damaged files.
    except Exception as error:
        raise UsageError(f"{path.name} is not a valid ONNX model: {error}") from error
    inputs = _input_specs(model, options)
    source = _reference_of(model, [spec.name for spec in inputs])
    kind, outputs, law, finish = _name_outputs(model, options)
    _rename_inputs(model, inputs)
    onnx.checker.check_model(model)
    contract = Contract(inputs, outputs, action_kind=kind, distribution=law)

    def reference(observations: Arrays) -> dict[str, NDArray[Any]]:
        found = source(observations)
        return {spec.name: finish[spec.name](found) for spec in outputs}

    return Source(
        kind="onnx",
        algorithm=str(model.producer_name or "ONNX"),
        contract=contract,
        reference=reference,
        onnx=model.SerializeToString(deterministic=True),
        file=(path.name, digest_of(content)),
    )


def _shape(value: Any) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of a graph's input or output, without its batch dimension."""
    import onnx

    tensor = value.type.tensor_type
    if not tensor.shape.dim or tensor.shape.dim[0].HasField("dim_value"):
        raise UsageError(
            f"{value.name}: its first dimension is not a dynamic batch",
            remedy="Export the model again with a dynamic batch axis, for example"
            " dynamic_axes={name: {0: 'batch'}} for every input and output.",
        )
    rest = tensor.shape.dim[1:]
    if any(not dim.HasField("dim_value") for dim in rest):
        raise UsageError(f"{value.name}: only the batch dimension may be dynamic")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return dtype, tuple(int(dim.dim_value) for dim in rest)


def _input_specs(model: Any, options: Options) -> tuple[TensorSpec, ...]:
    import re

    initial = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    found = [(value.name, *_shape(value)) for value in inputs]
    if options.observation_space is not None:
        specs = tuple(
            obs.spec for obs in observations_of(options.observation_space, feature_names=options.feature_names)
        )
        if len(specs) != len(found):
            raise UsageError(f"the file has {len(found)} inputs, the observation space has {len(specs)} observations")
        for spec, (name, dtype, shape) in zip(specs, found, strict=True):
            if (spec.dtype, spec.shape) != (dtype, shape):
                raise UsageError(f"input {name} is {dtype}{shape}, the observation space says {spec.dtype}{spec.shape}")
        return specs
    names = options.feature_names
    named = []
    for name, dtype, shape in found:
        if not shape:
            raise UsageError(f"input {name} has no dimension beside the batch")
        clean = re.sub(r"[^A-Za-z0-9_]", "_", name)
        clean = clean if clean[:1].isalpha() and clean not in OUTPUT_NAMES else f"obs_{clean}"
        own = names.get(clean, ()) if isinstance(names, dict) else names or ()
        named.append(TensorSpec(clean, dtype, shape, features=tuple(own)))
    return tuple(named)


def _rename_inputs(model: Any, specs: tuple[TensorSpec, ...]) -> None:
    initial = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    for value, spec in zip(inputs, specs, strict=True):
        _rename(model, value.name, spec.name)


def _rename(model: Any, old: str, new: str) -> None:
    """Rename a tensor everywhere; whatever else has the name already gives way."""
    if old == new:
        return
    graph = model.graph
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    if new in used | {value.name for value in graph.initializer}:
        _rename(model, new, f"{new}__inner")
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        if value.name == old:
            value.name = new


def _reference_of(model: Any, names: list[str]) -> Any:
    """The file as it came, run by ONNX's own evaluator."""
    import copy

    from onnx.reference import ReferenceEvaluator

    original = copy.deepcopy(model)
    initial = {value.name for value in original.graph.initializer}
    inputs = [value.name for value in original.graph.input if value.name not in initial]
    outputs = [value.name for value in original.graph.output]
    evaluator = ReferenceEvaluator(original)

    def run(observations: Arrays) -> dict[str, NDArray[Any]]:
        feed = {inner: observations[name] for inner, name in zip(inputs, names, strict=True)}
        return dict(zip(outputs, evaluator.run(None, feed), strict=True))

    return run


def _name_outputs(model: Any, options: Options) -> Any:
    """Give the outputs their names, `action` first; say how the reference gets each."""
    graph = model.graph
    found = {value.name: value for value in graph.output}
    if ACTION in found:
        head, first = "action", found[ACTION]
    else:
        first = graph.output[0]
        head = options.head or (first.name if first.name in _HEADS else "")
        if head not in _HEADS:
            raise UsageError(
                f"no output is called 'action': the first is {first.name!r}",
                remedy=f"Say what it is with head=, one of {', '.join(_HEADS)}.",
            )
    extra = [value for value in graph.output if value is not first and value.name in OUTPUT_NAMES]
    if head in ("logits", "q_values"):
        return _finish_scores(model, first, head, options)
    return _finish_action(model, first, extra, options)


def _finish_scores(model: Any, first: Any, head: str, options: Options) -> Any:
    import onnx

    dtype, shape = _shape(first)
    if len(shape) != 1 or dtype != "float32":
        raise UsageError(f"{head} must be float32 of shape (n,), {first.name} is {dtype}{shape}")
    source, start = first.name, 0
    if options.action_space is not None:
        kind, action = action_of(options.action_space)
        if kind is not ActionKind.DISCRETE:
            raise UnsupportedError(
                f"{head} of an ONNX file are read for Discrete actions, not for {options.action_space}"
            )
        if int(options.action_space.n) != shape[0]:
            raise UsageError(f"{shape[0]} {head}, the action space has {options.action_space.n} choices")
        start = int(options.action_space.start)
    else:
        kind = ActionKind.DISCRETE
        action = TensorSpec(ACTION, "int64", (1,), 0.0, float(shape[0] - 1))
    _rename(model, source, head)
    nodes = [onnx.helper.make_node("ArgMax", [head], ["action__best"], axis=1, keepdims=1)]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([start]), "action__start"))
    nodes.append(onnx.helper.make_node("Add", ["action__best", "action__start"], [ACTION]))
    model.graph.node.extend(nodes)
    scores = next(value for value in model.graph.output if value.name == head)
    chosen = onnx.helper.make_tensor_value_info(ACTION, onnx.TensorProto.INT64, ["batch", 1])
    _set_outputs(model, [chosen, scores])
    law = Distribution(DistributionKind.CATEGORICAL) if head == "logits" else Distribution()
    finish = {
        ACTION: lambda out: np.argmax(out[source], axis=1, keepdims=True).astype(np.int64) + start,
        head: lambda out: out[source],
    }
    return kind, (action, TensorSpec(head, "float32", shape)), law, finish


def _finish_action(model: Any, first: Any, extra: list[Any], options: Options) -> Any:
    import onnx

    dtype, shape = _shape(first)
    source = first.name
    action, kind = _action_spec(dtype, shape, options)
    low, high = np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32)
    if kind is ActionKind.CONTINUOUS and options.action_space is not None:
        low, high = float32_inside(options.action_space)
    specs = [action, *(TensorSpec(value.name, *_shape(value)) for value in extra)]
    last = "action__given"
    _rename(model, source, last)
    graph = model.graph
    target = np.array([-1, *action.shape], dtype=np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(target, "action__shape"))
    graph.node.append(onnx.helper.make_node("Reshape", [last, "action__shape"], ["action__shaped"]))
    last = "action__shaped"
    for operator, bound in (("Max", low), ("Min", high)):
        if np.isfinite(bound).any():
            name = f"action__{operator.lower()}"
            finite = np.clip(np.asarray(bound, np.float32), -_FLOAT32_MAX, _FLOAT32_MAX)
            graph.initializer.append(onnx.numpy_helper.from_array(finite, f"{name}_bound"))
            graph.node.append(onnx.helper.make_node(operator, [last, f"{name}_bound"], [name]))
            last = name
    graph.node.append(onnx.helper.make_node("Identity", [last], [ACTION]))
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(action.dtype))
    chosen = onnx.helper.make_tensor_value_info(ACTION, element, ["batch", *action.shape])
    _set_outputs(model, [chosen, *extra])
    names = {spec.name for spec in specs}
    law = Distribution()
    if {"mean", "log_std"} <= names:
        law = Distribution(DistributionKind.GAUSSIAN, transform=Transform.CLIP)
    elif "logits" in names and kind is ActionKind.DISCRETE:
        law = Distribution(DistributionKind.CATEGORICAL)
    finish: dict[str, Any] = {
        ACTION: lambda out: np.clip(out[source].reshape(-1, *action.shape), low, high).astype(action.dtype)
    }
    finish |= {spec.name: (lambda out, name=spec.name: out[name]) for spec in specs[1:]}
    return kind, tuple(specs), law, finish


def _action_spec(dtype: str, shape: tuple[int, ...], options: Options) -> tuple[TensorSpec, ActionKind]:
    if options.action_space is None:
        floating = dtype in ("float16", "float32", "float64")
        kind = (
            ActionKind.CONTINUOUS
            if floating
            else (ActionKind.DISCRETE if shape in ((), (1,)) else ActionKind.MULTI_DISCRETE)
        )
        return TensorSpec(ACTION, dtype, shape or (1,)), kind
    kind, action = action_of(options.action_space)
    if (shape or (1,)) != action.shape or dtype != action.dtype:
        raise UsageError(
            f"the file's action is {dtype}{shape}, the action space {options.action_space}"
            f" asks for {action.dtype}{action.shape}"
        )
    return action, kind


def _set_outputs(model: Any, outputs: list[Any]) -> None:
    kept = [type(value).FromString(value.SerializeToString()) for value in outputs]
    del model.graph.output[:]
    model.graph.output.extend(kept)
