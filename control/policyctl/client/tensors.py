"""How both protocols describe tensors."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from policyctl.client.calls import Infer
from policyctl.domain.tensor import TRITON_TYPES

DATATYPES: Final[dict[np.dtype[Any], str]] = {np.dtype(name): datatype for name, datatype in TRITON_TYPES.items()}
"""What Triton calls a type."""

NUMPY: Final[dict[str, np.dtype[Any]]] = {datatype: dtype for dtype, datatype in DATATYPES.items()}

KEPT_SHAPES: Final = 64
"""Of how many kinds of calls a client keeps what describes their tensors."""


Shapes = tuple[str, tuple[str, ...], tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]]
"""The model, if it is another than the client's; names of the outputs; name, shape and type of each input."""


def shapes_of(call: Infer) -> Shapes:
    """What calls have in common whose tensors are described alike."""
    return call.model, call.outputs, tuple([(name, array.shape, array.dtype) for name, array in call.inputs.items()])


def size_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * dtype.itemsize
