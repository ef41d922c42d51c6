"""Compare the contracts of two releases: what differs, and which bump each difference needs.

The question is always the same: can a client of the earlier release use the
later one, unchanged? Directions matter, so inputs and outputs have rules of
their own.

=====================================================  =====  ====================================
difference                                             needs  because
=====================================================  =====  ====================================
a tensor removed, renamed, reshaped, retyped           MAJOR  a client that sends it is refused, one
                                                              that reads it finds nothing
an observation added                                   MAJOR  every request must carry every
                                                              observation, and theirs do not
an observation bounded more tightly                    MAJOR  what was accepted is refused
an observation bounded more loosely                    MINOR  it takes what it took, and more
an output added                                        MINOR  nobody asks for it who does not know
an output bounded otherwise, either way                MAJOR  wider: a value that nothing was built
                                                              for; tighter: a range that was
                                                              planned with is not reached, and
                                                              actions are scaled by their bounds
elements called otherwise, or no longer named          MAJOR  the same number means another thing
elements named for the first time                      MINOR  they mean what they meant
elements in other units, or not said any more          MAJOR  the same numbers mean another thing
elements in units for the first time                   MINOR  they mean what they meant
an input with another role, or none any more           MAJOR  the same numbers mean another thing
an input with a role for the first time                MINOR  it means what it meant
the kind of action                                     MAJOR  it is read otherwise
the law of stochastic actions: another, none, other    MAJOR  an action is drawn otherwise
choices a component, another transform
a law where there was none                             MINOR  deterministic actions are as before
fewer rows an inference                                MAJOR  a batch that was answered is refused
more rows an inference, or any number                  MINOR  what was answered is answered
memory: another, none, one more, another beginning     MAJOR  who carries it from step to step
                                                              carries the wrong thing
how an action becomes a command: otherwise, or not     MAJOR  the same action moves the machine
said any more                                                 otherwise
how an action becomes a command, for the first time    MINOR  it means what it meant
the last steps lie otherwise in an observation, or     MAJOR  the same numbers mean another thing
that is not said any more
how they lie, for the first time                       MINOR  they mean what they meant
an answer with the actions of several steps: more,     MAJOR  an episode hands out other actions,
fewer, or no longer; other time between them                  or at another pace
time between them for the first time; how many are     MINOR  each step's action is for that step
carried out
the order of tensors                                   -      they travel by name
=====================================================  =====  ====================================

Bounds are compared as the tensor's dtype holds them, so ``None`` for a float32
and its largest number are one, and a double that rounds to the same float32 is
no difference. What a contract does not say (weights, normalisation inside the
graph, how good the policy is) does not count here: gates judge that.

Laws: a contract differs from itself in nothing; `needed` is the largest of its
parts, so one more difference never lowers it; and no way round is cheaper:
what a to c needs is at most the most that a to b or b to c needs. The last is
why it is enough to compare a release with its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from policyctl.domain.chunk import Chunk
from policyctl.domain.contract import Contract, Distribution, DistributionKind, Transform
from policyctl.domain.drive import Drive
from policyctl.domain.json_values import fields_to_json, to_json
from policyctl.domain.tensor import Bound, TensorSpec
from policyctl.domain.versions import Bump

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OBSERVATION: Final = "observation"
OUTPUT: Final = "output"


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the later contract differs from the earlier.

    Attributes:
        what: ``observation``, ``output``, ``action_kind``, ``distribution``, ``max_batch``, ``memory``,
            ``drive``, ``history`` or ``chunk``.
        name: Which tensor; empty for all but tensors.
        change: What happened to it, in words.
        needs: The least bump that announces it.
    """

    what: str
    name: str
    change: str
    needs: Bump

    @property
    def words(self) -> str:
        """The whole of it, in words."""
        subject = f"{self.what} {self.name!r}" if self.name else self.what.replace("_", " ")
        return f"{subject} {self.change} (needs {self.needs})"

    def to_json(self) -> dict[str, str]:
        """A JSON object."""
        return {**fields_to_json(self), "needs": self.needs.name.lower()}


