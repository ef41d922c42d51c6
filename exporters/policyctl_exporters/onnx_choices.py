"""Scores behind the choices of an ONNX file, where the file draws, or leaves it to its engine to draw.

A contract has the scores (``logits``), the likeliest choice, and lets clients
draw. ML-Agents writes both kinds of file. Newer ones draw a choice of each
branch (`Multinomial`). Older ones give the logarithms of all branches side by
side, and call them the action: served as they are named, they would be taken
for a continuous action.

Whether floats are scores, and where one branch ends, only the graph says. A
graph of any other shape than these is refused, until somebody says both: the
answers of a wrong reading would agree with each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from policyctl.errors import UsageError
from policyctl_exporters.onnx_file import RANDOM, SHAPING, OnnxFile, sources
from policyctl_exporters.onnx_roles import says_action
from policyctl_exporters.source import FURTHER, HEADS, Head

_LOGITS: Final = "logits"
_DISCRETE: Final = "discrete_actions"
_OLD: Final = "action"
_OLD_KIND: Final = "is_continuous_control"
"""Outputs of ML-Agents: scores of its older files, their name before that, and what says that those are scores."""

_CHOOSING: Final = frozenset({"ArgMax", "Multinomial", "TopK"})
_SCORING: Final = frozenset({"Gemm", "Log", "LogSoftmax", "MatMul"})
"""What gives scores. `Softmax` gives probabilities: a client would draw from their exponentials."""

_KEEPING: Final = frozenset(
    {"Add", "Cast", "Clip", "Div", "Gather", "Identity", "Max", "Min", "Mul", "ReduceLogSumExp", "ReduceMax", "Slice"}
    | {"Split", "Sub", "Where"}
)
"""What leaves scores what they are: masks, temperatures, limits, and one branch cut out of many."""

_TURNING: Final = frozenset({"Neg", "Reciprocal"})
"""What makes the best score the worst one."""

_MEASURING: Final = frozenset({"Shape", "Size"})
"""What gives no value of a tensor."""

_MOST_PASSED: Final = 4096
"""Tensors that an output is joined of: nobody has as many branches, and `Concat(x, x)` doubles them at each step."""

_JOINING: Final = (SHAPING - {"Identity"}) | {"Concat", "Transpose"}


def with_scores(file: OnnxFile, head: Head, *, sized: bool) -> tuple[OnnxFile, Head]:
    """The file with the scores of its choices as an output that `Head` names, where it gives no choice.

    Args:
        head: What somebody says the outputs are; then none is added.
        sized: Whether an action space says how many choices each branch has.

    Raises:
        UsageError: The graph does not say that its floats are scores, or how many choices each branch has.
    """
    if head:
        # Its name says that these are scores of branches; of other scores only the action space does.
        if head.named.get(_DISCRETE) != _LOGITS or not any(port.name == _DISCRETE for port in file.outputs):
            return file, head
        sizes = _sizes(file, _DISCRETE)
        if sizes is None and not sized:
            raise _unsure(file, _DISCRETE)
        return replace(file, blocks=_joined(sizes or ())), head
    drawn = {port.name: scores for port in file.outputs if (scores := _drawn_from(file.model, port.name))}
    known = sources(file.model)
    sure = [port.name for port in file.outputs if RANDOM not in known.get(port.name, ())]
    if len({*drawn.values()}) == 1 and not any(says_action(name) or name in HEADS for name in sure):
        blocks = next(iter(drawn.values()))
        shapes = file.shapes(blocks)
        return replace(file.with_scores(blocks, _LOGITS), blocks=tuple(shapes[block][1] for block in blocks)), head
    floating = {port.name for port in file.outputs if port.dtype.startswith("float")}
    name = _DISCRETE if _DISCRETE in floating else _OLD if _says_discrete(file, floating) else ""
    sizes = _sizes(file, name) if name else ()
    if sizes is None:
        raise _unsure(file, name)
    if not sizes:
        return file, head
    kinds = {name: _LOGITS} | {other: FURTHER for other in sure if other == _OLD != name}
    return replace(file, blocks=_joined(sizes)), Head(named=kinds)


def _joined(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes that the graph says for sure: one layer may give the scores of many branches, as only a space can say."""
    return sizes if len(sizes) > 1 else ()


def _unsure(file: OnnxFile, scores: str) -> UsageError:
    return UsageError(
        f"{file.name}: its graph does not say whether {scores} are scores of choices, and where each branch of them"
        " ends",
        remedy=f"If they are logarithms or logits: --head {scores}={_LOGITS}, with an environment (--env) or an"
        f" action_space= that says how many choices each branch has. If they are the action: --head {scores}=action.",
    )


def _says_discrete(file: OnnxFile, floating: Set[str]) -> bool:
    """Whether a file of the oldest kind says with a constant that its floats are scores."""
    if not {_OLD, _OLD_KIND} <= floating or sources(file.model).get(_OLD_KIND):
        return False
    return not np.any(file.run(file.zeros())[_OLD_KIND])


