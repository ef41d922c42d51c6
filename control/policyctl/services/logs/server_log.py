"""The log of a running server: its supervisor's lines, Triton's lines, and levels that change meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from policyctl import correlation
from policyctl.adapters.files import write_all
from policyctl.adapters.triton import Triton
from policyctl.domain.log_event import LogLevel
from policyctl.errors import ServerError
from policyctl.services.control import Control, silent
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.log import TRITON_LOG, Log, Sink, as_in_a_line, new_operation, open_file
from policyctl.services.logs.levels import wanted
from policyctl.services.logs.triton import level_of, models_of, triton_event
from policyctl.serving.logs import LogLine
from policyctl.settings import LogFormat

_LIBRARY_LEVELS: Final = {"warning": LogLevel.WARNING, "error": LogLevel.ERROR, "critical": LogLevel.ERROR}
_WAITING_LINES: Final = 1000
_LAST_WORDS_S: Final = 2.0


def to_stderr(line: str) -> None:
    """Write one line, past Python's own stream: the interpreter could not end while a thread waits in that."""
    with suppress(OSError):
        write_all(2, f"{line}\n".encode(errors="backslashreplace"))


class _Unhurried:
    """Hands lines on, on another thread: a stopped terminal, or a pipe that nobody reads, holds up nobody."""

    def __init__(self, write: Sink) -> None:
        self._write = write
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="words", daemon=True)
        self._thread.start()

    def __call__(self, line: str) -> None:
        """Take one line; never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Wait for what was taken, if it goes on; not for long."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=_LAST_WORDS_S)
            self._thread.join(timeout=_LAST_WORDS_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lost, self._lost = self._lost, 0
            if lost:
                self._write(f"{lost} lines are missing here: nobody read in time.")
            self._write(line)


class _Libraries(logging.Handler):
    """Gives what libraries log to a log of ours, from warnings up."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"error": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        level = _LIBRARY_LEVELS.get(record.levelname.lower(), LogLevel.WARNING)
        self._log.write(level, record.getMessage(), logger=record.name, **fields)


@contextmanager
def captured(log: Log) -> Iterator[None]:
    """While the block runs, libraries write their warnings and errors to `log`."""
    handler, root = _Libraries(log), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def serving(control: Control, *, api_key: str = "", name: str = "serve") -> Iterator[Control]:
    """Log as a server does while the block runs.

    Args:
        api_key: Of the restricted repository API, which no line may hold; empty for none.

    Yields:
        The control plane that speaks as the settings say: in words, or in JSON.
    """
    hidden = (as_in_a_line(api_key),) if api_key else ()
    log = replace(control.log, hidden=(*control.log.hidden, *hidden))
    in_json = control.settings.logs.format is LogFormat.JSON
    unhurried = _Unhurried(to_stderr if in_json else control.say)
    if in_json:
        control = replace(control, say=silent, log=replace(log, sinks=(*log.sinks, unhurried)))
    else:
        control = replace(control, say=unhurried, log=log)
    with (
        closing(unhurried),
        correlation.bound(operation=new_operation(name)),
        captured(control.log),
    ):
        yield control


@dataclass(slots=True)
class TritonLog:
    """Takes every line of Triton's log: to its file, and what matters to people.

    Attributes:
        known: Its journal, which says what the models are called.
        verbose: Pass on informational lines as well.
    """

    control: Control
    known: KnownJournal
    verbose: bool = False
    _log: Log = field(init=False)
    _stderr: tuple[Sink, ...] = field(init=False)
    _operation: str = field(default_factory=lambda: correlation.current().get("operation", ""))

    def __post_init__(self) -> None:
        logs = self.control.settings.logs
        file = open_file(self.control.repository.control, TRITON_LOG, logs)
        self._log = replace(self.control.log, sinks=(file.write,) if logs.file else ())
        # Where `serving` sends the lines of the control plane too.
        self._stderr = self.control.log.sinks[-1:] if logs.format is LogFormat.JSON else ()

    def __call__(self, line: LogLine) -> None:
        """Take one line."""
        matters = self.verbose or level_of(line).rank >= LogLevel.WARNING.rank
        if matters:
            self.control.say(f"triton {line.level}: {line.message}")
        sinks = (*self._log.sinks, *(self._stderr if matters else ()))
        if sinks:
            models = models_of(self.known.last.state)
            found = triton_event(line, models, datetime.now(UTC), operation=self._operation)
            replace(self._log, sinks=sinks).emit(found)


@dataclass(slots=True)
class LiveLevels:
    """Follows what is wished, and what is set, for one run of tritonserver.

    Attributes:
        control: The control plane; the level of its log is changed.
    """

    control: Control
    client: Triton
    _triton: LogLevel = LogLevel.INFO
    """What tritonserver logs by default."""

    def follow(self) -> None:
        """Take over what has changed; what Triton refuses is said, and tried again."""
        levels = wanted(self.control)
        if levels.control is not self.control.log.level:
            self.control.log.level = levels.control
            self.control.tell(f"The control plane logs from {levels.control} on.")
        if levels.triton is self._triton:
            return
        try:
            self._triton = self.client.log_level(levels.triton)
            self.control.tell(f"Triton logs from {self._triton} on.")
        except ServerError as error:
            self.control.tell(f"Triton's log level could not be changed: {error.problem}", level=LogLevel.WARNING)
