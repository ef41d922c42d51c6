"""Scores behind the choices of an ONNX file, where the file draws, or leaves it to its engine to draw.

A contract has the scores (``logits``), the likeliest choice, and lets clients
draw. ML-Agents writes both kinds of file. Newer ones draw a choice of each
branch (`Multinomial`). Older ones give the logarithms of all branches side by
side, and call them the action: served as they are named, they would be taken
for a continuous action.
"""

from __future__ import annotations

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


def with_scores(file: OnnxFile, head: Head) -> tuple[OnnxFile, Head]:
    """The file with the scores of its choices as an output that `Head` names, where it gives no choice of its own.

    Args:
        head: What somebody says the outputs are; then nothing is changed.
    """
    if head:
        return file, head
    drawn = {port.name: scores for port in file.outputs if (scores := drawn_from(file.model, port.name))}
    known = sources(file.model)
    sure = [port.name for port in file.outputs if RANDOM not in known.get(port.name, ())]
    if len({*drawn.values()}) == 1 and not any(says_action(name) or name in HEADS for name in sure):
        blocks = next(iter(drawn.values()))
        return replace(file.with_scores(blocks, _LOGITS), blocks=file.sizes(blocks)), head
    if not (scores := _scores_called_action(file)):
        return file, head
    kinds = {scores: _LOGITS} | {name: FURTHER for name in sure if name == _OLD != scores}
    return replace(file, blocks=file.sizes(blocks_of(file.model, scores))), Head(named=kinds)


def _scores_called_action(file: OnnxFile) -> str:
    """The output whose name says that it is a choice, and that holds scores; empty where there is none."""
    floating = {port.name for port in file.outputs if port.dtype.startswith("float")}
    if _DISCRETE in floating:
        return _DISCRETE
    if not {_OLD, _OLD_KIND} <= floating or sources(file.model).get(_OLD_KIND):
        return ""
    return "" if np.any(file.run(file.zeros())[_OLD_KIND]) else _OLD
