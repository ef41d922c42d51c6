"""A policy that comes as an ONNX file.

What is right is what the unmodified file answers, one row at a time; the graph
that is served has the contract's names and a batch first. That the rows of a
batch get the answers that they get alone is proved here, so a file that was
written for one row is served in batches where it may be, and else row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, ActionKind, Contract, Distribution, State
from policyctl.domain.parity import compare
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import observations as obs
from policyctl_exporters import onnx_roles, parity
from policyctl_exporters.heads import law_of
from policyctl_exporters.normalizer import FLAT
from policyctl_exporters.onnx_choices import with_scores
from policyctl_exporters.onnx_file import OnnxFile, plain_words, read_onnx, sources
from policyctl_exporters.onnx_limits import limit_notes, limits_of
from policyctl_exporters.onnx_rewrite import Output, rewrite
from policyctl_exporters.onnx_roles import Roles
from policyctl_exporters.onnx_rows import Feed, Original, batch_axes, feed_of, state_feed
from policyctl_exporters.onnx_wholes import whole_in_graph
from policyctl_exporters.runtimes import by_name
from policyctl_exporters.source import Arrays, Options, Source
from policyctl_exporters.spaces import (
    OUTPUT_NAMES,
    Observation,
    action_of,
    float32_inside,
    legal_name,
    observations_of,
    pair,
    unique_names,
)

_ROWS: Final = 64
"""What batches are proved on, before anything is written."""
_FAR_EACH: Final = 8
"""Of the far rows each eighth keeps the others company."""


def open_onnx(path: Path, options: Options) -> Source:
    """Read an ONNX file as a policy.

    Args:
        options: Spaces name observations, refine bounds and tell how scores
            are read; `head` says what outputs are.
    """
    return open_onnx_file(read_onnx(path), options)


def open_onnx_file(file: OnnxFile, options: Options) -> Source:
    """An ONNX file that was read, as a policy; see `open_onnx`."""
    if options.normalizer is not None and options.normalizer is not False:
        raise UnsupportedError(
            f"{file.name}: a normalizer cannot be put in front of an ONNX file",
            remedy="Export from the torch policy, or put the normalisation into the ONNX graph.",
        )
    said = bool(options.head)
    file, head = with_scores(file, options.head, sized=options.action_space is not None)
    options = replace(options, head=head)
    space = options.observation_space
    observations = () if space is None else observations_of(space, feature_names=options.feature_names)
    if not observations:
        file = replace(file, limits=limits_of(file))
    roles = _roles(file, observations, options, said=said)
    # Where the batch of a state is, a fixed shape does not say: what is right for any number of rows is.
    for axes in _axes(file, roles):
        source = _opened(file, roles, observations, options, axes)
        if source.contract.max_batch is None:
            break
    return source


def _axes(file: OnnxFile, roles: Roles) -> list[dict[str, int]]:
    """Where the batch of each state's input and output may be, the likeliest first."""
    ports = {port.name: port for port in file.inputs}
    choices = {name: batch_axes(ports[name]) for name in roles.states}
    count = max((len(axes) for axes in choices.values()), default=1)
    found = []
    for number in range(count):
        axes = {name: each[min(number, len(each) - 1)] for name, each in choices.items()}
        found.append(axes | {roles.states[name]: axis for name, axis in axes.items()})
    return found


