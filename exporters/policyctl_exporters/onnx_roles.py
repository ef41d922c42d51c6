"""What each input and output of an ONNX file is for; what has no role is refused by name.

An output that continues an input is memory, and a policy that is served
without it forgets. It is known by its name (``h_in`` and ``h_out``), or by what
depends on what: the action on the input, and on the input the output, which is
of its shape. Somebody who names the input as an observation, or the output as a
further one, has given it a role.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from policyctl.errors import UsageError
from policyctl_exporters.onnx_file import RANDOM, OnnxFile, Port, passes_through, sources
from policyctl_exporters.source import FURTHER, HEADS, Head

_DIRECTIONS: Final = frozenset(
    {"in", "ins", "input", "inputs", "out", "outs", "output", "outputs"}
    | {"next", "new", "prev", "previous", "old", "last", "init", "initial"}
)
_OBSERVATION: Final = re.compile(r"(obs|observations?)[_.]?\d*")
_SEEN: Final = frozenset({"action", "actions", "command", "commands", "mask", "masks"})
"""Words in the name of an input that the environment gives, as it gives the last action."""

_SAYS_ACTION: Final = re.compile(r"(^|[^a-z])actions?$")
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
    """

    inputs: tuple[str, ...]
    source: str
    kind: str
    parameters: Mapping[str, str]
    further: tuple[str, ...]
    notes: tuple[str, ...]


def assign(file: OnnxFile, *, head: Head, observed: Set[str], random: Set[str], discrete: bool | None = None) -> Roles:
    """Find the role of every tensor.

    Args:
        observed: Inputs that the observation space names.
        random: Outputs that differ when the file is asked the same twice.
        discrete: Whether the action is; None where nobody said what it is.

    Raises:
        UsageError: Memory, an action that cannot be identified or is random, or tensors that no contract holds.
    """
    head.require([port.name for port in file.outputs])
    if strange := [port.name for port in file.inputs if not port.is_tensor]:
        raise UsageError(f"{file.name} takes {', '.join(strange)}, which are no tensors of numbers")
    known = sources(file.model)
    reach = {port.name: known.get(port.name, frozenset()) for port in file.outputs}
    sorting = _Sorting(file, head, reach, observed, random)
    outputs = sorting.keep_what_can_be_served()
    named = sorting.named(outputs)
    source, kind = sorting.action(outputs, named, discrete)
    parameters = {kind_: name for kind_, name in named.items() if kind_ in (*HEADS, "log_std") and name != source}
    if kind == "mean" and "log_std" in parameters:
        parameters["mean"] = source
    further = [name for name in outputs if name != source and name not in parameters.values()]
    sorting.refuse_memory(source, further)
    served = (source, *parameters.values(), *further)
    inputs = sorting.used_inputs(served)
    return Roles(inputs, source, kind, parameters, tuple(further), tuple(sorting.notes))


