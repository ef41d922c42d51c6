"""Carry out moves: run the effects that `domain.moves` decided, and take back what fails.

The caller holds the writer lock. Every effect can be repeated, and the
journal is written ahead of the switch, so a process that is killed anywhere in
here leaves a move that `services.moves.recovery` can finish or revert.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from policyctl import correlation
from policyctl.adapters.repository import Repository
from policyctl.adapters.triton import LoadUnderWayError, Triton
from policyctl.domain import moves
from policyctl.domain.journal import RecordKind
from policyctl.domain.log_event import LogLevel
from policyctl.domain.manifest import digest_of
from policyctl.domain.moves import (
    Certify,
    Configure,
    Effect,
    Load,
    Move,
    Place,
    Placement,
    Prune,
    Result,
    Withdraw,
    Write,
)
from policyctl.errors import MoveError, PolicyctlError
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.moves.abort_flag import abort_requested, clear_abort
from policyctl.services.moves.certify import certified_body, require_certified

_LOGGER: Final = "policyctl.move"


class AbortRequestedError(MoveError):
    """Somebody asked this move to stop."""


@dataclass(slots=True)
class Timings:
    """How long the parts of a move took, in milliseconds; None where a part did not run."""

    expand_ms: float | None = None
    certify_ms: float | None = None
    switch_ms: float | None = None
    """From writing the alias's configuration until Triton serves the target."""
    total_ms: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """A JSON object."""
        return {
            "expand_ms": self.expand_ms,
            "certify_ms": self.certify_ms,
            "switch_ms": self.switch_ms,
            "total_ms": self.total_ms,
        }


@dataclass(slots=True)
class Mover:
    """Runs effects against one repository and one server.

    Attributes:
        control: The control plane.
        client: The server.
        opened: The release that was read last; it is not read again.
    """

    control: Control
    client: Triton
    opened: OpenRelease | None = None
    timings: Timings = field(default_factory=Timings)

    @property
    def _repository(self) -> Repository:
        return self.control.repository

    def run(self, move: Move, effects: Iterable[Effect], *, check_abort: bool) -> None:
        """Run `effects` in order.

        Raises:
            AbortRequestedError: Asked to stop, before the switch.
            PolicyctlError: An effect failed; the rest did not run.
        """
        with _about(move):
            self._run(move, effects, check_abort=check_abort)

    def _run(self, move: Move, effects: Iterable[Effect], *, check_abort: bool) -> None:
        def heed_abort() -> None:
            if abort_requested(self._repository, move):
                raise AbortRequestedError(f"the move of {move.served} to {move.target.release} was aborted")

        started = time.monotonic()
        for effect in effects:
            if check_abort:
                heed_abort()
            if isinstance(effect, Write) and effect.kind is RecordKind.SWITCHING:
                check_abort = False
            self._timed(move, effect, started, heed_abort if check_abort else None)

    def _timed(self, move: Move, effect: Effect, started: float, interrupt: Callable[[], None] | None) -> None:
        before = time.monotonic()
        if isinstance(effect, Write):
            self.timings.total_ms = _ms(started)
        self._apply(move, effect, interrupt)
        taken = _ms(before)
        match effect:
            case Load(served, _) if served == move.candidate:
                self.timings.expand_ms = taken
            case Certify(served, _) if served == move.candidate:
                self.timings.certify_ms = taken
            case Configure(served, _) if served == move.served:
                self.timings.switch_ms = taken
            case Load(served, _) if served == move.served:
                self.timings.switch_ms = taken + (self.timings.switch_ms or 0.0)
            case _:
                pass

    def _apply(self, move: Move, effect: Effect, interrupt: Callable[[], None] | None) -> None:
        match effect:
            case Write(kind, result):
                self._repository.journal.append(kind, self._body(move, kind, result))
                line = f"{move.words}: {kind if result is None else result}"
                self._log(LogLevel.INFO, line, record=kind.value, result=None if result is None else result.value)
            case Place(served, slot):
                self._repository.place(served, slot)
            case Configure(served, placement):
                self._repository.configure(served, placement.config)
            case Load(served, slot):
                self.control.tell(f"Loading {served} ...", logger=_LOGGER, served=served, slot=slot)
                self.client.load(served, slot, interrupt=interrupt)
            case Certify(served, placement):
                opened = self._open(move.model, placement)
                require_certified(self.control, self.client, move, opened, served, placement)
            case Withdraw(served) if served == move.candidate:
                withdraw_candidate(self.control, self.client, served)
            case Withdraw(served):
                self.client.unload(served)
                self._repository.withdraw(served)
            case Prune(served, slot):
                self._repository.prune(served, slot)

    def _log(self, level: LogLevel, words: str, **fields: Any) -> None:
        self.control.log.write(level, words, logger=_LOGGER, **fields)

    def _open(self, model: str, placement: Placement) -> OpenRelease:
        opened = self.opened
        if opened is None or opened.published.manifest_digest != placement.manifest_digest:
            published = self._repository.journal.state().release(model, placement.release)
            opened = self.opened = open_release(self._repository, published)
        return opened

    def _body(self, move: Move, kind: RecordKind, result: Result | None) -> dict[str, Any]:
        if kind is RecordKind.INTENT:
            return {**move.to_json(), "server": self.client.endpoint.server_id}
        if kind is RecordKind.CERTIFIED:
            return {"move": move.id, **certified_body(self.client, move.model, move.target)}
        if kind is RecordKind.REVERTING:
            return {"move": move.id}
        if kind is RecordKind.SWITCHING:
            return {"move": move.id, "config_digest": digest_of(move.target.config.encode())}
        return {
            "move": move.id,
            "result": None if result is None else result.value,
            "timings": self.timings.to_json(),
        }