def _opened(
    file: OnnxFile, roles: Roles, observations: Sequence[Observation], options: Options, axes: Mapping[str, int]
) -> Source:
    """The policy, where the batch of its states is as `axes` says."""
    original = Original(file, _feeds(file, roles, observations, options, axes), axes)
    action, kind = _action_spec(roles, original, options)
    outputs = _outputs(roles, original, action, options)
    specs = tuple(output.spec for output in outputs)
    choices = [size for _, size in outputs[0].choices]
    # Scores next to an action of several components do not say where one component ends.
    one = kind in (ActionKind.CONTINUOUS, ActionKind.DISCRETE)
    law = law_of(specs, kind, choices) if one or choices else Distribution()
    names = {f.port.name: f.spec.name for f in original.feeds} | {each.source: each.spec.name for each in outputs}
    states = tuple(
        State(names[given], names[after], _begin(file.initial.get(given))) for given, after in roles.states.items()
    )
    contract = Contract(
        tuple(feed.spec for feed in original.feeds), specs, action_kind=kind, distribution=law, states=states
    )

    def reference(observations: Arrays) -> dict[str, NDArray[Any]]:
        rows = original(observations)
        return {output.spec.name: output.of(rows[output.source]) for output in outputs}

    source = Source(
        kind="onnx",
        algorithm=str(file.model.producer_name or "ONNX"),
        contract=contract,
        reference=reference,
        file=(file.name, file.digest),
        metadata={entry.key: entry.value for entry in file.model.metadata_props},
        notes=(*roles.notes, *limit_notes(file, original.feeds)),
    )
    return _proved(source, original, outputs)


def _begin(value: NDArray[Any] | None) -> float | tuple[float, ...]:
    """What a state begins with, of one row: where its batch is does not change the order of the elements."""
    numbers = (0.0,) if value is None else tuple(float(number) for number in value.reshape(-1))
    return numbers if len({*numbers}) > 1 else numbers[0]


def _roles(file: OnnxFile, observations: Sequence[Observation], options: Options, *, said: bool) -> Roles:
    """The role of every tensor; what differs when asked again is random."""
    random: set[str] = set()
    shapeless: set[str] = set()
    keys = {legal_name(observation.key) for observation in observations if observation.key != FLAT}
    observed = {port.name for port in file.inputs if legal_name(port.name) in keys}
    space = options.action_space
    discrete = None if space is None else action_of(space)[0] is not ActionKind.CONTINUOUS
    while True:
        roles = onnx_roles.assign(
            file,
            head=options.head,
            observed=observed,
            random=random,
            states=options.states or {},
            shapeless=shapeless,
            discrete=discrete,
            said=said,
        )
        axes = _axes(file, roles)[0]
        original = Original(file, _feeds(file, roles, observations, options, axes), axes)
        served = {roles.source, *roles.parameters.values(), *roles.further}
        if found := original.shapeless_outputs() & served:
            shapeless |= found
            continue
        more = original.random_outputs() & served
        if not more:
            return roles
        random |= more


def _feeds(
    file: OnnxFile, roles: Roles, observations: Sequence[Observation], options: Options, axes: Mapping[str, int]
) -> tuple[Feed, ...]:
    ports = [port for port in file.inputs if port.name in roles.inputs]
    given = [port.name for port in ports if port.name not in roles.states]
    specs: dict[str, TensorSpec] = {}
    if observations:
        pairs = pair(observations, given, what=file.name)
        specs = {name: each.spec for name, each in zip(given, pairs, strict=True)}
    names = unique_names([port.name for port in ports], taken=set(OUTPUT_NAMES), prefix="obs")
    named = dict(zip((port.name for port in ports), names, strict=True))
    environment = {
        name: _limited(file, feed_of(port, specs.get(name), name=named[name], answers=file.outputs, file=file.name))
        for port in ports
        if (name := port.name) not in roles.states
    }
    copies = max((feed.copies for feed in environment.values()), default=1)
    feeds = tuple(
        environment.get(port.name)
        or state_feed(port, name=named[port.name], axis=axes[port.name], copies=copies, file=file.name)
        for port in ports
    )
    if observations or not options.feature_names:
        return feeds
    said = options.feature_names
    own = said if isinstance(said, dict) else {feed.spec.name: said for feed in feeds}
    return tuple(replace(f, spec=replace(f.spec, features=tuple(own.get(f.spec.name, ())))) for f in feeds)


