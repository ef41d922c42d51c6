"""Take changed settings over while serving: whole or not at all, and without touching a request.

Files are looked at once a second. What has changed, and then stayed the same for
one more look (an editor may be writing it), is read whole and validated whole,
by the rules of the profile as well. Then one value is put in the place of
another, which the supervisor, the prober and the scrub read as they go. Nothing
of Triton's is touched: no reload of settings loads a model.

Broken settings are refused with everything that is wrong in them, and the old
ones stay in force. What only a start can change is reported and waits for one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import endpoint as endpoints
from policyctl.config.keys import Applies, flat, key_at, keys, masked, value_at
from policyctl.config.layers import setters
from policyctl.config.reading import Reading, check_rules
from policyctl.domain.log_event import LogLevel
from policyctl.errors import PolicyctlError, UsageError
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.settings import Settings
from policyctl.signals import reread_on_hangup

Stat = tuple[int, int, int, int] | None
LOOK_S: Final = 1.0
"""How often the files are looked at."""
_LATER: Final = frozenset({Applies.START})


@dataclass(frozen=True, slots=True)
class ReloadCounts:
    """What became of the reloads of one run; they only grow.

    Attributes:
        applied: Changed something.
        refused: Were broken; the settings went on as they were.
        unchanged: Found nothing to change, or only what waits for a restart.
        last_applied_s: When one last changed something, seconds since the epoch; 0 for never.
    """

    applied: int = 0
    refused: int = 0
    unchanged: int = 0
    last_applied_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is another.

    Attributes:
        before: Its value, as it may be shown.
        place: Where the other is set.
    """

    name: str
    before: Any
    after: Any
    place: str

    @property
    def words(self) -> str:
        """``scrub.pause_s 600.0 -> 60.0 (policyctl.yaml:7)``."""
        both = "changed" if self.before == self.after else f"{shown(self.before)} -> {shown(self.after)}"
        return f"{self.name} {both} ({self.place})"


def shown(value: Any) -> str:
    """A value on a line: an empty one is seen as well."""
    return repr(value) if value == "" else str(value) if isinstance(value, str) else json.dumps(value)