def compare(earlier: Contract, later: Contract) -> tuple[Difference, ...]:
    """Every difference between two contracts, the gravest first."""
    found = [
        *_tensors(OBSERVATION, earlier.observations, later.observations),
        *_tensors(OUTPUT, earlier.outputs, later.outputs),
    ]
    if earlier.action_kind is not later.action_kind:
        change = f"was {earlier.action_kind}, is {later.action_kind}"
        found.append(Difference("action_kind", "", change, Bump.MAJOR))
    found += _laws(earlier.distribution, later.distribution)
    found += _batches(earlier.max_batch, later.max_batch)
    if set(earlier.states) != set(later.states):
        change = f"was {_memory(earlier)}, is {_memory(later)}"
        found.append(Difference("memory", "", change, Bump.MAJOR))
    found += _drives(earlier.drive, later.drive)
    found += _histories(earlier, later)
    if earlier.chunk != later.chunk:
        before, after = (each.words if each else "one action an answer" for each in (earlier.chunk, later.chunk))
        needs = _chunk_needs(earlier.chunk, later.chunk)
        found.append(Difference("chunk", "", f"was {before}; is {after}", needs))
    return tuple(sorted(found, key=lambda difference: -difference.needs))


def _drives(earlier: Drive | None, later: Drive | None) -> Iterator[Difference]:
    if earlier is None and later is not None:
        yield Difference("drive", "", f"is stated: {later.words}", Bump.MINOR)
    elif earlier is not None and later is None:
        yield Difference("drive", "", f"is not stated any more; it was {earlier.words}", Bump.MAJOR)
    elif earlier is not None and later is not None:
        if changes := earlier.changes(later):
            yield Difference("drive", "", f"has changed: {'; '.join(changes)}", Bump.MAJOR)
        elif later.changes(earlier):
            yield Difference("drive", "", f"states more: {later.words}", Bump.MINOR)


def _histories(earlier: Contract, later: Contract) -> Iterator[Difference]:
    before, after = ({each.observation: each for each in c.histories} for c in (earlier, later))
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield Difference("history", name, "is stated", Bump.MINOR)
        elif before[name] != after.get(name):
            said = to_json(after[name]) if name in after else "not stated any more"
            yield Difference("history", name, f"was {to_json(before[name])}, is {said}", Bump.MAJOR)


def _chunk_needs(earlier: Chunk | None, later: Chunk | None) -> Bump:
    if earlier is None or later is None or earlier.horizon != later.horizon:
        return Bump.MAJOR
    return Bump.MINOR if earlier.interval_s in (None, later.interval_s) else Bump.MAJOR


def _memory(contract: Contract) -> str:
    pairs = [f"{state.input} -> {state.output} from {state.initial}" for state in contract.states]
    return ", ".join(sorted(pairs)) or "none"


def needed(differences: Iterable[Difference]) -> Bump:
    """The bump that announces all of `differences`; PATCH without any."""
    return max((difference.needs for difference in differences), default=Bump.PATCH)


def _tensors(what: str, earlier: tuple[TensorSpec, ...], later: tuple[TensorSpec, ...]) -> Iterator[Difference]:
    before, after = ({spec.name: spec for spec in specs} for specs in (earlier, later))
    gone = {name: spec for name, spec in before.items() if name not in after}
    fresh = {name: spec for name, spec in after.items() if name not in before}
    for name, spec in gone.items():
        # A tensor that is the same but for its name was most likely renamed; it makes one sentence of two.
        renamed = next((n for n, other in fresh.items() if replace(other, name=name) == spec), None)
        if renamed is None:
            yield Difference(what, name, "was removed", Bump.MAJOR)
        else:
            del fresh[renamed]
            yield Difference(what, name, f"was renamed to {renamed!r}", Bump.MAJOR)
    for name in fresh:
        yield Difference(what, name, "was added", Bump.MAJOR if what == OBSERVATION else Bump.MINOR)
    for name in before.keys() & after.keys():
        yield from _tensor(what, before[name], after[name])


def _tensor(what: str, earlier: TensorSpec, later: TensorSpec) -> Iterator[Difference]:
    if earlier.dtype != later.dtype:
        yield Difference(what, earlier.name, f"was {earlier.dtype}, is {later.dtype}", Bump.MAJOR)
    if earlier.shape != later.shape:
        yield Difference(what, earlier.name, f"had shape {earlier.shape}, has {later.shape}", Bump.MAJOR)
    if (earlier.dtype, earlier.shape) != (later.dtype, later.shape):
        return
    tighter, looser = _bounds(earlier, later)
    if tighter:
        yield Difference(what, earlier.name, f"is bounded more tightly: {tighter}", Bump.MAJOR)
    if looser:
        needs = Bump.MINOR if what == OBSERVATION else Bump.MAJOR
        yield Difference(what, earlier.name, f"is bounded more loosely: {looser}", needs)
    if earlier.features != later.features:
        yield _features(what, earlier, later)
    yield from _units(what, earlier, later)
    if earlier.role is not later.role:
        change = f"had the role {earlier.role or 'of an observation'}, has {later.role or 'none'}"
        yield Difference(what, earlier.name, change, Bump.MINOR if earlier.role is None else Bump.MAJOR)


