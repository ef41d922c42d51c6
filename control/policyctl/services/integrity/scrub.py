"""Scrub: read every published file again and again, slowly, and say so at the first wrong byte.

A disk that rots, and a hand that slips, are found before the next promotion
needs the file. What is served meanwhile is not touched: backends hold in memory
what was verified when it was loaded.

It reads past the page cache, so that it sees the disk and crowds nothing out,
at a bounded rate, from a thread of the supervisor (not of tritonserver) with
the lowest priority. Where the processor's priority is lowest, Linux gives the
lowest I/O priority too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from policyctl.adapters.repository import Repository
from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.instants import utc_text
from policyctl.domain.log_event import LogLevel
from policyctl.domain.manifest import difference
from policyctl.domain.names import PRODUCTION, served_name
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError, PolicyctlError
from policyctl.hashing import hash_file
from policyctl.integrity import read_manifest
from policyctl.release_files import list_files
from policyctl.services.control import Control

CONFIRM_S: Final = 1.0
"""A wrong file is looked at again after this: a move, a repair or a gc may just have replaced it."""
FILE: Final = "scrub.json"
_NICE: Final = 19
_LOOK_S: Final = 1.0
"""How often a scrub that rests looks whether it may go on."""
_LOGGER: Final = "policyctl.scrub"


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is not as published.

    Attributes:
        what: ``walker 1.0.0 (slot 1)``, ``walker.staging slot 1``.
        problem: Names the file.
        since: When it was first seen.
    """

    what: str
    problem: str
    since: str


