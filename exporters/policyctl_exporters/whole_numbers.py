"""Which floats of a module are whole numbers whatever it observes: those that its operators make of integers.

A choice may come as a float, as ``argmax(...).float()``. The contract has it as
an integer, and a fraction would be cut off: then what is served is not what the
policy said. Rows that happen to be whole prove nothing about others, so what
counts is how the operators made each number. Rounding is not enough: of NaN and
infinity it makes no integer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policyctl_exporters.conduct import unvalidated
from policyctl_exporters.watch import Watch

_ARRANGING: Final = frozenset(
    {"_to_copy", "_unsafe_view", "alias", "as_strided", "cat", "clone", "detach", "expand", "flatten", "flip"}
    | {"gather", "index", "index_select", "permute", "repeat", "reshape", "select", "slice", "split", "squeeze"}
    | {"split_with_sizes", "stack", "t", "transpose", "unbind", "unsqueeze", "view", "where"}
)
_COMPUTING: Final = frozenset(
    {"abs", "add", "clamp", "clamp_max", "clamp_min", "maximum", "minimum", "mul", "neg", "rsub", "sub", "sum"}
)
_KEEPING: Final = _ARRANGING | _COMPUTING
"""Operators that give whole numbers where they take such alone."""


def whole(module: nn.Module, rows: Sequence[Tensor], chosen: Callable[[Any], Any]) -> bool:
    """Whether a tensor of a module's answer is made of whole numbers, whatever the module observes.

    Args:
        module: A copy, which may be changed.
        rows: What to ask it.
        chosen: Takes the tensor out of the answer.
    """
    watch = Watch(module)
    with unvalidated(), _Operators(watch) as operators:
        found = chosen(watch.ask(rows))
    # Behind a branch other operators may run.
    return not (watch.reads or watch.branches) and operators.are_whole(found)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that runs, and remembers where whole numbers lie as floats."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch
        # Storages are held, so that none is freed and its address given to another.
        self._whole: dict[int, Any] = {}

    def are_whole(self, values: Any) -> bool:
        """Whether every tensor and number in `values` is, as far as operators say."""
        return all(self._is_whole(value) for value in tree_leaves(values))

    def _is_whole(self, value: Any) -> bool:
        if isinstance(value, float):
            return value.is_integer()
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return True
        if self._watch.marked(value):
            return value.untyped_storage()._cdata in self._whole
        # A constant, as a table of choices.
        return bool(torch.isfinite(value).all() and torch.equal(value, value.round()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note what it makes of what."""
        given = (args, kwargs or {})
        name = str(func.overloadpacket.__name__)
        # A constant is judged by its values alone. Read as another type, the bits of an integer are any number.
        keeps = func.namespace == "aten" and name in _KEEPING and func is not torch.ops.aten.view.dtype
        keeps = keeps and self._watch.marked(given) and self.are_whole(given)
        answer = func(*args, **(kwargs or {}))
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in func._schema.arguments)
        for value in tree_leaves((answer, given) if writes else answer):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                # What is written into a part leaves the rest what it was.
                if keeps and not writes:
                    self._whole[storage._cdata] = storage
                else:
                    self._whole.pop(storage._cdata, None)
        return answer
