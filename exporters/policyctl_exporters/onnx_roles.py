"""What each input and output of an ONNX file is for; what has no role is refused by name.

An output that continues an input is memory, and a policy that is served
without it forgets. It is known by its name (``h_in`` and ``h_out``), or because
somebody says so. Where only what depends on what hints at it (the action on the
input, and on the input the output, which is of its shape), nothing is guessed.
Somebody who names the input as an observation, or the output as a further one,
has given it a role.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, Protocol

from policyctl.domain.contract import SCORES
from policyctl.domain.tensor import DTYPES
from policyctl.errors import UsageError
from policyctl_exporters.onnx_file import RANDOM, OnnxFile, Port, passes_through, sources
from policyctl_exporters.source import FURTHER, HEADS, Head

_DIRECTIONS: Final = frozenset(
    {"in", "ins", "input", "inputs", "out", "outs", "output", "outputs"}
    | {"next", "new", "prev", "previous", "past", "present", "old", "last", "init", "initial"}
)
_OBSERVATION: Final = re.compile(r"(obs|observations?)[_.]?\d*")
_SEEN: Final = frozenset({"action", "actions", "command", "commands", "mask", "masks"})
"""Words in the name of an input that the environment gives, as it gives the last action."""

_SAYS_ACTION: Final = re.compile(r"(^|[^a-z])actions?(_?chunks?)?$")
_IS_ACTION: Final = re.compile(r"(.*/)?(\w*deterministic_(\w+_)?)?actions?(_?chunks?)?")
_NOT_CHOSEN: Final = frozenset(
    {"prev", "previous", "last", "old", "past", "target", "legal", "illegal", "available", "allowed"}
    | {"valid", "invalid", "mask", "masked"}
)
"""Words in the name of an output that say that its actions are those of another step, or may not be chosen."""

_VALUES: Final = frozenset(
    {"value", "values", "v", "critic", "advantage", "entropy", "log_prob", "log_probs", "logp", "std", "sigma"}
)
"""Outputs that are no memory whatever input has their shape, as a speed of shape (1,) has that of a value."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What becomes of a file's tensors, each by its name in the file.

    Attributes:
        inputs: What stays an observation, in the file's order.
        kind: What that is, one of `HEADS`.
        parameters: Other outputs that the action is chosen by or drawn from, by kind.
        states: Inputs that are memory, each with the output that continues it.
    """

    inputs: tuple[str, ...]
    source: str
    kind: str
    parameters: Mapping[str, str]
    further: tuple[str, ...]
    states: Mapping[str, str]
    notes: tuple[str, ...]


def assign(
    file: OnnxFile,
    *,
    head: Head,
    observed: Set[str],
    random: Set[str],
    states: Mapping[str, str],
    shapeless: Set[str] = frozenset(),
    discrete: bool | None = None,
    said: bool = False,
) -> Roles:
    """Find the role of every tensor.

    Args:
        observed: Inputs that the observation space names.
        random: Outputs that differ when the file is asked the same twice.
        states: Inputs that are memory, each with the output that continues it, as somebody says.
        shapeless: Outputs whose shape depends on the observation.
        discrete: Whether the action is; None where nobody said what it is.
        said: Whether somebody said which output the action is.

    Raises:
        UsageError: Memory that is not certain or is random, an action that cannot be identified
            or is random, or tensors that no contract holds.
    """
    head.require([port.name for port in file.outputs])
    if strange := [f"{port.name} ({port.dtype})" for port in file.inputs if not (port.is_tensor or port.is_empty)]:
        raise UsageError(
            f"{file.name} takes {', '.join(strange)}, which no contract holds",
            remedy=f"Export it again with inputs that are tensors of {', '.join(sorted(DTYPES))}.",
        )
    known = sources(file.model)
    reach = {port.name: known.get(port.name, frozenset()) for port in file.outputs}
    sorting = Sorting(file, head, reach, observed, random, shapeless)
    kept = sorting.keep_what_can_be_served(file.model)
    memory = sorting.memory(states)
    outputs = [name for name in kept if name not in memory.values()]
    named = sorting.named(outputs)
    source, kind = sorting.action(outputs, named, discrete)
    if not said:
        sorting.refuse_half_an_action(outputs, source, kind, added=file.added)
    parameters = {kind_: name for kind_, name in named.items() if kind_ in (*HEADS, "log_std") and name != source}
    if kind == "mean" and "log_std" in parameters:
        parameters["mean"] = source
    further = [name for name in outputs if name != source and name not in parameters.values()]
    sorting.refuse_what_may_be_memory(source, further, memory)
    further += memory.values()
    served = (source, *parameters.values(), *further)
    inputs = sorting.used_inputs(served)
    return Roles(inputs, source, kind, parameters, tuple(further), memory, tuple(sorting.notes))


class Ported(Protocol):
    """A file whose tensors have names."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What it gives."""
        ...

    @property
    def initial(self) -> Mapping[str, Any]:
        """What memory begins with, by the name of its input; zeros where nothing is said."""
        ...