class _Sorting:
    """Puts aside what cannot be served, with a word about each."""

    def __init__(
        self,
        file: OnnxFile,
        head: Head,
        reach: Mapping[str, frozenset[str]],
        observed: Set[str],
        random: Set[str],
    ) -> None:
        self._file, self._head, self._reach, self._observed = file, head, reach, observed
        self._random = {port.name for port in file.outputs if RANDOM in reach[port.name]} | set(random)
        self.notes: list[str] = []
        self.left_out: dict[str, str] = {}
        self._passed: set[str] = set()

    def keep_what_can_be_served(self) -> list[str]:
        """Outputs that can have a role, in the file's order."""
        for port in self._file.outputs:
            if reason := self._reason_against(port):
                self.left_out[port.name] = reason
                self.notes.append(f"output {port.name} is left out: {reason}")
        self._refuse_memory_by_name()
        return [port.name for port in self._file.outputs if port.name not in self.left_out]

    def _reason_against(self, port: Port) -> str:
        if not port.is_tensor:
            return f"it is {port.dtype}, which no contract holds"
        if port.name in self._random:
            return "it is random, and who asks draws actions itself"
        if not self._reach[port.name] and port.name not in (*_kept_constants(self._head), *self._head.named):
            return "it is the same for every observation"
        given = passes_through(self._file.model, port.name)
        users = [name for name, found in self._reach.items() if given in found and name != port.name]
        if given is not None and given not in self._observed and not users and port.name not in self._head.named:
            self._passed.add(given)
            return f"it is the input {given}, and nothing else depends on that"
        return ""

    def _refuse_memory_by_name(self) -> None:
        pairs = [
            (port, output)
            for port in self._file.inputs
            for output in self._file.outputs
            if self._may_be_memory(port, output) and _alike(port.name, output.name) and _same_shape(port, output)
        ]
        self._refuse(pairs)

    def refuse_memory(self, source: str, further: Sequence[str]) -> None:
        """Raises: UsageError: A further output continues an input that the action depends on."""
        if len(self._file.inputs) == 1:
            return
        outputs = {port.name: port for port in self._file.outputs}
        pairs = [
            (port, outputs[name])
            for port in self._file.inputs
            for name in further
            if self._may_be_memory(port, outputs[name])
            and name.lower() not in _VALUES
            and port.name in self._reach[name]
            and port.name in self._reach[source]
            and _same_shape(port, outputs[name])
        ]
        self._refuse(pairs)

    def _may_be_memory(self, port: Port, output: Port) -> bool:
        settled = port.name in self._observed or port.name in self._passed or output.name in self._head.named
        observed = _OBSERVATION.fullmatch(port.name.lower()) or _SEEN.intersection(_words(port.name))
        return not (settled or observed or _SAYS_ACTION.search(output.name.lower())) and output.dtype == port.dtype

    def _refuse(self, pairs: Sequence[tuple[Port, Port]]) -> None:
        if not pairs:
            return
        shown = ", ".join(dict.fromkeys(f"{port.name} -> {output.name}" for port, output in pairs))
        raise UsageError(
            f"{self._file.name} has memory ({shown}): served without it, the policy would forget what it saw",
            remedy="Policies with memory are not served yet. If an input is an observation all the same, name it in a"
            f" Dict space, or say --head {pairs[0][1].name}={FURTHER}.",
        )

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
        telling = [name for name in free if _SAYS_ACTION.search(name.lower())]
        for choice in ([name for name in telling if "deterministic" in name.lower()], telling):
            if len(choice) == 1:
                return choice[0], "action"
        if discrete is not None and len(free) == 1:
            floating = next(port.dtype.startswith("float") for port in self._file.outputs if port.name == free[0])
            return free[0], "logits" if discrete and floating else "action"
        reasons = "".join(f"; {name} is left out: {why}" for name, why in self.left_out.items())
        raise UsageError(
            f"{self._file.name}: no output is called 'action',"
            f" it gives {', '.join(outputs) or 'nothing that can be served'}{reasons}",
            remedy="Say which one the action is made of: --head NAME=KIND (in Python head={'NAME': 'KIND'}), KIND one"
            f" of {', '.join(HEADS)}.",
        )

    def used_inputs(self, served: Sequence[str]) -> tuple[str, ...]:
        """Inputs that something depends on, or that the space names."""
        used = frozenset[str]().union(*(self._reach[name] for name in served)) | self._observed
        for port in self._file.inputs:
            if port.name not in used:
                self.notes.append(f"input {port.name} is left out: nothing that is served depends on it")
        found = tuple(port.name for port in self._file.inputs if port.name in used)
        if not found:
            raise UsageError(f"{self._file.name}: the action depends on no input")
        return found


def _kept_constants(head: Head) -> tuple[str, ...]:
    """Outputs that may be the same for every observation: a spread often is."""
    return ("log_std", *(name for name, kind in head.named.items() if kind == "log_std"))


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