@dataclass(slots=True)
class Reloader:
    """Keeps the settings of one control plane as its files are.

    Attributes:
        control: The control plane; its `settings` are replaced.
        reading: What is in force was made of; what was read last, where that was whole.
        reread: Set it to have the files read at once.
        announces: Whether it writes down what is in force; only the process that serves does.
        counts: What became of the reloads; replaced as a whole, so any thread may read it.
        waiting: What a start would change.
    """

    control: Control
    reading: Reading[Settings]
    stop: threading.Event
    reread: threading.Event = field(default_factory=threading.Event)
    announces: bool = True
    counts: ReloadCounts = ReloadCounts()
    waiting: tuple[Change, ...] = ()
    _watched: tuple[Path, ...] = ()
    _seen: Mapping[Path, Stat] = field(default_factory=dict)
    _candidate: Mapping[Path, Stat] = field(default_factory=dict)
    _was_refused: bool = False
    _data: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look in another thread while the block runs; SIGHUP has the files read at once."""
        self.start()
        # A thread begins without what is bound here, the operation that its lines belong to.
        thread = threading.Thread(target=copy_context().run, args=(self._run,), name="settings", daemon=True)
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                stack.enter_context(reread_on_hangup(self.reread, self.stop))
            thread.start()
            try:
                yield
            finally:
                self.stop.set()
                self.reread.set()
                thread.join(timeout=2.0)
                if self.announces:
                    running.clear(self.control.repository)

    def _say(self, words: str, level: LogLevel = LogLevel.INFO) -> None:
        self.control.tell(words, level=level, logger="policyctl.settings")

    def start(self) -> None:
        """From here on changes count."""
        self._data, self._watched = self.reading.data, self.reading.watched
        self._seen = self._candidate = _stats(self._watched)
        self._tell()

    def _run(self) -> None:
        while not self.stop.is_set():
            asked = self.reread.wait(LOOK_S)
            self.reread.clear()
            if not self.stop.is_set():
                self.look(asked=asked)

    def look(self, *, asked: bool = False) -> None:
        """Look at the files once, and take over what has changed and been left alone since the look before.

        Args:
            asked: Read them at once, changed or not.
        """
        now = _stats(self._watched)
        if asked or (now != self._seen and now == self._candidate):
            self.reload(asked=asked)
            # Other files may be watched now; of the others, what counts is how they were before they were read.
            self._seen = _stats(self._watched) | {path: now[path] for path in self._watched if path in now}
        self._candidate = now

    def reload(self, *, asked: bool = False) -> None:
        """Read the files now, and take them over if they are whole."""
        try:
            found = self.reading.source.read()
            self._watched = tuple(dict.fromkeys((*found.watched, *self.reading.watched)))
            self._refuse_lost(found)
            settings = self._composed(found)
        except Exception as error:  # noqa: BLE001 - whatever a file holds, serving goes on
            problem = error.problem if isinstance(error, PolicyctlError) else f"{type(error).__name__}: {error}"
            self.counts = replace(self.counts, refused=self.counts.refused + 1)
            self._was_refused = True
            self._say(f"REFUSED {problem}. The settings go on as they are.", LogLevel.ERROR)
        else:
            self._take(found, settings, asked=asked)
        self._tell()

    def _take(self, found: Reading[Settings], settings: Settings, *, asked: bool) -> None:
        changes = compared(self.control.settings, settings, found)
        warnings = [words for words in found.warnings if words not in self.reading.warnings]
        waiting = compared(settings, found.require(), found)
        self.control.settings = settings
        self.reading, self._data = found, _chosen(self._data, found)
        if changes:
            self.counts = replace(self.counts, applied=self.counts.applied + 1, last_applied_s=time.time())
            self._say(f"Settings reloaded: {'; '.join(c.words for c in changes)}.")
        else:
            self.counts = replace(self.counts, unchanged=self.counts.unchanged + 1)
            if asked or self._was_refused:
                self._say("Settings read again: nothing to change.")
        if waiting and waiting != self.waiting:
            named = "; ".join(c.words for c in waiting)
            self._say(f"Not applied, for policyctl serve must be started again for it: {named}.")
        for words in warnings:
            self._say(f"WARNING: {words}.", LogLevel.WARNING)
        self.waiting, self._was_refused = waiting, False

    def _refuse_lost(self, found: Reading[Settings]) -> None:
        """A missing file does not mean a wish to go back to the defaults."""
        there = set(found.files)
        lost = [path for path in self.reading.files if path not in there]
        if len(there) < len(self.reading.files) and found.profile == self.reading.profile:
            raise UsageError(
                f"settings: {', '.join(map(str, lost))} is gone; to do without it, start policyctl serve again"
            )

    def _composed(self, found: Reading[Settings]) -> Settings:
        """What would be in force: the new settings, but what only a start can change."""
        found.require()
        settings = Settings(**_chosen(self._data, found))
        if problems := check_rules(found.profile, settings, found.layers):
            words = "; ".join(p.words for p in problems)
            raise UsageError(f"settings: not before policyctl serve is started again: {words}")
        return settings

    def _tell(self) -> None:
        """Write down what is in force, for `policyctl config diff`."""
        if not self.announces:
            return
        in_force = running.Running(
            supervisor=endpoints.THIS_PROCESS,
            profile=self.reading.profile,
            files=[str(path) for path in self.reading.files],
            settings={".".join(path): value for path, value in masked(self.control.settings).items()},
            places=places(self.reading),
            waiting={c.name: (c.before, c.after) for c in self.waiting},
            applied=self.counts.applied,
            refused=self.counts.refused,
            unchanged=self.counts.unchanged,
            last_applied_s=self.counts.last_applied_s,
        )
        try:
            running.write(self.control.repository, in_force)
        except PolicyctlError as error:  # a full disk must not end the server
            self._say(f"What is in force cannot be written down: {error.problem}", LogLevel.ERROR)


def compared(before: Settings, after: Settings, reading: Reading[Settings]) -> tuple[Change, ...]:
    """Every setting that differs; a secret that is another is named without either."""
    old, new, where = masked(before), masked(after), places(reading)
    found = []
    for path in old:
        if value_at(before, path) != value_at(after, path):
            name = ".".join(path)
            found.append(Change(name, old[path], new[path], where.get(name, "default")))
    return tuple(found)


def places(reading: Reading[Settings]) -> dict[str, str]:
    """Where each setting was set that is not as by default."""
    by = {key.name: setters(Settings, reading.layers, key.path) for key in keys(Settings).values()}
    return {name: found[0].place for name, found in by.items() if found}


def _chosen(old: Mapping[str, Any], found: Reading[Settings]) -> dict[str, Any]:
    """What the layers set, but as it was where only a start can change it."""
    chosen: dict[str, Any] = {}
    for data, later in ((found.data, False), (old, True)):
        for path, value in flat(Settings, data).items():
            key = key_at(Settings, path)
            if key is None or (key.applies in _LATER) is not later:
                continue
            here = chosen
            for part in path[:-1]:
                here = here.setdefault(str(part), {})
            here[str(path[-1])] = value
    return chosen


def _stats(paths: tuple[Path, ...]) -> dict[Path, Stat]:
    """What shows that a file changed, or is gone."""
    found: dict[Path, Stat] = {}
    for path in paths:
        try:
            status = path.stat()
            found[path] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except OSError:
            found[path] = None
    return found