class Sorting:
    """Finds out what is memory.

    Args:
        reach: The inputs that each output depends on.
        observed: Inputs that the observation space names.
        random: Outputs that differ when the file is asked the same twice.
        shapeless: Outputs whose shape depends on the observation.
    """

    def __init__(
        self,
        file: Ported,
        head: Head,
        reach: Mapping[str, frozenset[str]],
        observed: Set[str],
        random: Set[str],
        shapeless: Set[str] = frozenset(),
    ) -> None:
        self._shapeless = shapeless
        self._file, self._head, self._reach, self._observed = file, head, reach, observed
        self._random = {port.name for port in file.outputs if RANDOM in reach[port.name]} | set(random)
        self.notes: list[str] = []
        self.left_out: dict[str, str] = {}
        self._passed: set[str] = set()

    def keep_what_can_be_served(self, model: Any) -> list[str]:
        """Outputs that can have a role, in the file's order; `model` is the file's `onnx.ModelProto`."""
        for port in self._file.outputs:
            if reason := self._reason_against(port, model):
                self.left_out[port.name] = reason
                self.notes.append(f"output {port.name} is left out: {reason}")
        return [port.name for port in self._file.outputs if port.name not in self.left_out]

    def _reason_against(self, port: Port, model: Any) -> str:
        if port.is_empty:
            return "it has no elements"
        if not port.is_tensor:
            return f"it is {port.dtype}, which no contract holds"
        if port.name in self._shapeless:
            return "its shape depends on the observation"
        if port.name in self._random:
            return "it is random, and who asks draws actions itself"
        if not self._reach[port.name] and port.name not in (*_kept_constants(self._head), *self._head.named):
            return "it is the same for every observation"
        given = passes_through(model, port.name)
        users = [name for name, found in self._reach.items() if given in found and name != port.name]
        if given is not None and given not in self._observed and not users and port.name not in self._head.named:
            self._passed.add(given)
            return f"it is the input {given}, and nothing else depends on that"
        return ""

    def memory(self, said: Mapping[str, str]) -> dict[str, str]:
        """Each input that is memory, with the output that continues it: as somebody says, and as their names say.

        Raises:
            UsageError: Not a pair of this file, two outputs for one input, or memory that is random.
        """
        self._require_pairs(said)
        pairs = dict(said)
        for port in self._file.inputs:
            for output in self._file.outputs:
                if port.name in said or output.name in said.values():
                    continue
                if not (self._may_be_memory(port, output) and _alike(port.name, output.name)):
                    continue
                if not _same_shape(port, output):
                    continue
                if port.name in pairs or output.name in pairs.values():
                    raise UsageError(
                        f"{self._file.name} does not say which output continues {port.name}",
                        remedy=f"Say it: --state {port.name}=OUTPUT.",
                    )
                pairs[port.name] = output.name
        for port_name, output_name in pairs.items():
            if reason := self.left_out.get(output_name):
                raise UsageError(
                    f"{self._file.name}: {output_name}, which continues {port_name}, cannot be served: {reason}",
                    remedy=f"If {port_name} is an observation, name it in a Dict space.",
                )
            begin = "as in the file" if port_name in self._file.initial else "with zeros"
            self.notes.append(f"{output_name} continues {port_name}: memory, which begins {begin}")
        return pairs

    def _require_pairs(self, said: Mapping[str, str]) -> None:
        inputs, outputs = ({p.name: p for p in ports} for ports in (self._file.inputs, self._file.outputs))
        for port, output in said.items():
            if port not in inputs or output not in outputs:
                raise UsageError(
                    f"{self._file.name} has no state {port}={output}",
                    remedy=f"Its inputs are {', '.join(inputs)}; its outputs are {', '.join(outputs)}.",
                )
            if inputs[port].dtype != outputs[output].dtype or not _same_shape(inputs[port], outputs[output]):
                raise UsageError(f"{self._file.name}: {output} cannot continue {port}, their shapes or types differ")

    def refuse_what_may_be_memory(self, source: str, further: Sequence[str], memory: Mapping[str, str]) -> None:
        """Raises: UsageError: A further output seems to continue an input that the action depends on."""
        if len(self._file.inputs) == 1:
            return
        outputs = {port.name: port for port in self._file.outputs}
        pairs = [
            (port, outputs[name])
            for port in self._file.inputs
            for name in further
            if port.name not in memory
            and self._may_be_memory(port, outputs[name])
            and name.lower() not in _VALUES
            and port.name in self._reach[name]
            and port.name in self._reach[source]
            and _same_shape(port, outputs[name])
        ]
        if not pairs:
            return
        shown = ", ".join(dict.fromkeys(f"{port.name} -> {output.name}" for port, output in pairs))
        first, second = pairs[0][0].name, pairs[0][1].name
        raise UsageError(
            f"{self._file.name} may have memory ({shown}): served without it, the policy would forget what it saw",
            remedy=f"If {second} continues {first}: --state {first}={second}. If not: --head {second}={FURTHER},"
            f" or name {first} in a Dict space.",
        )

    def _may_be_memory(self, port: Port, output: Port) -> bool:
        settled = (
            port.is_empty or port.name in self._observed or port.name in self._passed or output.name in self._head.named
        )
        observed = _OBSERVATION.fullmatch(port.name.lower()) or _SEEN.intersection(_words(port.name))
        return not (settled or observed or says_action(output.name)) and output.dtype == port.dtype

    def named(self, outputs: Sequence[str]) -> dict[str, str]:
        """Outputs whose kind is said, or is their name; by kind."""
        found = {name: name for name in outputs if name in (*HEADS, "log_std") and name not in self._head.named}
        said = {kind: name for name, kind in self._head.named.items() if kind != FURTHER}
        if gone := [name for name in said.values() if name not in outputs]:
            raise UsageError(f"{self._file.name}: {', '.join(gone)} cannot be served, whatever --head says")
        return found | said

    def action(self, outputs: Sequence[str], named: Mapping[str, str], discrete: bool | None) -> tuple[str, str]:
        """What the action is made of, and which kind that is."""
        free = [name for name in outputs if name not in named.values() and name not in self._head.named]
        if kind := next((kind for kind in HEADS if kind in named), None):
            if self._head.bare:
                raise UsageError(
                    f"--head {self._head.bare} says what {self._file.name} gives first, and it names its {kind} itself",
                    remedy=f"Leave it out, or say which output you mean: --head NAME={self._head.bare}.",
                )
            return named[kind], kind
        if self._head.bare and free:
            return free[0], self._head.bare
        telling = [name for name in free if says_action(name)]
        if choice := action_among(free):
            return choice, "action"
        if discrete is not None and len(free) == 1:
            floating = next(port.dtype.startswith("float") for port in self._file.outputs if port.name == free[0])
            return free[0], "logits" if discrete and floating else "action"
        if drawn := [name for name in self._actions_drawn() if not telling]:
            raise UsageError(
                f"{self._file.name} draws its action ({', '.join(drawn)}), so no two answers agree, and gives neither"
                " a deterministic action nor scores that it is drawn from",
                remedy="Export it again with its deterministic action as an output, or with mean and log_std, or"
                " logits: clients draw from those.",
            )
        reasons = "".join(f"; {name} is left out: {why}" for name, why in self.left_out.items())
        raise UsageError(
            f"{self._file.name}: no output is called 'action',"
            f" it gives {', '.join(outputs) or 'nothing that can be served'}{reasons}",
            remedy=which_acts([*dict.fromkeys([*telling, *free])]),
        )

    def _actions_drawn(self) -> list[str]:
        return [port.name for port in self._file.outputs if port.name in self._random and says_action(port.name)]

    def refuse_half_an_action(self, kept: Sequence[str], source: str, kind: str, *, added: str) -> None:
        """Refuse a continuous or discrete action that is drawn, where no output gives one without a draw.

        Args:
            added: The output that the file itself does not have.

        Raises:
            UsageError: There is one.
        """
        dtypes = {port.name: port.dtype for port in self._file.outputs}
        discrete = {name: not dtypes[name].startswith("float") for name in dtypes}
        others = [name for name in kept if says_action(name) and name != source]
        kinds = {kind in SCORES or discrete[source], *(discrete[name] for name in others)}
        if lost := [name for name in self._actions_drawn() if discrete[name] not in kinds]:
            first = [name for name in self._actions_drawn() if name not in lost] if source == added else [source]
            alone = f" To serve {source} alone, say --head {source}={kind}." if source != added else ""
            raise UsageError(
                f"{self._file.name} has two actions, {', '.join(first)} and {', '.join(lost)}, and draws the latter:"
                " no output gives it without a draw",
                remedy=f"Export it again with its deterministic action as an output.{alone}",
            )

    def used_inputs(self, served: Sequence[str]) -> tuple[str, ...]:
        """Inputs that something depends on, or that the space names."""
        used = frozenset[str]().union(*(self._reach[name] for name in served)) | self._observed
        empty = {port.name for port in self._file.inputs if port.is_empty}
        if needed := sorted(used & empty):
            raise UsageError(
                f"{self._file.name} computes its action with {', '.join(needed)}, which has no elements",
                remedy="Export it again without that input.",
            )
        for port in self._file.inputs:
            if port.name not in used:
                reason = "it has no elements" if port.is_empty else "nothing that is served depends on it"
                self.notes.append(f"input {port.name} is left out: {reason}")
        found = tuple(port.name for port in self._file.inputs if port.name in used)
        if not found:
            raise UsageError(f"{self._file.name}: the action depends on no input")
        return found