def execute(
    control: Control, client: Triton, move: Move, *, opened: OpenRelease | None = None, certified_here: bool = False
) -> Timings:
    """Carry out a move, or bring the incumbent back.

    Args:
        control: The control plane.
        client: The server.
        move: What to do.
        opened: The target, read and verified; None for a removal.
        certified_here: See `domain.moves.plan`.

    Raises:
        ServerError: The server serves another repository; nothing was changed.
        MoveError: It failed and the incumbent was kept; or bringing it back
            failed too, and the journal keeps the move open for `recover`.
    """
    mover = Mover(control, client, opened)
    with _about(move):
        if not client.endpoint.supervisor:
            client.require_sees(move.model)
        try:
            mover.run(move, moves.plan(move, certified_here=certified_here), check_abort=True)
        except PolicyctlError as error:
            take_back(control, mover, move, error)
    return mover.timings


def take_back(control: Control, mover: Mover, move: Move, error: PolicyctlError) -> NoReturn:
    """Bring the incumbent back after `error`, and say what is served.

    Raises:
        MoveError: Always: the move failed. The journal keeps it open where the incumbent could not be brought back.
        PolicyctlError: `error` itself, where the move had not begun.
    """
    unfinished = control.repository.journal.state().unfinished.get(move.model)
    if unfinished is None or unfinished.move.id != move.id:
        raise error  # it failed before its intent was written: nothing has happened
    control.log.write(LogLevel.ERROR, f"{move.words}: {error.problem}", logger=_LOGGER, code=error.code)
    aborted = isinstance(error, AbortRequestedError)
    result = Result.ABORTED if aborted else Result.REVERTED
    kept = "nothing, as before" if move.incumbent is None else move.incumbent.release
    try:
        mover.run(move, moves.revert(move, unfinished.phase, result=result), check_abort=False)
    except PolicyctlError as second:
        raise MoveError(
            f"{error.problem}. Bringing back the incumbent failed too: {second.problem}",
            remedy="The journal keeps the move open: the next command, or the next start of the server,"
            " finishes or reverts it. See: policyctl status",
        ) from error
    finally:
        clear_abort(control.repository)
    raise MoveError(
        f"{error.problem}. {move.alias} of {move.model} still serves {kept}", remedy=error.remedy
    ) from error


def _about(move: Move) -> AbstractContextManager[None]:
    """Bind what every line of a move carries."""
    return correlation.bound(move=move.id, model=move.model, alias=move.alias, release=move.target.release)


def withdraw_candidate(control: Control, client: Triton, served: str) -> None:
    """Take a candidate out of the server and remove its folder.

    One that is still being loaded is abandoned: no client asks it, and waiting
    for a load that never ends would hold up the move. The server's supervisor
    ends that load and removes the folder (`services.moves.stuck_loads`); Triton lists
    only what has one.

    Raises:
        ServerError: No answer.
    """
    try:
        client.unload(served)
    except LoadUnderWayError as error:
        words = f"{error.problem}: it is abandoned, and the server is left to end it."
        control.tell(words, level=LogLevel.WARNING, logger=_LOGGER, served=served)
    else:
        control.repository.withdraw(served)


def _ms(since: float) -> float:
    return round((time.monotonic() - since) * 1e3, 3)