def _sizes(file: OnnxFile, scores: str) -> tuple[int, ...] | None:
    """How many scores each branch has in an output; none where these are choices that were made floats.

    Returns:
        None where the graph does not say that these are scores, or where a branch ends.
    """
    joined = _Joined(file.model)
    joined.follow(scores)
    if _CHOOSING.issuperset(joined.made_by(block) for block in joined.blocks):
        return ()
    if joined.is_endless:
        return None
    shapes = file.shapes([scores, *joined.passed])
    sizes = tuple(shapes[block][-1] if shapes[block] else 1 for block in joined.blocks)
    if max(sizes) == 1:
        return ()
    rows, total = shapes[scores][:1], math.prod(shapes[scores][1:])
    # Of any other shape, scores of a branch may lie apart, or several branches in one block.
    flat = all((math.prod(shapes[name][:-1]),) == rows for name in joined.passed)
    sure = joined.is_plain and flat and sum(sizes) == total and _are_scores(file, joined)
    return sizes if sure else None


@dataclass(slots=True)
class _Joined:
    """The tensors that an output is joined of, but for their shapes and types; one where it is not joined.

    Attributes:
        passed: Every tensor on the way, with the output and the blocks.
        is_plain: Whether all were joined in their last or second dimension.
    """

    model: Any
    blocks: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    is_plain: bool = True
    makers: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.makers = {name: node for node in self.model.graph.node for name in node.output}

    def made_by(self, name: str) -> str:
        """The operator that gives a tensor; empty where none does."""
        return self.makers[name].op_type if name in self.makers else ""

    @property
    def is_endless(self) -> bool:
        """Whether it was followed to a limit alone."""
        return len(self.passed) > _MOST_PASSED

    def follow(self, output: str) -> None:
        """Go back from an output to its blocks."""
        waiting = [output]
        while waiting and not self.is_endless:
            name = waiting.pop()
            self.passed.append(name)
            if self.made_by(name) == "Concat":
                node = self.makers[name]
                self.is_plain &= next(entry.i for entry in node.attribute if entry.name == "axis") in (1, -1)
                waiting += reversed(node.input)
            elif self.made_by(name) in {*SHAPING, "Cast"}:
                waiting.append(self.makers[name].input[0])
            else:
                self.blocks.append(name)
        self.is_plain &= not waiting


def _drawn_from(model: Any, output: str) -> tuple[str, ...]:
    """The scores (logarithms, shape (n, choices)) that an output is one draw from each; none where nothing is drawn."""
    joined = _Joined(model)
    joined.follow(output)
    draws = [joined.makers[block] for block in joined.blocks if joined.made_by(block) == "Multinomial"]
    # Without the attribute one is drawn.
    once = all(entry.i == 1 for draw in draws for entry in draw.attribute if entry.name == "sample_size")
    return (
        tuple(draw.input[0] for draw in draws) if joined.is_plain and once and len(draws) == len(joined.blocks) else ()
    )


def _are_scores(file: OnnxFile, joined: _Joined) -> bool:
    """Whether each block is what a layer or a logarithm gives, and nothing that makes it anything else, or joins it."""
    # A mask is made of inputs alone.
    reached: set[str] = set()
    for node in joined.model.graph.node:
        if node.op_type != "Shape" and (node.op_type in _SCORING or reached.intersection(node.input)):
            reached.update(node.output)
    waiting = [(block, False) for block in joined.blocks]
    gone = set(waiting)
    order = _Order(file)
    while waiting:
        name, logarithm = waiting.pop()
        operator = joined.made_by(name) if name in reached else ""
        given = joined.makers[name].input if operator else []
        if operator == "Reciprocal" and logarithm:
            order.sums.add(given[0])
            continue
        if operator in _JOINING | _TURNING or not (logarithm or operator in _KEEPING | _SCORING):
            return False
        if operator == "Log" or operator in _KEEPING:
            inside = logarithm or operator == "Log"
            more = {(each, inside) for each in given if each in reached} - gone
            gone |= more
            waiting += more
        if operator in {"Div", "Mul", "Sub"} and not order.holds(operator, given, reached, logarithm=logarithm):
            return False
    return order.is_kept()


@dataclass(slots=True)
class _Order:
    """What scores are multiplied by, divided by, and what is taken from them: whether the best one stays the best.

    Attributes:
        factors: None of them depends on the scores.
        shifts: What is taken from scores, of the scores themselves.
        sums: What scores are divided by under a logarithm, of the scores themselves.
    """

    file: OnnxFile
    factors: set[str] = field(default_factory=set)
    shifts: set[str] = field(default_factory=set)
    sums: set[str] = field(default_factory=set)

    def holds(self, operator: str, given: Sequence[str], reached: set[str], *, logarithm: bool) -> bool:
        """Whether the order may stay, by the operator alone; `is_kept` judges the values."""
        both = reached.issuperset(given)
        if operator != "Mul" and given[0] not in reached:
            return False
        if operator == "Sub":
            self.shifts.update(given[1:] if both else ())
            return not (both and logarithm)
        self.factors.update(each for each in given if each not in reached)
        if both and operator == "Div":
            self.sums.add(given[1])
        return logarithm or not both

    def is_kept(self) -> bool:
        """Whether the values leave the order of the scores what it is."""
        # What only asks for a shape is a constant.
        known = sources(self.file.model, ignored=_MEASURING)
        constants = {name for name in self.factors if not known.get(name)}
        # One number for all choices changes no order; one for each does.
        single = self.shifts | self.sums
        judged = constants | single
        values = self.file.values(sorted(judged)) if judged else {}
        if any(np.shape(values[name])[-1:] not in ((), (1,)) for name in single):
            return False
        # A negative factor makes the best score the worst, and 0 makes all alike; where nothing is allowed, sums are 0.
        return all(bool(np.all(values[name] > 0)) for name in constants) and not any(
            bool(np.any(values[name] < 0)) for name in self.sums
        )