def _limited(file: OnnxFile, feed: Feed) -> Feed:
    """The feed with the bounds beyond which the file fails."""
    low, high = file.limits.get(feed.port.name, (feed.spec.low, feed.spec.high))
    return replace(feed, spec=replace(feed.spec, low=low, high=high))


def _action_spec(roles: Roles, original: Original, options: Options) -> tuple[TensorSpec, ActionKind]:
    given = original.one()[roles.source][0]
    scores, space = roles.kind in ("logits", "q_values"), options.action_space
    if space is None and scores:
        last = tuple(float(size - 1) for size in original.file.blocks or (given.size,))
        kind = ActionKind.DISCRETE if len(last) == 1 else ActionKind.MULTI_DISCRETE
        return TensorSpec(ACTION, "int64", (len(last),), 0.0, last[0] if len({*last}) == 1 else last), kind
    if space is None:
        return _unbounded(given)
    kind, action = action_of(space)
    if scores and kind not in (ActionKind.DISCRETE, ActionKind.MULTI_DISCRETE):
        raise UnsupportedError(
            f"{roles.kind} of an ONNX file are read for Discrete and MultiDiscrete actions, not for {space}",
            remedy=f"If {roles.source} is the action itself: --head {roles.source}=action.",
        )
    if scores:
        _require_choices(original.file, roles.kind, given.size, space)
    floating = given.dtype.kind == "f"
    fits = floating == (kind is ActionKind.CONTINUOUS) or (
        floating and not scores and whole_in_graph(original.file.model, roles.source)
    )
    if not scores and not (fits and given.size == action.size):
        raise UsageError(
            f"{original.file.name}: {roles.source} is {given.dtype}{list(given.shape)} for one observation,"
            f" the action space {space} asks for {action.dtype}{list(action.shape)}",
            remedy=f"Check the space. If {roles.source} holds scores: --head {roles.source}=logits. If it is a choice,"
            " export it again as integers.",
        )
    return action, kind


def _require_choices(file: OnnxFile, kind: str, count: int, space: Any) -> None:
    """Raises: UsageError: A Discrete or MultiDiscrete space has other choices than the file has scores."""
    choices = [int(size) for size in np.ravel(space.nvec if hasattr(space, "nvec") else space.n)]
    if file.blocks and list(file.blocks) != choices:
        raise UsageError(
            f"{file.name} has scores of {list(file.blocks)} choices, the action space {space} has {choices}",
            remedy="Give the action space that the policy was trained with.",
        )
    if sum(choices) != count:
        raise UsageError(f"{count} {kind}, the action space has {sum(choices)} choices")


def _unbounded(given: NDArray[Any]) -> tuple[TensorSpec, ActionKind]:
    """An action without a space: what the file's own type says."""
    if given.dtype.kind == "f":
        return TensorSpec(ACTION, str(given.dtype), given.shape), ActionKind.CONTINUOUS
    if given.dtype.kind == "b":
        return TensorSpec(ACTION, "int64", given.shape, 0.0, 1.0), ActionKind.MULTI_BINARY
    kind = ActionKind.DISCRETE if given.shape == (1,) else ActionKind.MULTI_DISCRETE
    return TensorSpec(ACTION, str(given.dtype), given.shape), kind


