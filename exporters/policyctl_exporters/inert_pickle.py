"""Read the data in a pickle without running it.

Unpickling calls whatever the pickle names. So nothing is unpickled here:
`pickletools` splits the pickle into opcodes, and a small machine keeps what
they build. Plain values and containers become themselves, NumPy arrays become
`PickledArray`. Every other object becomes an `Inert` stand-in that holds its
attributes, so a missing package (old ``gym``, another NumPy's random state)
does not matter.

Memory stays in proportion to the pickle: nothing in it can name a size.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from policyctl.errors import UsageError
from policyctl_exporters.pickled_arrays import Name, PickledArray, PickledDtype, from_buffer, scalar

MOST_BYTES: Final = 256 << 20
"""Statistics and observations are far smaller, those of images too."""

_MOST_OPCODES: Final = 1_000_000
_PLAIN_KEYS: Final = (str, int, float, bytes, type(None))


class Inert:
    """Stands in for an object that was pickled; its attributes are those that the pickle gave it.

    Attributes:
        origin: ``module.name`` of its class, or of the function that made it.
    """

    __slots__ = ("__dict__", "origin")

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def build(self, state: Any) -> None:
        """Take attributes: a dict, or the pair of dicts of a class with slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(key): value for key, value in part.items()})


def read_inert(content: bytes, *, what: str) -> Any:
    """The data in a pickle. Nothing that it names is imported or called.

    Raises:
        UsageError: It is not a readable pickle, or larger than `MOST_BYTES`.
    """
    if len(content) > MOST_BYTES:
        raise UsageError(f"{what}: the pickle has {len(content)} bytes, at most {MOST_BYTES} are read")
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count == _MOST_OPCODES:
                raise ValueError(f"it has more than {_MOST_OPCODES} operations")
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode.name, argument)
    # A damaged or forged pickle can fail anywhere in the machine, and means the same everywhere.
    except Exception as error:
        raise UsageError(
            f"{what}: cannot be read as a pickle ({type(error).__name__}: {str(error)[:200]})",
            remedy="Check that the file is complete, and that it is what training wrote.",
        ) from error
    raise UsageError(f"{what}: the pickle has no end", remedy="Check that the file is complete.")


class _Machine:
    """The stack machine that a pickle is written for, with calls that run nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name in _FOLDED:
            fold, count = _FOLDED[name]
            taken = [self.stack.pop() for _ in range(count)]
            self.stack.append(fold(*reversed(taken)))
        elif name in _FROM_MARK:
            taken = self._to_mark()
            self.stack.append(_FROM_MARK[name](taken))
        elif name in _INTO:
            items = self._to_mark() if name.endswith("S") else [self.stack.pop() for _ in range(_INTO[name][1])][::-1]
            _INTO[name][0](self.stack[-1], items)
        else:
            self._rest(name, argument)

    def _to_mark(self) -> list[Any]:
        taken, self.stack = self.stack, self._below.pop()
        return taken

    def _rest(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._below.append(self.stack)
                self.stack = []
            case "POP" if self.stack:
                self.stack.pop()
            case "POP" | "POP_MARK":
                self._to_mark()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self._memo[argument])
            case "GLOBAL":
                self.stack.append(_name(argument))
            case "INST":
                arguments = tuple(self._to_mark())
                self.stack.append(_call(_name(argument), arguments))
            case _:
                raise ValueError(f"it uses {name}, which no training file needs")


def _name(argument: str) -> Name:
    module, _, attribute = argument.partition(" ")
    return Name(module, attribute)


def _call(target: Any, arguments: Any, _named: Any = None) -> Any:
    """What a call leaves behind: a container, a number, an array, or a stand-in."""
    if not isinstance(target, Name):
        return Inert("unknown")
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(target.module, target.module)
    module = module.replace("numpy.core.", "numpy._core.", 1)
    if maker := _MAKERS.get((module, target.name)):
        return maker(*arguments) if isinstance(arguments, tuple) else maker()
    return Inert(f"{target.module}.{target.name}")


def _items(values: Any = (), *_rest: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else []


def _mapping(pairs: Any = (), *_rest: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for pair in _items(pairs):
        _set(made, _items(pair))
    return made


def _encoded(text: Any = b"", *_rest: Any) -> bytes:
    # Latin-1 is the only encoding that pickles of bytes use.
    return text.encode("latin-1") if isinstance(text, str) else text if isinstance(text, bytes) else b""


def _instance(target: Any = None, *_rest: Any) -> Any:
    return _call(target, ())


def _set(target: Any, items: list[Any]) -> None:
    """Keep entries; nothing reads one whose key is not a plain value."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(target, dict) and isinstance(key, _PLAIN_KEYS):
            target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _build(target: Any, state: list[Any]) -> None:
    if isinstance(target, PickledArray | PickledDtype | Inert):
        target.build(state[0])


_MAKERS: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("builtins", "list"): _items,
    ("builtins", "tuple"): _items,
    ("builtins", "set"): _items,
    ("builtins", "frozenset"): _items,
    ("builtins", "dict"): _mapping,
    ("builtins", "bytes"): _encoded,
    ("builtins", "bytearray"): _encoded,
    ("_codecs", "encode"): _encoded,
    ("collections", "deque"): _items,
    ("collections", "OrderedDict"): _mapping,
    ("copyreg", "_reconstructor"): _instance,
    ("copyreg", "__newobj__"): _instance,
    ("numpy", "dtype"): PickledDtype,
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "scalar"): scalar,
    ("numpy._core.numeric", "_frombuffer"): from_buffer,
}

# Opcodes by what they do. First those that push their argument as it is.
_VALUES: Final = frozenset(
    op.name
    for op in pickletools.opcodes
    if re.fullmatch("INT|LONG[14]?|BININT[12]?|(BIN)?FLOAT|BYTEARRAY8|(SHORT_)?BIN(STRING|BYTES|UNICODE)8?", op.name)
    or op.name in {"STRING", "UNICODE"}
)
# Push something new.
_MADE: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
# Replace so many topmost values by one.
_FOLDED: Final[Mapping[str, tuple[Callable[..., Any], int]]] = {
    "TUPLE1": (lambda *parts: parts, 1),
    "TUPLE2": (lambda *parts: parts, 2),
    "TUPLE3": (lambda *parts: parts, 3),
    "STACK_GLOBAL": (lambda module, name: Name(str(module), str(name)), 2),
    "REDUCE": (_call, 2),
    "NEWOBJ": (_call, 2),
    "NEWOBJ_EX": (_call, 3),
}
# Replace everything above the last mark by one value.
_FROM_MARK: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": list,
    "DICT": lambda items: _mapping(list(zip(items[::2], items[1::2], strict=True))),
    "OBJ": lambda items: _call(items[0], tuple(items[1:])),
}
# Put so many topmost values, or all above the last mark, into the object below them.
_INTO: Final[Mapping[str, tuple[Callable[[Any, list[Any]], None], int]]] = {
    "APPEND": (_extend, 1),
    "APPENDS": (_extend, 0),
    "ADDITEMS": (_extend, 0),
    "SETITEM": (_set, 2),
    "SETITEMS": (_set, 0),
    "BUILD": (_build, 1),
}