def which_acts(names: Sequence[str]) -> str:
    """What to type where no name says which of these outputs the action is made of."""
    if len(names) == 1:
        return (
            f"If {names[0]} is the action itself: --head {names[0]}=action."
            f" If it holds scores that a choice is made by: --head {names[0]}=logits."
        )
    example = f"; for example --head {names[0]}={HEADS[0]}" if names else ""
    return (
        "Say which one the action is made of: --head NAME=KIND (in Python head={'NAME': 'KIND'}), KIND one"
        f" of {', '.join(HEADS)}{example}."
    )


def _kept_constants(head: Head) -> tuple[str, ...]:
    """Outputs that may be the same for every observation: a spread often is."""
    return ("log_std", *(name for name, kind in head.named.items() if kind == "log_std"))


def says_action(name: str) -> bool:
    """Whether an output's name says that it is an action."""
    return _SAYS_ACTION.search(name.lower()) is not None


def action_among(names: Sequence[str]) -> str:
    """The only output whose name says that it is an action, or of several the only deterministic one; empty if none."""
    telling = [name for name in names if says_action(name) and not _NOT_CHOSEN.intersection(_words(name))]
    # Next to the action of this step, its chunk is a further output.
    telling = [name for name in telling if "chunk" not in name.lower()] or telling
    choices = ([name for name in telling if "deterministic" in name.lower()], telling)
    return next((choice[0] for choice in choices if len(choice) == 1), "")


def with_action(head: Head, names: Sequence[str]) -> Head:
    """What outputs are, with the action by its name where nobody says what they are, and none has the name of a kind.

    Args:
        names: Of all outputs; a whole name has to say it, as `raw_actions` may be anything.
    """
    whole = [name for name in names if _IS_ACTION.fullmatch(name.lower())]
    action = "" if head or {*names} & {*HEADS} else action_among(whole)
    return Head(named={action: "action"}) if action else head


def _same_shape(port: Port, output: Port) -> bool:
    """Whether both have the same elements a row; batches and dimensions of 1 aside, as files disagree about those."""

    def row(dims: Sequence[int | None]) -> list[int]:
        return [size for size in dims if size is not None and size != 1]

    return not output.dims or row(port.dims) == row(output.dims)


def _alike(first: str, second: str) -> bool:
    """Whether two names differ in a direction alone: h_in and h_out, state and next_state, h0 and hn."""
    return first != second and bool(_core(first)) and _core(first) == _core(second)


def _core(name: str) -> tuple[str, ...]:
    found = [re.sub(r"(?<=^[a-z])(n|in|out)$", "", word) for word in _words(name) if word not in _DIRECTIONS]
    return tuple(word.removesuffix("s") for word in found if word != "0")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
