"""Drain: after a move, the release before stays reachable until the episodes that began on it are over.

A policy with memory plays an episode to its end on the release that began it
(`client.episode`), under the release's own number. So a drain is a pin with an
end: it is made before the alias moves and removed when nobody has asked it for a
while, or when its limit has passed. The supervisor of the server removes it, so
a command that is killed leaves nothing behind. Where nobody supervises the
server, the command does it; one that is killed there leaves a pin, which a
person removes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from policyctl.adapters import lock
from policyctl.adapters.triton import Triton
from policyctl.domain import moves
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Move, MoveKind
from policyctl.domain.names import pin_name, served_name
from policyctl.domain.probes import AliasKey
from policyctl.domain.state import AliasState, State
from policyctl.errors import BusyError, PolicyctlError
from policyctl.services.control import Control, open_release
from policyctl.services.machine.memory_headroom import require_room
from policyctl.services.moves.abort_flag import abort_requested, clear_abort
from policyctl.services.moves.certify import is_certified_here
from policyctl.services.moves.moved import Drained, describe, new_move
from policyctl.services.moves.mover import AbortRequestedError, execute
from policyctl.services.moves.removal import removal
from policyctl.services.releases.numbers import contracts_of

REST_S: Final = 5.0
"""What nobody has asked for so long has no episode left."""
_GRACE_S: Final = 15.0
"""How long after its limit a command waits for the supervisor to end a drain."""
_LOOK_S: Final = 0.25
_LOGGER: Final = "policyctl.drain"


@dataclass(frozen=True, slots=True)
class Drain:
    """What keeps the release before reachable during one move; nothing where `pin` is None."""

    control: Control
    client: Triton
    pin: Move | None
    certified_here: bool = False

    @classmethod
    def of(cls, control: Control, client: Triton, state: State, move: Move, wanted_s: float | None) -> Drain:
        """The drain of `move`.

        Args:
            wanted_s: Seconds at most; 0 for none. None for the settings', where the incumbent of a promotion
                has memory, and for none otherwise.
        """
        incumbent = move.incumbent
        if incumbent is None or incumbent.release == move.target.release:
            return cls(control, client, None)
        if wanted_s is None:
            remembers = move.kind is MoveKind.PROMOTION and contracts_of(state, move.model)(incumbent.release).states
            wanted_s = control.settings.drain_s if remembers else 0.0
        alias = pin_name(incumbent.release)
        there = state.alias(move.model, alias)
        if not wanted_s or (there is not None and there.drain_s is None):
            return cls(control, client, None)  # not wanted, or somebody pinned it for good
        reason = f"drains for at most {wanted_s:g} s after the {move.words}"
        pin = replace(new_move(state, MoveKind.PIN, move.model, alias, incumbent, reason), drain_s=wanted_s)
        return cls(control, client, pin, is_certified_here(state, client, move.model, incumbent))

    @property
    def steps(self) -> tuple[str, ...]:
        """What comes before the steps of the move, in words."""
        return () if self.pin is None else describe(moves.plan(self.pin, certified_here=self.certified_here))

    @contextmanager
    def during(self, move: Move) -> Iterator[None]:
        """Pin the incumbent before the block moves the alias; take the pin back where that fails.

        A rollback ends harm, so it goes on without the drain where that cannot be had. A move that is still open is
        settled first, by the next command or the server: one model has one open move.

        Raises:
            PolicyctlError: The incumbent of a promotion cannot be pinned; nothing was changed.
        """
        pinned = False
        try:
            pinned = self._begin()
        except PolicyctlError as error:
            if isinstance(error.__cause__, AbortRequestedError):
                raise  # a person wants no move at all
            if move.kind is not MoveKind.ROLLBACK or self._is_open(move):
                error.remedy = f"To interrupt the episodes that began on it instead: --drain 0. {error.remedy}"
                raise
            self.control.tell(f"Episodes are interrupted: {error.problem}.", level=LogLevel.WARNING, logger=_LOGGER)
        try:
            if self.pin is not None and abort_requested(self.control.repository, self.pin):
                clear_abort(self.control.repository)
                raise AbortRequestedError(f"the {move.words} was aborted. Nothing was moved")
            yield
        except PolicyctlError:
            if pinned and self.pin is not None and not self._is_open(move):
                self._take_back(self.pin)
            raise

    def _take_back(self, pin: Move) -> None:
        """Remove the pin; what hinders that is said, and never hides why the move failed."""
        try:
            state = self.control.repository.journal.state()
            back = removal(state, pin.model, pin.alias, reason="the move that it was for failed")
            execute(self.control, self.client, back)
        except PolicyctlError as error:
            words = f"{pin.served} is still served: {error.problem}. Next: policyctl unpin {pin.model} {pin.alias}"
            self.control.tell(words, level=LogLevel.WARNING, logger=_LOGGER)

    def _is_open(self, move: Move) -> bool:
        return move.model in self.control.repository.journal.state().unfinished

    def _begin(self) -> bool:
        if self.pin is None:
            return False
        control, client, state = self.control, self.client, self.control.repository.journal.state()
        opened = open_release(control.repository, state.release(self.pin.model, self.pin.target.release))
        require_room(control, client, state, self.pin, opened)
        execute(control, client, self.pin, opened=opened, certified_here=self.certified_here)
        return True

    def wait(self) -> Drained | None:
        """Return when the drain has ended, or some time after it should have; the caller holds no lock.

        Where nobody supervises the server, the drain is ended here.
        """
        if self.pin is None or self.pin.drain_s is None:
            return None
        key, limit_s, began = (self.pin.model, self.pin.alias), self.pin.drain_s, time.monotonic()
        alone, over, named = not self.client.endpoint.supervisor, False, None
        with (
            self.control.working(f"{self.pin.served} answers its episodes on", at_most_s=limit_s),
            ExitStack() as stack,
        ):
            drains = Drains(self.control, stack.enter_context(self.control.triton())) if alone else None
            while not over and time.monotonic() - began < limit_s + _GRACE_S:
                state = self.control.repository.journal.state()
                named = state.alias(*key)
                over = named is None or named.drain_s is None
                if not over and drains is not None:
                    drains.look(state)
                time.sleep(0.0 if over else _LOOK_S)
        waited_s, pinned = round(time.monotonic() - began, 1), over and named is not None
        return Drained(self.pin.target.release, self.pin.served, limit_s, waited_s, over, pinned)


@dataclass(slots=True)
class _Watched:
    since: str
    count: int
    began: float
    changed: float
    failed: bool = False


@dataclass(slots=True)
class Drains:
    """Ends the drains of one server.

    Attributes:
        control: The control plane.
        client: The server.
        probes: How often an alias was asked by the server's own prober.
        clock: Seconds, monotonic.
    """

    control: Control
    client: Triton
    probes: Callable[[AliasKey], int] = lambda key: 0
    clock: Callable[[], float] = time.monotonic
    _watched: dict[AliasKey, _Watched] = field(default_factory=dict)

    def look(self, state: State) -> None:
        """End every drain that nobody has asked for a while, or whose limit has passed."""
        drained = {key: named for key, named in state.aliases.items() if named.drain_s is not None}
        self._watched = {key: watched for key, watched in self._watched.items() if key in drained}
        for key, named in drained.items():
            try:
                # Its time begins with the end of the move that it is for.
                if key[0] in state.unfinished or lock.is_held(self.control.repository.lock_path):
                    continue
                if why := self._over(key, named):
                    self._end(key, named, why)
            except BusyError:
                continue  # the next look is soon
            except PolicyctlError as error:
                self._failed(key, error)

    def _end(self, key: AliasKey, named: AliasState, why: str) -> None:
        """Remove it, unless somebody has pinned it for good since, or drains it again."""
        repository, served = self.control.repository, served_name(*key)
        with repository.writer(f"end of the drain of {served}"), self.control.triton() as client:
            state = repository.journal.state()
            if state.aliases.get(key) == named and key[0] not in state.unfinished:
                execute(self.control, client, removal(state, *key, reason=why))
                self._tell(key, f"{served} is drained: {why}.")

    def _over(self, key: AliasKey, named: AliasState) -> str:
        """Why a drain is over; empty while it is not."""
        count, now = self.client.answered(served_name(*key)) - self.probes(key), self.clock()
        watched = self._watched.get(key)
        if watched is None or watched.since != named.since:
            watched = self._watched[key] = _Watched(named.since, count, now, now)
        if count != watched.count:
            watched.count, watched.changed = count, now
        if now - watched.changed >= REST_S:
            return f"nobody has asked it for {REST_S:g} s"
        if named.drain_s is not None and now - watched.began >= named.drain_s:
            return f"its limit of {named.drain_s:g} s has passed"
        return ""

    def _failed(self, key: AliasKey, error: PolicyctlError) -> None:
        watched = self._watched.get(key)
        if watched is not None and not watched.failed:
            watched.failed = True
            self._tell(key, f"The drain of {served_name(*key)} cannot be ended: {error.problem}", LogLevel.WARNING)

    def _tell(self, key: AliasKey, words: str, level: LogLevel = LogLevel.INFO) -> None:
        self.control.tell(words, level=level, logger=_LOGGER, model=key[0], alias=key[1])
