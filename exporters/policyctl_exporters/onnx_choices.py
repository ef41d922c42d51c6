"""Scores behind the choices of an ONNX file, where the file draws, or leaves it to its engine to draw.

A contract has the scores (``logits``), the likeliest choice, and lets clients
draw. ML-Agents writes both kinds of file. Newer ones draw a choice of each
branch (`Multinomial`). Older ones give the logarithms of all branches side by
side, and call them the action: served as they are named, they would be taken
for a continuous action.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Final

import numpy as np

from policyctl_exporters.onnx_file import RANDOM, OnnxFile, blocks_of, drawn_from, sources
from policyctl_exporters.onnx_roles import says_action
from policyctl_exporters.source import FURTHER, HEADS, Head

_LOGITS: Final = "logits"
_DISCRETE: Final = "discrete_actions"
_OLD: Final = "action"
_OLD_KIND: Final = "is_continuous_control"
"""Outputs of ML-Agents: scores of its older files, their name before that, and what says that those are scores."""

_CHOOSING: Final = frozenset({"ArgMax", "Multinomial", "TopK"})


def with_scores(file: OnnxFile, head: Head) -> tuple[OnnxFile, Head]:
    """The file with the scores of its choices as an output that `Head` names, where it gives no choice.

    Args:
        head: What somebody says the outputs are; then none is added.
    """
    if head:
        # Its name says that these are scores of branches; of other scores only the action space does.
        said = head.named.get(_DISCRETE) == _LOGITS and any(port.name == _DISCRETE for port in file.outputs)
        return (replace(file, blocks=_sizes(file, _DISCRETE)) if said else file), head
    drawn = {port.name: scores for port in file.outputs if (scores := drawn_from(file.model, port.name))}
    known = sources(file.model)
    sure = [port.name for port in file.outputs if RANDOM not in known.get(port.name, ())]
    if len({*drawn.values()}) == 1 and not any(says_action(name) or name in HEADS for name in sure):
        blocks = next(iter(drawn.values()))
        return replace(file.with_scores(blocks, _LOGITS), blocks=file.sizes(blocks)), head
    floating = {port.name for port in file.outputs if port.dtype.startswith("float")}
    name = _DISCRETE if _DISCRETE in floating else _OLD if _says_discrete(file, floating) else ""
    if not (name and (sizes := _sizes(file, name))):
        return file, head
    kinds = {name: _LOGITS} | {other: FURTHER for other in sure if other == _OLD != name}
    return replace(file, blocks=sizes), Head(named=kinds)


def _says_discrete(file: OnnxFile, floating: Set[str]) -> bool:
    """Whether a file of the oldest kind says with a constant that its floats are scores."""
    if not {_OLD, _OLD_KIND} <= floating or sources(file.model).get(_OLD_KIND):
        return False
    return not np.any(file.run(file.zeros())[_OLD_KIND])


def _sizes(file: OnnxFile, scores: str) -> tuple[int, ...]:
    """How many scores each branch has in an output; none where these are choices that were made floats."""
    blocks = blocks_of(file.model, scores)
    makers = {name: node.op_type for node in file.model.graph.node for name in node.output}
    if _CHOOSING.intersection(makers.get(block, "") for block in blocks):
        return ()
    sizes = file.sizes(blocks)
    return sizes if min(sizes) > 1 else ()