@dataclass(frozen=True, slots=True)
class ScrubState:
    """What the scrub has seen; counters only grow while one server runs.

    Attributes:
        started: When this scrub began.
        passes: How many times everything was read.
        files: How many files were read.
        bytes_read: How many bytes.
        last_pass: When the last whole pass ended; empty before that.
        last_pass_s: How long it took.
        found: How many times something wrong was found.
        wrong: What is wrong now.
    """

    started: str
    passes: int = 0
    files: int = 0
    bytes_read: int = 0
    last_pass: str = ""
    last_pass_s: float = 0.0
    found: int = 0
    wrong: tuple[Wrong, ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        if self.wrong:
            first = self.wrong[0]
            where = f"{first.what}: {first.problem} (since {utc_text(first.since)})"
            return f"NOT INTACT: {len(self.wrong)} found, first {where}"
        if not self.passes:
            return f"first pass under way since {utc_text(self.started)}, {self.files} files intact so far"
        passes = "1 pass, it" if self.passes == 1 else f"{self.passes} passes, the last"
        return f"{passes} ended {utc_text(self.last_pass)} after {self.last_pass_s:.0f} s: intact"


def last_state(repository: Repository) -> ScrubState | None:
    """What the scrub of the server last wrote down; None where there is nothing that it wrote.

    Raises:
        UsageError: This process may not read it.
    """
    return repository.read_value(FILE, ScrubState)


class _StoppedError(Exception):
    """The server is stopping."""


@dataclass(slots=True)
class Scrubber:
    """Reads one repository over and over.

    Attributes:
        control: The control plane; its settings say how slowly.
        stop: Set it to end within one part of a file.
        state: What was seen so far; replaced as a whole, so any thread may read it.
    """

    control: Control
    stop: threading.Event
    state: ScrubState = field(default_factory=lambda: ScrubState(_now()))
    clock: Callable[[], float] = time.monotonic
    _due: float = 0.0

    @contextmanager
    def running(self) -> Iterator[ScrubState]:
        """Scrub in another thread while the block runs; it rests while the settings say so."""
        # A thread begins without what is bound here, the operation that its lines belong to.
        thread = threading.Thread(target=copy_context().run, args=(self._run,), name="scrub", daemon=True)
        thread.start()
        try:
            yield self.state
        finally:
            self.stop.set()
            thread.join(timeout=2.0)

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self.stop.is_set():
            if not self.control.settings.scrub.enabled:
                self.stop.wait(_LOOK_S)
                continue
            with suppress(_StoppedError):
                self._keep()
                try:
                    self.one_pass()
                except PolicyctlError as error:
                    words = f"The scrub cannot read the repository: {error.problem}"
                    self.control.tell(words, level=LogLevel.ERROR, logger=_LOGGER)
                self._pause()

    def _pause(self) -> None:
        """Wait between two passes, as long as the settings say meanwhile."""
        ended = self.clock()
        while (left := ended + self.control.settings.scrub.pause_s - self.clock()) > 0:
            if self.stop.wait(min(left, _LOOK_S)) or not self.control.settings.scrub.enabled:
                return

    def one_pass(self) -> None:
        """Read everything once.

        Raises:
            IntegrityError: The journal was tampered with.
            UsageError: The repository cannot be read.
        """
        started = self._due = self.clock()
        wrong: dict[str, str] = {}
        for what, folder, release in _folders(self.control.repository):
            for name, problem in self._problems(folder, release):
                # What is wrong is reported at once, and what was repaired at the end of the pass.
                if self._confirmed(what, folder, release, name):
                    wrong[what] = wrong.get(what, problem)
                    self._tell(what, problem)
        repaired = [w.what for w in self.state.wrong if w.what not in wrong]
        self.state = replace(
            self.state,
            wrong=tuple(w for w in self.state.wrong if w.what in wrong),
            passes=self.state.passes + 1,
            last_pass=_now(),
            last_pass_s=round(self.clock() - started, 3),
        )
        self._keep()
        for what in repaired:
            self.control.tell(f"{what} is intact again, or gone.", logger=_LOGGER)

    def _problems(self, folder: Path, release: PublishedRelease) -> Iterator[tuple[str, str]]:
        """Path and problem of everything in `folder` that is not as published."""
        try:
            manifest, _ = read_manifest(folder, release.manifest_digest)
        except IntegrityError as error:
            yield MANIFEST_FILE, error.problem
            return
        want = {entry.path: entry for entry in manifest.files}
        try:
            strangers = set(list_files(folder)) - want.keys() - {MANIFEST_FILE}
        except IntegrityError as error:
            yield "", error.problem
            strangers = set()
        for path in sorted(strangers):
            yield path, difference(path, None, None)
        for path, entry in want.items():
            try:
                found = hash_file(folder, path, entry.size_bytes, on_chunk=self._wait, past_cache=True)
                problem = difference(path, entry, found)
            except IntegrityError as error:
                problem = error.problem
            self.state = replace(self.state, files=self.state.files + 1)
            if problem:
                yield path, problem

    def _confirmed(self, what: str, folder: Path, release: PublishedRelease, path: str) -> bool:
        """Whether what was wrong is there still, and still wrong, a moment later."""
        if any(w.what == what for w in self.state.wrong):
            return True
        if self.stop.wait(CONFIRM_S):
            raise _StoppedError
        now = {(w, f, r.manifest_digest) for w, f, r in _folders(self.control.repository)}
        if (what, folder, release.manifest_digest) not in now:
            return False
        return _still_wrong(folder, release, path)

    def _tell(self, what: str, problem: str) -> None:
        if any(w.what == what for w in self.state.wrong):
            return
        wrong = (*self.state.wrong, Wrong(what, problem, _now()))
        self.state = replace(self.state, wrong=wrong, found=self.state.found + 1)
        self._keep()  # before the line: a reader who then runs `status` finds the same there
        self.control.tell(
            f"CORRUPT {what}: {problem}. What is served was verified when it was loaded and goes on;"
            " see policyctl verify, and policyctl repair --dry-run.",
            level=LogLevel.ERROR,
            logger=_LOGGER,
        )

    def _wait(self, count: int) -> None:
        """Let the time pass that `count` bytes may take."""
        self.state = replace(self.state, bytes_read=self.state.bytes_read + count)
        self._due = max(self._due, self.clock()) + count / self.control.settings.scrub.bytes_per_s
        if self.stop.wait(max(0.0, self._due - self.clock())) or not self.control.settings.scrub.enabled:
            raise _StoppedError

    def _keep(self) -> None:
        with suppress(PolicyctlError):  # a full disk must not end the scrub
            self.control.repository.write_value(FILE, self.state)


def _still_wrong(folder: Path, release: PublishedRelease, path: str) -> bool:
    try:
        manifest, _ = read_manifest(folder, release.manifest_digest)
        present = set(list_files(folder))
        if path in {"", MANIFEST_FILE}:
            return False
        found = hash_file(folder, path) if path in present else None
    except IntegrityError:
        return True
    return bool(difference(path, next((f for f in manifest.files if f.path == path), None), found))


def _folders(repository: Repository) -> list[tuple[str, Path, PublishedRelease]]:
    """Every folder that must be a release: slots, and aliases' copies that are no links to them."""
    state = repository.journal.state()
    found = [
        (f"{r.model} {r.release} (slot {r.slot})", repository.slot(r.model, r.slot), r)
        for r in state.releases.values()
        if not r.collected
    ]
    return found + _copies(repository, state)


def _copies(repository: Repository, state: State) -> list[tuple[str, Path, PublishedRelease]]:
    found = []
    for (model, alias), named in sorted(state.aliases.items()):
        release = state.releases[model, named.placement.release]
        served = served_name(model, alias)
        folder = repository.served_slot(served, named.placement.slot)
        if alias != PRODUCTION and not repository.shares_slot(served, named.placement.slot):
            found.append((f"{served} slot {named.placement.slot}", folder, release))
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
