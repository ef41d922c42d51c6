"""A node of a fleet: a server whose aliases follow the journal of a store.

It runs inside `policyctl serve`. Three threads do its work: one follows what
the journal commits, one loads and certifies what is about to be committed, one
reports. Each move of the fleet becomes an ordinary move of this repository, so
no request is lost and the repository's own journal says what happened here.

Before the server starts, an alias that names something else than the store says
is taken out of service. So a node that comes back serves nothing of old.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from policyctl import __version__
from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal, read_report, write_report
from policyctl.adapters.pbtxt import generation_of
from policyctl.adapters.repository import Repository
from policyctl.domain.choices import Engine
from policyctl.domain.fleet import FleetMove, FleetState, Named, NodeReport, Serving, StoredRelease
from policyctl.domain.log_event import LogLevel
from policyctl.domain.manifest import digest_of
from policyctl.domain.moves import Move, MoveKind
from policyctl.domain.names import served_name
from policyctl.domain.probes import AliasKey
from policyctl.errors import IntegrityError, PolicyctlError, ServerError, UsageError
from policyctl.services.control import Control
from policyctl.services.fleet.tidy import collect
from policyctl.services.moves.removal import end_unfinished, forget, unserve
from policyctl.services.moves.validate import require_passed, validate
from policyctl.services.observed import Followed, Observed
from policyctl.services.releases.transfer import import_release
from policyctl.services.rollout.promote import promote
from policyctl.settings import CutOff, SignatureRule

RETRY_S: Final = (1.0, 5.0, 15.0, 60.0)
"""How soon a move that failed is tried again."""
_LOCK_WAIT_S: Final = 60.0
"""For the writer lock: a release that is being certified holds it while it is loaded."""
_JOIN_S: Final = 2.0
_TIDY_S: Final = 3600.0
_ANSWER_S: Final = 5.0
"""For one answer of the store: what a node reads and writes is small."""
_AT_ONCE_S: Final = 1.0
_REPORTS_A_LEASE: Final = 4
_KEPT: Final = 99
"""Moves that a report speaks of."""
_LOGGER: Final = "policyctl.fleet"


def follow(control: Control, observed: Observed, stop: threading.Event) -> AbstractContextManager[None]:
    """Run a node next to the supervisor.

    Raises:
        UsageError: Somebody else runs the server, which goes on with what it has while this process is away.
        PolicyctlError: The settings name no store that can be used, or what was read of it was changed.
    """
    if control.settings.server.engine is Engine.EXTERNAL:
        raise UsageError(
            "a node of a fleet starts its Triton itself, and engine is external: what such a server has loaded would"
            " be served on while nobody follows the store",
            remedy="Take --engine embedded or docker.",
        )
    return Node(control, observed, stop).running()


@dataclass(slots=True)
class Node:
    """Keeps one server at what the store's journal says.

    Attributes:
        control: The control plane of the node's own repository.
        observed: What the supervisor sees of the server.
        stop: Ends it.
        name: Of the node.
        clock: Monotonic, in seconds.
    """

    control: Control
    observed: Observed
    stop: threading.Event
    name: str = ""
    clock: Callable[[], float] = time.monotonic
    _journal: FleetJournal = field(init=False)
    _run: str = field(default_factory=lambda: secrets.token_hex(8))
    _state: FleetState = field(default_factory=FleetState)
    _changed: threading.Event = field(default_factory=threading.Event)
    _prepared: tuple[str, ...] = ()
    _problems: dict[str, str] = field(default_factory=dict)
    _failures: dict[str, tuple[int, float]] = field(default_factory=dict)
    _imported: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read_at: float = 0.0
    _read_s: float = 0.0
    _held_at: float = 0.0
    _tidied_at: float = 0.0
    _said: str = ""
    _failed: str = ""
    _beat: int = 0
    _namesake: tuple[str, int] = ("", 0)
    _joined: bool = False

    def __post_init__(self) -> None:
        settings, repository = self.control.settings.fleet, self.control.repository
        self.name = self.name or settings.node or socket.gethostname().lower()
        self._read_at = self._tidied_at = self.clock()
        copy = repository.control / f"fleet-{digest_of(settings.store.encode())[7:19]}.jsonl"
        # One silent request must not last longer than the lease, nor hold up the start of a server for long.
        patience_s = min(settings.lease_s, _ANSWER_S)
        self._journal = FleetJournal(Bucket(settings.store, patience_s=patience_s), self.name, copy)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Come to what the store says, and follow it while the block runs; it sets `stop` at its end.

        Raises:
            IntegrityError: The store's journal is broken, or an older copy was put in its place.
        """
        self.observed.behind = "this node begins"
        self.begin()
        work: dict[str, Callable[[], None]] = {
            "fleet": partial(self._again, self._follow_and_say),
            "fleet-prepare": partial(self._again, self.prepare),
            "fleet-lease": partial(self._again, self.keep_lease),
            "fleet-report": self._report_again,
        }
        threads = [threading.Thread(target=each, name=name, daemon=True) for name, each in work.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            self._changed.set()
            deadline = time.monotonic() + _JOIN_S
            for thread in threads:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def begin(self) -> None:
        """Take out of service what the store does not name any more, before the server starts."""
        store = self.control.settings.fleet.store
        try:
            self._read_first()
            self._tell(f"Node {self.name} follows {store}, {len(self._journal.records)} records.")
        except PolicyctlError as error:
            self._state = self._journal.state
            withdraws = self.control.settings.fleet.when_cut_off is CutOff.WITHDRAW
            then = "nothing of it is served" if withdraws else "what it said last is served"
            self._tell(f"{error.problem}: {then} until it can be read. {error.remedy}", LogLevel.ERROR)
            if withdraws:
                self._forget(lambda _key: True, "the store cannot be read", finishes=False)
                return
        self._forget(
            lambda key: key in self._state.aliases and not self._serves_named(key), "the store names something else"
        )

    def _read_first(self) -> None:
        """Read the store; once more where that fails at once: one lost answer must not start an older release."""
        begun = self.clock()
        for is_last in (False, True):
            try:
                self._journal.require_not_older()
                self._state = self._journal.read()
                return
            except ServerError:
                if is_last or self.clock() - begun > _AT_ONCE_S:
                    raise

    def _forget(self, is_wrong: Callable[[AliasKey], bool], reason: str, *, finishes: bool = True) -> None:
        """Have the next server load nothing wrong, nor finish a move to it that a crash left open."""
        mine = self._mine(self.name)
        state = mine.repository.journal.state()
        unfinished = [each.move for each in state.unfinished.values()]
        open_moves = [move for move in unfinished if not (finishes and self._is_wanted(move))]
        aliases = [key for key in sorted(state.aliases) if is_wrong(key)]
        if not open_moves and not aliases:
            return
        with mine.repository.writer("come to what the store says", wait_s=_LOCK_WAIT_S):
            for move in open_moves:
                self._tell(f"The {move.words}, which a crash left open, is ended here: {reason}.", LogLevel.WARNING)
                end_unfinished(mine, move)
            for model, alias in aliases:
                self._tell(f"{alias} of {model} is taken out of service here: {reason}.", LogLevel.WARNING)
                forget(mine, model=model, alias=alias, reason=reason)

    def _is_wanted(self, move: Move) -> bool:
        """Whether a move that a crash left open leads to what the store names."""
        named = self._state.aliases.get((move.model, move.alias))
        if named is None:
            return True
        target = None if move.kind is MoveKind.REMOVAL else move.target.manifest_digest
        return target == (None if named.target is None else named.target.manifest_digest)

    def follow(self) -> None:
        """Read the store's journal, and move here what it names otherwise."""
        before = self._journal.records
        try:
            self._state = self._journal.read()
            if self._journal.records is before and self.clock() - self._held_at > self.control.settings.fleet.lease_s:
                self._journal.require_not_older()
                self._held_at = self.clock()
        except PolicyctlError as error:
            self._note(is_read=False)
            self._cannot_read(error)
            return
        self._can_read()
        self._note(is_read=True)
        for key, named in sorted(self._state.aliases.items()):
            if not self._is_at(key):
                self._follow(key, named)
                self._note(is_read=True)

    def _follow_and_say(self) -> None:
        self.follow()
        self.observed.behind = self.behind()

    def behind(self) -> str:
        """Why this node should get no requests, as a phrase; empty where it should.

        It joins once it serves everything as the store names it, and stays as long as it serves anything of that:
        what no node can serve must not end what they serve besides.
        """
        serving = self._served()
        late = [f"{each.alias} of {each.model}" for each in serving if not self._is_right(each)]
        if self._said and not self._journal.records:
            return "the store was not read yet"
        self._joined = self._joined or not late
        if not self._joined:
            return f"{', '.join(late)}: not served as the store names it"
        is_named = any(each.target is not None for each in self._state.aliases.values())
        is_served = any(each.release is not None for each in serving)
        return "nothing of what the store names is served here" if is_named and not is_served else ""

    def _is_right(self, serving: Serving) -> bool:
        """Whether an alias is served by the release that the store names, be it of an earlier generation."""
        serves_named = serving.release is not None and self._serves_named((serving.model, serving.alias))
        return serving.generation is not None or serves_named

    def prepare(self) -> None:
        """Load and certify the release of each open move, next to what is served; now and then make room."""
        for opened in self._state.open.values():
            move = opened.move
            if move.target is not None and move.id not in self._prepared and move.id not in self._problems:
                self._prepare(move, move.target, opened.actor)
        if self.clock() - self._tidied_at > _TIDY_S:
            self._tidied_at = self.clock()
            for release in collect(self._mine(self.name), self._journal.bucket, lambda: self._state):
                self._tell(f"{release.model} {release.release} is in the store, and its files are not kept here.")

    def _again(self, work: Callable[[], None]) -> None:
        """Do some work again and again, while there is a server to do it on."""
        while not self.stop.wait(self.control.settings.fleet.look_s):
            with self._goes_on():
                if endpoints.read(self.control.repository) is not None:
                    work()

    @contextmanager
    def _goes_on(self) -> Iterator[None]:
        """Whatever fails within is said, and done again later: a thread that ends would leave the node behind."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            words = error.problem if isinstance(error, PolicyctlError) else f"{type(error).__name__}: {error}"
            if words != self._failed:
                self._tell(f"This node could not do its work, and tries again: {words}", LogLevel.ERROR)
            self._failed = words

    def _can_read(self) -> None:
        self._read_at, self._read_s = self.clock(), time.time()
        if self._said:
            self._tell(f"{self.control.settings.fleet.store} can be read again.")
            self._said = ""

    def _cannot_read(self, error: PolicyctlError) -> None:
        """Say it once."""
        if error.problem != self._said:
            self._said = error.problem
            self._tell(f"{error.problem}. {error.remedy}", LogLevel.ERROR, code=error.code)

    def keep_lease(self) -> None:
        """Withdraw what cannot be proven current, where the settings ask for that; no other work is waited for."""
        settings = self.control.settings.fleet
        if settings.when_cut_off is CutOff.KEEP or self.clock() - self._read_at < settings.lease_s:
            return
        try:
            # The thread that follows may be at work on a long move.
            self._journal.look()
        except PolicyctlError as error:
            self._cannot_read(error)
        else:
            self._read_at = self.clock()
            return
        reason = f"the store could not be read for {settings.lease_s:g} s"
        served = self.control.repository.journal.state().aliases.keys()
        for key in sorted(self._state.aliases.keys() & served):
            # Before the writer lock, which somebody may hold for a minute.
            with suppress(PolicyctlError), self.control.triton() as client:
                client.unload(served_name(*key))
            withdraw = partial(unserve, model=key[0], alias=key[1], reason=reason)
            self._try(f"cut off: {'.'.join(key)}", withdraw)

    def _follow(self, key: AliasKey, named: Named) -> None:
        model, alias = key
        reason = f"generation {named.generation} of the fleet: {named.move.reason}".rstrip(": ")

        def move(control: Control) -> None:
            if named.target is None:
                unserve(control, model=model, alias=alias, reason=reason)
                return
            self._import(control, model, named.target)
            # Its contract and its gates were judged before the commit; its signature is judged here as well.
            promote(
                control,
                model=model,
                release=named.target.release,
                alias=alias,
                reason=reason,
                gates=(),
                bake=False,
                breaking=True,
                drain_s=None if named.move.kind is MoveKind.PROMOTION else 0.0,
                await_drain=False,
                generation=named.generation,
            )

        self._try(named.move.id, move, actor=named.actor)

    def _prepare(self, move: FleetMove, target: StoredRelease, actor: str) -> None:
        control = self._mine(actor)
        try:
            self._import(control, move.model, target)
            require_passed(validate(control, model=move.model, release=target.release), move.model, target.release)
        except PolicyctlError as error:
            self._problem(move.id, error)
        else:
            self._prepared = (*self._prepared[-_KEPT:], move.id)
        self._changed.set()

    def _import(self, control: Control, model: str, target: StoredRelease) -> None:
        """Have the release here, byte for byte as the commit names it."""
        known = control.repository.journal.state().releases.get((model, target.release))
        is_here = known is not None and not known.collected and known.manifest_digest == target.manifest_digest
        signatures = control.settings.integrity.signatures is not SignatureRule.OFF
        # Another artifact of the same files has other signatures.
        if not is_here or (signatures and target.artifact not in self._imported):
            source = f"{control.settings.fleet.store}@{target.artifact}"
            done = import_release(control, source, digest=target.artifact, wait_s=_LOCK_WAIT_S)
            if (done.model, done.release, done.manifest_digest) != (model, target.release, target.manifest_digest):
                raise IntegrityError(
                    f"{source} is {done.model} {done.release} ({done.manifest_digest}), the store's journal says"
                    f" {model} {target.release} ({target.manifest_digest})",
                    remedy="Put the release there again, and promote it again.",
                )
            self._imported.add(target.artifact)

    def _try(self, work_id: str, work: Callable[[Control], Any], *, actor: str = "") -> None:
        """Do something, unless it failed just now."""
        failures, not_before = self._failures.get(work_id, (0, 0.0))
        if self.clock() < not_before:
            return
        try:
            work(self._mine(actor or self.name))
        except PolicyctlError as error:
            self._failures[work_id] = (failures + 1, self.clock() + RETRY_S[min(failures, len(RETRY_S) - 1)])
            self._problem(work_id, error)
        else:
            self._failures.pop(work_id, None)
            with self._lock:
                self._problems = {key: value for key, value in self._problems.items() if key != work_id}
        self._changed.set()

    def _report_again(self) -> None:
        while not self.stop.is_set():
            with self._goes_on():
                self.report()
            self._changed.wait(self.control.settings.fleet.lease_s / _REPORTS_A_LEASE)
            self._changed.clear()
        with self._goes_on():
            self.report(stopped=True)

    def report(self, *, stopped: bool = False) -> None:
        """Write what this node serves, and what it could not do."""
        bucket = self._journal.bucket
        self._beat += 1
        endpoint = endpoints.read(self.control.repository)
        report = NodeReport(
            node=self.name,
            run=self._run,
            beat=self._beat,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            policyctl=__version__,
            endpoint="" if endpoint is None else endpoint.grpc,
            read=len(self._journal.records),
            prepared=self._prepared,
            problems=dict(self._problems),
            serves=() if endpoint is None else self._served(),
            lease_s=self.control.settings.fleet.lease_s,
            stopped=stopped,
        )
        try:
            with suppress(IntegrityError):  # it is written over
                self._look_for_namesake(bucket)
            write_report(bucket, report)
        except PolicyctlError as error:
            self._tell(f"The store does not take this node's report: {error.problem}.", LogLevel.DEBUG)

    def _look_for_namesake(self, bucket: Bucket) -> None:
        """Two nodes of one name would write over one another's reports."""
        found = read_report(bucket, self.name)
        if found is None or found.run == self._run or found.stopped:
            return
        run, beat = self._namesake
        if run == found.run and beat >= 0:
            if found.beat <= beat:
                return
            self._tell(
                f"Another node writes reports by the name {self.name}, too: give each node its own (fleet.node).",
                LogLevel.ERROR,
            )
            self._namesake = (run, -1)  # once is enough
        elif run != found.run:
            self._namesake = (found.run, found.beat)

    def _note(self, *, is_read: bool) -> None:
        """For the metrics."""
        generations = {
            (each.model, each.alias): (self._state.aliases[each.model, each.alias].generation, each.generation or 0)
            for each in self._served()
        }
        self.observed.follows(Followed(is_read, self._read_s, generations))

    def _served(self) -> tuple[Serving, ...]:
        return tuple(self._serving(key) for key in sorted(self._state.aliases))

    def _serving(self, key: AliasKey) -> Serving:
        local = self.control.repository.journal.state().alias(*key)
        if local is not None and self.observed.refused.get(key) == local.placement:
            return Serving(*key, None, None)
        release = None if local is None else local.placement.release
        generation = self._state.aliases[key].generation  # before the look: another thread reads the journal meanwhile
        return Serving(*key, release, generation if self._is_at(key) else None)

    def _is_at(self, key: AliasKey) -> bool:
        """Whether this repository's journal says of an alias what the store says, and answers name its generation."""
        named, local = self._state.aliases[key], self.control.repository.journal.state().alias(*key)
        return self._serves_named(key) and (local is None or generation_of(local.placement.config) == named.generation)

    def _serves_named(self, key: AliasKey) -> bool:
        """Whether an alias is served here by the release that the store names, of whichever generation."""
        target, local = self._state.aliases[key].target, self.control.repository.journal.state().alias(*key)
        if target is None or local is None:
            return target is None and local is None
        return local.placement.manifest_digest == target.manifest_digest

    def _mine(self, actor: str) -> Control:
        """A separate control plane for one piece of work: a repository's object knows one writer at a time."""
        settings = self.control.settings.model_copy(update={"lock_wait_s": _LOCK_WAIT_S})
        return replace(
            self.control, settings=settings, repository=Repository(self.control.repository.root, actor=actor)
        )

    def _problem(self, move_id: str, error: PolicyctlError) -> None:
        words = f"{error.problem}. {error.remedy}".strip()
        if self._problems.get(move_id) != words:
            self._tell(words, LogLevel.ERROR, code=error.code, move=move_id)
        with self._lock:
            self._problems = {**dict(list(self._problems.items())[-_KEPT:]), move_id: words}

    def _tell(self, words: str, level: LogLevel = LogLevel.INFO, **fields: Any) -> None:
        self.control.tell(words, level=level, logger=_LOGGER, **fields)
