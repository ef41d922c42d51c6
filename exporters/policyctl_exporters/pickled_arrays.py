"""Arrays and dtypes as a pickle describes them, without NumPy's own constructors.

Those corrupt memory when their arguments are forged: a dtype of objects turns
raw bytes into pointers. Here bytes are copied under a numeric dtype, and only
where they fill the shape exactly.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_NUMERIC: Final = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c8|c16)")
_DIMENSIONS: Final = 32


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str


class PickledDtype:
    """A dtype as its pickle describes it.

    Attributes:
        code: Byte order, kind and size, for example ``<f8``.
    """

    __slots__ = ("code",)

    def __init__(self, code: Any = None, *_rest: Any) -> None:
        self.code = code if isinstance(code, str) else "unknown"

    def build(self, state: Any) -> None:
        """Take the byte order."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError("a pickled dtype has fields or a shape, expected a number")
        self.code = f"{str(state[1])[:1]}{self.code.lstrip('<>|=')}"


class PickledArray:
    """A NumPy array as its pickle describes it; `numpy.asarray` makes it real."""

    __slots__ = ("state",)

    def __init__(self, *_arguments: Any) -> None:
        self.state: Any = None

    def build(self, state: Any) -> None:
        """Take version, shape, dtype, memory order and bytes; the oldest pickles lack the version."""
        self.state = state[-4:] if isinstance(state, tuple) else None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy of the pickled bytes."""
        if self.state is None or len(self.state) != 4:
            raise ValueError("a pickled array has no content")
        shape, kind, column_major, raw = self.state
        content = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(content, bytes | bytearray):
            raise ValueError(f"a pickled array holds {type(raw).__name__}, expected bytes")
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("a pickled array's shape is not a tuple of sizes")
        element = dtype_of(kind)
        if len(shape) > _DIMENSIONS or math.prod(shape) * element.itemsize != len(content):
            raise ValueError(f"a pickled array has {len(content)} bytes for {element} of shape {str(shape)[:80]}")
        flat = np.frombuffer(content, element) if content else np.empty(0, element)
        made = flat.reshape(shape, order="F" if column_major else "C")
        # Always a copy: what the pickle holds is not to be written to.
        return made.astype(element.newbyteorder("=") if dtype is None else dtype)


def from_buffer(raw: Any = None, kind: Any = None, shape: Any = None, order: Any = "C", *_rest: Any) -> PickledArray:
    """What ``numpy._core.numeric._frombuffer`` would make."""
    made = PickledArray()
    made.build((shape, kind, order == "F", raw))
    return made


def scalar(kind: Any = None, raw: Any = None, *_rest: Any) -> Any:
    """What ``numpy._core.multiarray.scalar`` would make."""
    return np.asarray(from_buffer(raw, kind, ()))[()]


def numbers(value: Any) -> Any:
    """A number, an array, or numbers in one list: a list that holds the same list twice doubles at each level.

    Raises:
        TypeError: A list in a list.
    """
    if isinstance(value, list | tuple) and any(isinstance(each, list | tuple) for each in value):
        raise TypeError("found a list in a list, expected numbers")
    return value


def dtype_of(value: Any) -> np.dtype[Any]:
    """The numeric dtype that a pickled dtype, or a pickled NumPy type, stands for."""
    code = value.code if isinstance(value, PickledDtype) else ""
    if isinstance(value, Name) and value.module == "numpy":
        kind = getattr(np, value.name, None)
        code = np.dtype(kind).str if isinstance(kind, type) and issubclass(kind, np.number | np.bool_) else ""
    if _NUMERIC.fullmatch(code) is None:
        raise ValueError(f"a pickled dtype is {code[:40] or type(value).__name__!r}, expected a number")
    return np.dtype(code)