def _outputs(roles: Roles, original: Original, action: TensorSpec, options: Options) -> tuple[Output, ...]:
    """Action, what it is chosen by or drawn from, and everything further under its own name."""
    example = {feed.spec.name: obs.nearest_to_zero(feed.spec)[0] for feed in original.feeds}
    raw, rows, reach = original.raw(example), original.one(), sources(original.file.model)

    def output(spec: TensorSpec, name: str, **more: Any) -> Output:
        array = np.asarray(raw[name])
        return Output(spec, name, array.shape, str(array.dtype), is_constant=not reach.get(name), **more)

    parameters = dict(roles.parameters)
    more: dict[str, Any] = {}
    if roles.kind in ("logits", "q_values"):
        parameters[roles.kind] = roles.source
        more = {"scores": roles.kind, "choices": _choices(action, rows[roles.source][0].size)}
    elif action.dtype == "float32" and options.action_space is not None:
        low, high = (bound.reshape(action.shape) for bound in float32_inside(options.action_space))
        more = {"low": low, "high": high}
    found = [output(action, roles.source, **more)]
    for kind, name in parameters.items():
        shape = rows[name].shape[1:]
        if kind in ("mean", "log_std") and rows[name][0].size == action.size:
            shape = action.shape
        found.append(output(TensorSpec(kind, "float32", shape), name))
    taken = {feed.spec.name for feed in original.feeds} | set(OUTPUT_NAMES)
    names = unique_names(roles.further, taken=taken, prefix="out")
    for name, source in zip(names, roles.further, strict=True):
        array = rows[source]
        axis = original.axes.get(source, 0)
        found.append(output(TensorSpec(name, str(array.dtype), array.shape[1:]), source, axis=axis))
    return tuple(found)


def _choices(action: TensorSpec, scores: int) -> tuple[tuple[int, int], ...]:
    """The first choice and the number of choices of each element of an action; all `scores` are of a single one."""
    low, high = (np.broadcast_to(np.asarray(bound, np.int64), action.size) for bound in (action.low, action.high))
    sizes = high - low + 1 if action.size > 1 else [scores]
    return tuple((int(first), int(size)) for first, size in zip(low, sizes, strict=True))


def _proved(source: Source, original: Original, outputs: Sequence[Output]) -> Source:
    """The source with the graph that is served: for any number of rows where that is right, else for one."""
    file, feeds = original.file, original.feeds
    drawn = obs.draw(
        source.contract.observations, {}, np.random.default_rng(0), min(_ROWS, obs.rows_for(source.contract))
    )
    expected = source.reference(drawn)
    group = parity.Rows("usual", drawn, expected, parity.fitted(expected))
    fixed = any(feed.is_fixed for feed in feeds)
    content = rewrite(file.model, feeds, outputs, source.contract)
    far = obs.take(obs.wide(source.contract.observations, np.random.default_rng(0)), slice(0, None, _FAR_EACH))
    company, _ = obs.answered(source.reference, obs.join(obs.edges(source.contract.observations, {}, None), far))
    reason = _disagreement(content, source.contract, group, company)
    if not reason:
        said = (f"{file.name} was written for {max(f.copies for f in feeds)} row, and is right for any number",)
        return replace(source, onnx=content, notes=source.notes + (said if fixed else ()))
    if max(feed.copies for feed in feeds) > 1:
        raise UnsupportedError(
            f"{file.name} takes {max(feed.copies for feed in feeds)} rows at once, and not any other number: {reason}",
            remedy="Export it again with a dynamic batch, or for one row.",
        )
    one = replace(source.contract, max_batch=1)
    note = f"{file.name} is served one row at a time, because rows in a batch are not answered as alone: {reason}"
    return replace(source, contract=one, onnx=rewrite(file.model, feeds, outputs, one), notes=(*source.notes, note))


def _disagreement(content: bytes, contract: Contract, group: parity.Rows, company: obs.Batch) -> str:
    """Why a graph does not answer rows in a batch as the file answers them alone; empty where it does.

    Args:
        company: Extreme rows, which may change the answers to the others as no usual ones do.
    """
    from policyctl.sessions.onnxruntime import OnnxSession

    try:
        session = OnnxSession(contract, content, filename="the graph")
        run = by_name(session, contract)
        parity.check("the graph", run, contract, [group])
        found = obs.take(
            run(obs.join(group.observations, company)), slice(0, len(next(iter(group.observations.values()))))
        )
        if not compare(contract, group.expected, found, group.tolerance).agrees:
            return "an extreme row changes the answers to the others"
    except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime raises on a graph that knows one batch alone
        return plain_words(error)
    return ""
