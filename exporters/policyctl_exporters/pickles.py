"""Read the pickles inside old training files, running as little of them as possible.

Unpickling runs code, so nothing here is called before a person said that the
file is trusted. Even then there are two readers. `read_inert` serves data
(spaces, normalisers): it knows a short list of harmless constructors, and every
other name in the pickle becomes an empty stand-in that only remembers its
attributes, so neither foreign code nor a missing package (old ``gym``, another
NumPy's random state) matters. `read_trusted` serves classes (a policy's class
and its arguments) and imports what the pickle names.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections import OrderedDict, deque
from typing import Any, Final

import numpy as np

from policyctl.errors import UnsupportedError, UsageError


class Inert:
    """Stands in for an object that was pickled; holds its attributes and does nothing."""

    origin: str = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Inert:
        """Make an empty stand-in, whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> Inert:
        """Do nothing in place of a call."""
        return Inert()

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update({str(key): value for key, value in part.items()})

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _item: Any) -> None:
        """Ignore a list item of a stand-in."""

    def extend(self, _items: Any) -> None:
        """Ignore list items of a stand-in."""


def _core(module: str) -> str:
    """The installed NumPy's spelling of a ``numpy.core`` module."""
    home = "numpy._core" if int(np.__version__.split(".", maxsplit=1)[0]) >= 2 else "numpy.core"
    for old in ("numpy._core", "numpy.core"):
        if module == old or module.startswith(old + "."):
            return home + module[len(old) :]
    return module


_BUILTINS: Final = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, object)
}
_NUMPY_CORE: Final = {
    (".multiarray", "_reconstruct"),
    (".multiarray", "scalar"),
    (".numeric", "_frombuffer"),
}


def _harmless(module: str, name: str) -> Any:
    """The constructor that `module` and `name` stand for, or None where it is not on the list."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    if module == "builtins":
        return _BUILTINS.get(name)
    if (module, name) == ("collections", "OrderedDict"):
        return OrderedDict
    if (module, name) == ("collections", "deque"):
        return deque
    if (module, name) in {("copyreg", "_reconstructor"), ("_codecs", "encode")}:
        return getattr(importlib.import_module(module), name)
    for old in ("numpy._core", "numpy.core"):
        if module.startswith(old) and (module[len(old) :], name) in _NUMPY_CORE:
            return getattr(importlib.import_module(_core(module)), name)
    if module in {"numpy", "numpy.dtypes"}:
        found = getattr(np if module == "numpy" else np.dtypes, name, None)
        if isinstance(found, type) and (issubclass(found, np.generic | np.dtype) or found in (np.ndarray, np.dtype)):
            return found
    return None


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _harmless(module, name)
        if found is not None:
            return found
        return type(name.rpartition(".")[2], (Inert,), {"origin": f"{module}.{name}"})


class _TrustedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = _core(module)
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module[len("gym") :]
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise UnsupportedError(
                f"the file names {module}.{name}, which cannot be imported here ({error})",
                remedy="Install the package that the policy was trained with, or put its code on PYTHONPATH.",
            ) from error


def read_inert(content: bytes, *, what: str) -> Any:
    """Unpickle data; every class that is not on the short list becomes an `Inert` stand-in.

    Args:
        content: The pickle.
        what: What it is, for messages.

    Raises:
        UsageError: It is not a readable pickle.
    """
    return _read(_InertUnpickler(io.BytesIO(content)), what)


def read_trusted(content: bytes, *, what: str) -> Any:
    """Unpickle classes and their arguments. This runs whatever the pickle says.

    Args:
        content: The pickle.
        what: What it is, for messages.

    Raises:
        UsageError: It is not a readable pickle.
        UnsupportedError: It names code that is not installed.
    """
    return _read(_TrustedUnpickler(io.BytesIO(content)), what)


def _read(unpickler: pickle.Unpickler, what: str) -> Any:
    try:
        return unpickler.load()
    except UnsupportedError:
        raise
    # A damaged or foreign pickle can raise anything at all, by its nature.
    except Exception as error:
        raise UsageError(
            f"{what}: cannot be unpickled ({type(error).__name__}: {error})",
            remedy="Check that the file is complete, and that this Python is one that can read it.",
        ) from error


def require_trust(path_name: str, *, trusted: bool) -> None:
    """Refuse a file that holds pickles unless a person vouched for it.

    Raises:
        UsageError: `trusted` is False.
    """
    if not trusted:
        raise UsageError(
            f"{path_name} holds pickles, and reading a pickle runs whatever code its author put there",
            remedy="Only if you trust where the file came from, pass --trust-pickle (trust_pickle=True).",
        )
