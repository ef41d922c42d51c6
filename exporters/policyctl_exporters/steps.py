"""The steps of an export: named, timed, and ended where the policy does not end.

A policy is a program, and may loop or wait for ever, in Python or in C++,
which no signal interrupts. So the steps run in a thread, and the caller's
thread waits: it ends a step at its limit, and hears Ctrl-C at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_stack
from typing import Final, TypeVar

from policyctl.errors import UnsupportedError, UsageError

_T = TypeVar("_T")

LIMIT_S: Final = 300.0

_THREAD: Final = "policyctl-export"
_TICK_S: Final = 0.2
_GRACE_S: Final = 2.0
_IMPORT_S: Final = 60.0
"""How long an import may go on that a limit would cut short; see `_imports`."""


def unfinished() -> bool:
    """Whether a step that was given up still runs; the interpreter does not end well with it."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


class Steps:
    """Says what is being done, measures how long each step took, and limits each."""

    def __init__(self, progress: Callable[[str], None] | None, *, limit_s: float = LIMIT_S) -> None:
        if not limit_s > 0:
            raise UsageError(f"the limit of a step is {limit_s} s", remedy="Give a positive number of seconds.")
        self.seconds: dict[str, float] = {}
        self._progress, self._limit_s = progress, limit_s
        self._current: tuple[str, float] | None = None

    def say(self, words: str) -> None:
        """Pass on what is being done."""
        if self._progress is not None:
            self._progress(words)

    @contextmanager
    def step(self, name: str, words: str) -> Iterator[None]:
        """One step, with its name and what it does."""
        self.say(words)
        begin = time.monotonic()
        current = self._current = words, begin
        try:
            yield
        finally:
            # A step that was given up may end while the next one runs.
            if self._current is current:
                self._current = None
        self.seconds[name] = time.monotonic() - begin

    def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns; it runs in a separate thread.

        Where it is given up, its thread ends as soon as Python code of it
        runs again. A loop in C++ goes on until the process ends.
        """
        results: list[_T] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def body() -> None:
            with contextlib.suppress(_GivenUpError):
                try:
                    results.append(work())
                # Everything goes to the caller.
                except BaseException as error:  # noqa: BLE001
                    errors.append(error)
                finally:
                    done.set()

        thread = threading.Thread(target=body, name=_THREAD, daemon=True)
        thread.start()
        try:
            while not done.wait(_TICK_S):
                self._require_in_time()
        except UnsupportedError:
            _let_import(thread)
            _end(thread)
            raise
        except BaseException:
            _end(thread)
            raise
        if errors:
            raise errors[0]
        return results[0]

    def _require_in_time(self) -> None:
        current = self._current
        if current is not None and time.monotonic() - current[1] > self._limit_s:
            raise UnsupportedError(
                f"could not {current[0]} within {self._limit_s:g} s: the policy does not end, or needs longer",
                remedy="Look for a loop or a wait in the policy. Or give each step more time: --step-limit SECONDS,"
                " step_limit_s=.",
            )


class _GivenUpError(BaseException):
    """Raised in the thread of a step that was given up; no handler of `Exception` keeps it going."""


def _let_import(thread: threading.Thread) -> None:
    """Wait while the thread imports: modules that are cut short stay half-made, and fail whatever comes later."""
    until = time.monotonic() + _IMPORT_S
    while thread.is_alive() and _imports(thread) and time.monotonic() < until:
        thread.join(_TICK_S)


def _imports(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    frames = walk_stack(frame) if frame is not None else ()
    return any(each.f_code.co_filename.startswith("<frozen importlib") for each, _ in frames)


def _end(thread: threading.Thread) -> None:
    """Raise in the thread until it ends: an error that a destructor or a callback meets is lost."""
    until = time.monotonic() + _GRACE_S
    while thread.is_alive() and time.monotonic() < until:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_GivenUpError))
        thread.join(_TICK_S)
