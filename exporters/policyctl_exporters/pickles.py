"""Unpickle the classes that an archive names: a policy's class, and its arguments.

Unpickling runs code, so nothing here is called before a person said that the
file is trusted. Data (spaces, normalisers, observations) needs no code and is
read by `inert_pickle` instead.
"""

from __future__ import annotations

import io
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from policyctl.errors import UnsupportedError, UsageError
from policyctl.foreign_code import importable


def _core(module: str) -> str:
    """The installed NumPy's spelling of a ``numpy.core`` module."""
    home = "numpy._core" if int(np.__version__.split(".", maxsplit=1)[0]) >= 2 else "numpy.core"
    for old in ("numpy._core", "numpy.core"):
        if module == old or module.startswith(old + "."):
            return home + module[len(old) :]
    return module


class _TrustedUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, code: Path | None) -> None:
        super().__init__(io.BytesIO(content))
        self._code = code

    def find_class(self, module: str, name: str) -> Any:
        module = _core(module)
        if module == "__main__" and self._code is not None and self._code.is_file():
            # The script that trained it; here it is a module, so what it guards by __name__ does not run.
            module = self._code.stem
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module[len("gym") :]
        if module.partition(".")[0] == "sbx":
            raise UnsupportedError(
                f"the file is of SBX ({module}.{name}), whose policies compute with JAX",
                remedy="Write its layers as a torch module, FILE.py:callable, and hold that against its own answers by"
                " --answers: policyctl docs frameworks shows both for Brax.",
            )
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise UnsupportedError(
                f"the file names {module}.{name}, which cannot be imported here ({error})",
                remedy="Name the Python file that defines it, or the folder of its module: --code train.py"
                " (code='train.py'). Where it belongs to a package, install that.",
            ) from error


def read_trusted(content: bytes, *, what: str, code: Path | None = None) -> Any:
    """Unpickle classes and their arguments. This runs whatever the pickle says.

    Args:
        code: A Python file, or a folder of modules, that defines what the pickle names.

    Raises:
        UsageError: It is not a readable pickle.
        UnsupportedError: It names code that is not installed.
    """
    if code is not None and not (code.is_dir() or (code.suffix == ".py" and code.is_file())):
        raise UsageError(f"{code} is neither a Python file nor a folder", remedy="Name train.py, or its folder.")
    folder = Path() if code is None else code if code.is_dir() else code.parent
    try:
        with nullcontext() if code is None else importable(folder):
            return _TrustedUnpickler(content, code).load()
    except UnsupportedError:
        raise
    # A damaged or foreign pickle can raise anything at all, by its nature.
    except Exception as error:
        raise UsageError(
            f"{what}: cannot be unpickled ({type(error).__name__}: {error})",
            remedy="Check that the file is complete, and that this Python is one that can read it.",
        ) from error


def require_trust(path_name: str, *, trusted: bool) -> None:
    """Refuse a file that holds pickles unless a person vouched for it."""
    if not trusted:
        raise UsageError(
            f"{path_name} holds pickles, and reading a pickle runs whatever code its author put there",
            remedy="Only if you trust where the file came from, pass --trust-pickle (trust_pickle=True).",
        )