def _features(what: str, earlier: TensorSpec, later: TensorSpec) -> Difference:
    if not earlier.features:
        return Difference(what, earlier.name, "has names for its elements", Bump.MINOR)
    if not later.features:
        return Difference(what, earlier.name, "has no names for its elements any more", Bump.MAJOR)
    pairs = enumerate(zip(earlier.features, later.features, strict=True))
    index, (before, after) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return Difference(what, earlier.name, f"has another element {index}: was {before!r}, is {after!r}", Bump.MAJOR)


def _units(what: str, earlier: TensorSpec, later: TensorSpec) -> Iterator[Difference]:
    if earlier.units == later.units:
        return
    pairs = [*enumerate(zip(earlier.each_unit, later.each_unit, strict=True))]
    changed = [(at, before, after) for at, (before, after) in pairs if before and before != after]
    if changed:
        at, before, after = changed[0]
        more = f" (and {len(changed) - 1} more)" if changed[1:] else ""
        change = (
            f"has other units: {later.feature(at)} was in {before}, is {f'in {after}' if after else 'in none'}{more}"
        )
        yield Difference(what, earlier.name, change, Bump.MAJOR)
    if any(after and not before for _, (before, after) in pairs):
        yield Difference(what, earlier.name, "has units for its elements", Bump.MINOR)


def _bounds(earlier: TensorSpec, later: TensorSpec) -> tuple[str, str]:
    """Where `later` is tighter, and where it is looser, in words; empty where nowhere."""
    import numpy as np

    (low, high), (new_low, new_high) = _limits(earlier), _limits(later)
    tighter, looser = (new_low > low) | (new_high < high), (new_low < low) | (new_high > high)

    def words(where: NDArray[np.bool_]) -> str:
        if not where.any():
            return ""
        index = int(np.argmax(where))
        others = int(where.sum()) - 1
        more = f" (and {others} more)" if others else ""
        return (
            f"{later.feature(index)} was {low[index]:g} to {high[index]:g},"
            f" is {new_low[index]:g} to {new_high[index]:g}{more}"
        )

    return words(tighter), words(looser)


def _limits(spec: TensorSpec) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest value of each element, as the dtype holds them; each of shape (size,)."""
    import numpy as np

    kind = np.dtype(spec.dtype)
    if kind.kind == "b":
        smallest, largest = 0.0, 1.0
    else:
        info = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        smallest, largest = float(info.min), float(info.max)

    def filled(bound: Bound, unbounded: float) -> NDArray[Any]:
        values = np.broadcast_to(np.asarray(unbounded if bound is None else bound, dtype=np.float64), (spec.size,))
        with np.errstate(over="ignore"):
            held = values.astype(kind).astype(np.float64) if kind.kind == "f" else values
        return np.clip(held, smallest, largest)

    return filled(spec.low, smallest), filled(spec.high, largest)


def _laws(earlier: Distribution, later: Distribution) -> Iterator[Difference]:
    before, after = _law(earlier), _law(later)
    if before == after:
        return
    needs = Bump.MINOR if earlier.kind is DistributionKind.NONE else Bump.MAJOR
    yield Difference("distribution", "", f"was {_law_words(*before)}, is {_law_words(*after)}", needs)


def _batches(earlier: int | None, later: int | None) -> Iterator[Difference]:
    if earlier != later:
        tighter = later is not None and (earlier is None or later < earlier)
        before, after = ("any number" if limit is None else f"at most {limit}" for limit in (earlier, later))
        change = f"was {before} of rows an inference, is {after}"
        yield Difference("max_batch", "", change, Bump.MAJOR if tighter else Bump.MINOR)


def _law(law: Distribution) -> tuple[DistributionKind, tuple[int, ...], Transform]:
    """What of it decides how an action is drawn."""
    choices = law.nvec if law.kind is DistributionKind.MULTI_CATEGORICAL else ()
    transform = law.transform if law.kind is DistributionKind.GAUSSIAN else Transform.NONE
    return law.kind, choices, transform


def _law_words(kind: DistributionKind, choices: tuple[int, ...], transform: Transform) -> str:
    details = f" of {list(choices)}" if choices else f" with transform {transform}" * (transform is not Transform.NONE)
    return f"{kind}{details}"
