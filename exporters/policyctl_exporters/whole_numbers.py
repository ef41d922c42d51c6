"""Which floats of a module are whole numbers whatever it observes: those that its operators make of integers.

A choice may come as a float, as ``argmax(...).float()``. The contract has it as
an integer, and a fraction would be cut off: then what is served is not what the
policy said. Rows that happen to be whole prove nothing about others, so what
counts is how the operators made each number. Rounding is not enough: of NaN and
infinity it makes no integer.

How large a number can be follows from the operators too. What may grow beyond
its type would become infinite. A sum of many has to be exact in every order
and in every runtime, so it counts only where its type holds each number up to it.
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

_PLACES: Final = frozenset({"argmax", "argmin"})
_ARRANGING: Final = frozenset(
    {"_to_copy", "_unsafe_view", "alias", "as_strided", "cat", "clone", "detach", "diagonal", "embedding", "expand"}
    | {"flatten", "flip", "gather", "index", "index_select", "permute", "repeat", "reshape", "roll", "select", "slice"}
    | {"split", "split_with_sizes", "squeeze", "stack", "t", "take", "transpose", "unbind", "unfold", "unsqueeze"}
    | {"view"}
)
"""Operators that give some of the numbers of what they take first; what else they take says which."""

_CHOOSING: Final = frozenset(
    {"abs", "amax", "amin", "ceil", "clamp", "clamp_max", "clamp_min", "constant_pad_nd", "copy", "fill", "floor"}
    | {"hardtanh", "index_copy", "index_fill", "index_put", "masked_fill", "max", "maximum", "min", "minimum"}
    | {"nan_to_num", "neg", "relu", "round", "scatter", "select_scatter", "sgn", "sign", "slice_scatter", "sort"}
    | {"topk", "tril", "triu", "where", "zero"}
)
"""Operators that make no number larger than all that they take."""

_ADDING: Final = frozenset({"add", "rsub", "sub"})
_SUMMING: Final = frozenset({"bmm", "cumsum", "mm", "mv", "sum"})
_LEAVING_BLANK: Final = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
_PRODUCT_EXACT: Final = 2.0**11
"""Whole numbers up to here are exact in products of matrices: TF32 has 11 bits."""


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
    return not (watch.reads or watch.branches) and operators.largest(found) is not None


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that runs, and remembers where whole numbers lie, and how large they can be."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch
        # Storages are held, so that none is freed and its address given to another.
        self._sizes: dict[int, tuple[Any, float]] = {}
        self._blank: dict[int, Any] = {}

    def largest(self, values: Any) -> float | None:
        """How large the numbers in `values` can be, whatever is observed; None where one may be no integer."""
        found = [self._largest(value) for value in tree_leaves(values)]
        known = [each for each in found if each is not None]
        return max(known, default=0.0) if len(known) == len(found) else None

    def _largest(self, value: Any) -> float | None:
        if isinstance(value, float):
            return abs(value) if value.is_integer() else None
        if not isinstance(value, Tensor):
            return float(abs(value)) if isinstance(value, int) else 0.0
        storage = _storage(value)
        if self._watch.marked(value):
            known = storage._cdata in self._sizes and storage._cdata not in self._blank
            return self._sizes[storage._cdata][1] if known else _greatest_integer(value.dtype)
        if storage._cdata in self._blank or value.is_complex():
            return None
        # A constant, as a table of choices.
        numbers = value.double()
        is_whole = bool(torch.isfinite(numbers).all() and torch.equal(numbers, numbers.round()))
        return float(numbers.abs().amax()) if is_whole and numbers.numel() else 0.0 if is_whole else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note what it makes of what."""
        kwargs = kwargs or {}
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in func._schema.arguments)
        # Read as another type, the bits of an integer are any number; both tensors lie in the same storage.
        rereads = func is torch.ops.aten.view.dtype
        plain = func.namespace == "aten" and not rereads
        # A constant is judged by its values alone, and before it is written into.
        size = self._size(func, args, kwargs, writes=writes) if plain and self._watch.marked((args, kwargs)) else None
        answer = func(*args, **kwargs)
        blank = rereads or func.overloadpacket.__name__ in _LEAVING_BLANK
        for value in tree_leaves((answer, args[:1]) if writes else answer):
            if isinstance(value, Tensor):
                self._note(value, size, blank=blank)
                if func.overloadpacket.__name__ in _CHOOSING and not writes:
                    break  # behind the numbers come their places
        return answer

    def _note(self, value: Tensor, size: float | None, *, blank: bool) -> None:
        storage = _storage(value)
        if blank:
            self._blank[storage._cdata] = storage
        # Integers begin again where floats become infinite.
        most = _greatest_integer(value.dtype) or (torch.finfo(value.dtype).max if value.is_floating_point() else 0.0)
        if size is None or (value.is_floating_point() and size > most):
            self._sizes.pop(storage._cdata, None)
        else:
            self._sizes[storage._cdata] = storage, min(size, most)

    def _size(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, writes: bool) -> float | None:
        """How large what an operator makes can be; None where it may be no integer."""
        name = str(func.overloadpacket.__name__)
        if writes:
            # What is written into a part leaves the rest what it was.
            args, name = (_all_of(args[0]) if name.endswith("_") else None, *args[1:]), name.removesuffix("_")
        if args[0] is None or any(isinstance(each, str) for each in tree_leaves((args, kwargs))):
            return None
        if name in _PLACES:
            return float(args[0].numel())
        if name in _ARRANGING:
            return self.largest(args[0])
        if name in _CHOOSING:
            adds = name == "index_put" and True in (*args[3:], kwargs.get("accumulate"))
            return None if adds or "decimals" in kwargs else self.largest((args, kwargs))
        sizes = [self.largest(each) for each in args[:2]]
        if any(each is None for each in sizes):
            return None
        first, *second = (each or 0.0 for each in sizes)
        if name in _ADDING:
            times = self.largest((args[2:], kwargs))
            return None if times is None else (first + sum(second)) * max(times, 1.0)
        if name == "mul":
            return first * second[0]
        return _summed(name, first, second, args, kwargs.get("dtype")) if name in _SUMMING else None


def _summed(name: str, first: float, second: Sequence[float], args: Sequence[Any], dtype: Any) -> float | None:
    """How large a sum can be; None where its type does not hold every whole number up to there."""
    dtype = dtype or args[0].dtype
    product = name not in ("cumsum", "sum")
    size = first * second[0] * args[0].shape[-1] if product else first * args[0].numel()
    exact = 2 / torch.finfo(dtype).eps if dtype.is_floating_point else float("inf")
    return size if size <= (min(exact, _PRODUCT_EXACT) if product else exact) else None


def _greatest_integer(dtype: torch.dtype) -> float | None:
    """The largest number of a type of integers; None of any other."""
    if dtype.is_floating_point or dtype.is_complex:
        return None
    return 1.0 if dtype is torch.bool else float(torch.iinfo(dtype).max)


def _storage(value: Tensor) -> Any:
    # What is asked here is not a call of the policy.
    with torch._C.DisableTorchFunction():
        return value.untyped_storage()


def _all_of(value: Any) -> Any:
    """Everything that lies where a tensor lies; None of anything else."""
    if not isinstance(value, Tensor):
        return None
    return value.as_strided((_storage(value).nbytes() // value.element_size(),), (1,), 0)
