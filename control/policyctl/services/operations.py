"""Moves that somebody asked the control API for: begun once, told for ever after.

An operation is on disk, with the id that its move will have in the journal,
before its move begins. So a request that is repeated under its idempotency key
finds the first one, also after a restart, and the outcome of an operation whose
process was killed is what the journal says of that move.

Each runs in a thread of its own with a control plane of its own, which writes
in the name of the token that asked. Promotions and pins may take long (gates
measure), so rollbacks, removals and aborts have places of their own: what takes
a bad release back is never refused because others promote.
"""

from __future__ import annotations

import secrets
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from policyctl import correlation
from policyctl.adapters.operation_store import OperationStore
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Result
from policyctl.domain.operations import Done, Operation, OperationKind, move_told, settled
from policyctl.errors import BusyError, PolicyctlError, UsageError
from policyctl.services.asked import Asked, carry_out, check, settings_of
from policyctl.services.baked import ended as bake_ended
from policyctl.services.control import Control
from policyctl.services.moves import Timings
from policyctl.services.promote import Moved, fresh_move_id

_MOST_MESSAGES: Final = 100
_MOST_CHARACTERS: Final = 2000
_PROMOTING: Final = frozenset({OperationKind.PROMOTION, OperationKind.PIN})


class KeyReusedError(UsageError):
    """An idempotency key that names another request already."""


class LimitError(BusyError):
    """More at a time than is allowed."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """An operation that was begun, or found.

    Attributes:
        operation: As it stands.
        replayed: It had been asked for before, under the same key; nothing was begun.
    """

    operation: Operation
    replayed: bool


class Operations:
    """The operations of one repository, carried out by one process.

    Args:
        control: Reads the journal, and holds the settings of now.
        ended: Told of each operation that ends here.
    """

    def __init__(self, control: Control, *, ended: Callable[[Operation], None] = lambda _: None) -> None:
        self.control, self._ended = control, ended
        self._store = OperationStore(control.repository)
        self._lock = threading.RLock()
        self._known: dict[str, Operation] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._running: dict[str, Future[Operation]] = {}
        self._messages: dict[str, list[str]] = {}
        for operation in self._store.read_all():
            self._remember(operation)

    def submit(self, asked: Asked, *, caller: str, key: str = "") -> Submitted:
        """Begin what was asked, or find it where it was asked under the same key before.

        Args:
            asked: What.
            caller: Name of the token that asks.
            key: Idempotency key; empty for none.

        Raises:
            KeyReusedError: The key names another request.
            LimitError: Too many are under way.
            UsageError: No such model, alias or release, or a rule of the profile forbids it; or the disk refuses.
            IntegrityError: The journal was tampered with.
        """
        with self._lock:
            found = self._find(asked, caller, key)
            if found is not None:
                return Submitted(found, True)
            checked = check(self.control, asked)
            self._require_place(asked.kind)
            self._sweep()
            operation = Operation(
                id=secrets.token_hex(16),
                kind=asked.kind,
                model=asked.model,
                alias=checked.alias,
                request={**asdict(asked), "kind": asked.kind.value},
                move=fresh_move_id() if checked.stops is None else checked.stops.id,
                caller=caller,
                actor=f"token:{caller}@{socket.gethostname()}",
                accepted=_now(),
                key=key,
                fingerprint=asked.fingerprint,
            )
            self._store.write(operation)
            self._remember(operation)
            future: Future[Operation] = Future()
            self._running[operation.id] = future
        # A daemon: a move that is cut short is finished or reverted by the server, and must not hold up an exit.
        threading.Thread(
            target=self._carry_out, args=(operation, asked, future), name=f"operation-{operation.id}", daemon=True
        ).start()
        return Submitted(operation, False)

    def _find(self, asked: Asked, caller: str, key: str) -> Operation | None:
        known = self.get(self._by_key.get((caller, key), "")) if key else None
        if known is None or known.fingerprint == asked.fingerprint:
            return known
        raise KeyReusedError(
            f"Idempotency-Key {key!r} names another request already (operation {known.id})",
            remedy="Use a fresh key for each request, and the same one only to repeat it.",
        )

    def require_unused(self, asked: Asked, *, caller: str, key: str) -> None:
        """Refuse a key that names another request, for what begins nothing.

        Raises:
            KeyReusedError: It does.
        """
        with self._lock:
            self._find(asked, caller, key)

    def get(self, name: str) -> Operation | None:
        """An operation as it stands; None where it is not known (any more)."""
        with self._lock:
            operation = self._known.get(name)
            if operation is None or operation.is_over:
                return operation
            if name in self._running:
                return replace(operation, messages=tuple(self._messages.get(name, ())))
            return self._settle(operation)

    def recent(self, *, model: str | None, limit: int) -> tuple[Operation, ...]:
        """The last `limit` operations, newest first."""
        with self._lock:
            names = [o.id for o in self._known.values() if model in {None, o.model}]
        found = (self.get(name) for name in reversed(names[-limit:]))
        return tuple(operation for operation in found if operation is not None)

    def future(self, name: str) -> Future[Operation] | None:
        """Comes true when the operation ends; None where it does not run here."""
        return self._running.get(name)

    def close(self, *, timeout_s: float) -> None:
        """Wait for what is under way; what takes longer is left to the server to settle."""
        with self._lock:
            left = tuple(self._running.values())
        wait(left, timeout=timeout_s)

    def _settle(self, operation: Operation) -> Operation:
        """The outcome of an operation whose process is gone."""
        repository = self.control.repository
        try:
            told = move_told(repository.journal.records(), operation.move)
            move, result = told.move, dict[str, Any]()
            if move is not None:
                moved = Moved(move, changed=True, timings=Timings(**told.timings))
                result = moved.to_json()
                if told.result is Result.DONE and move.bake is not None and operation.kind is OperationKind.PROMOTION:
                    return self._settle_baked(operation, moved)
        except PolicyctlError:
            return operation  # a journal that cannot be read tells nothing
        found = settled(operation, told, result=result, now=_now())
        if found.is_over:
            self._keep(found)
        return found

    def _settle_baked(self, operation: Operation, moved: Moved) -> Operation:
        """The outcome of a promotion that was to be watched: the server watches on where its process died."""
        key = (moved.move.model, moved.move.alias)
        owed = self.control.repository.journal.state().bakes.get(key)
        if owed is not None and owed.move.id == moved.move.id:
            return operation
        moved = replace(moved, bake=bake_ended(self.control, key, moved.move.id))
        found = _ended(operation, Done(moved.to_json(), moved.words, moved.refusal), _now())
        self._keep(found)
        return found

    def _carry_out(self, operation: Operation, asked: Asked, future: Future[Operation]) -> None:
        self._messages[operation.id] = []
        settings = settings_of(self.control, asked)
        control = Control.of(settings, lambda words: self._say(operation.id, words), actor=operation.actor)
        control.log = self.control.log
        try:
            # Its lines in the log are found by the operation's own id.
            with correlation.bound(operation=operation.id):
                done = carry_out(control, asked, move=operation.move)
            ended = _ended(operation, done, _now())
        except PolicyctlError as error:
            ended = operation.failed(error, _now())
        except Exception as error:  # noqa: BLE001  a defect must not leave the operation open for ever
            trace = f"operation {operation.id}: {''.join(traceback.format_exception(error))}"
            self.control.tell(trace, level=LogLevel.ERROR, logger="policyctl.api", operation=operation.id)
            unexpected = PolicyctlError(
                f"an unexpected failure ({type(error).__name__})",
                remedy=f"Please report it; the control API's log has it under operation {operation.id}.",
            )
            ended = operation.failed(unexpected, _now())
        with self._lock:
            self._keep(replace(ended, messages=tuple(self._messages.pop(operation.id))))
            del self._running[operation.id]
        try:
            self._ended(ended)
        finally:
            future.set_result(self._known.get(operation.id, ended))

    def _say(self, name: str, words: str) -> None:
        messages = self._messages[name]
        if len(messages) < _MOST_MESSAGES:
            messages.append(words[:_MOST_CHARACTERS])

    def _keep(self, operation: Operation) -> None:
        self._known[operation.id] = operation
        # The journal tells the outcome also where a full disk takes no file.
        with suppress(PolicyctlError):
            self._store.write(operation)

    def _remember(self, operation: Operation) -> None:
        self._known[operation.id] = operation
        if operation.key:
            self._by_key[operation.caller, operation.key] = operation.id

    def _require_place(self, kind: OperationKind) -> None:
        most = self.control.settings.api.max_operations
        promotes = kind in _PROMOTING
        mine = sum((self._known[name].kind in _PROMOTING) is promotes for name in self._running)
        if mine >= most:
            what = "promotions and pins" if promotes else "removals, rollbacks and aborts"
            raise LimitError(
                f"{mine} {what} are under way, as many as may be at a time", remedy="Try again when one has ended."
            )

    def _sweep(self) -> None:
        """Forget what ended long ago, and the oldest where there are too many."""
        settings = self.control.settings.api
        oldest = (datetime.now(UTC) - timedelta(hours=settings.keep_hours)).isoformat()
        # In the order of acceptance; one whose process died is settled by `get` before it may go.
        over = [o for name in tuple(self._known) if (o := self.get(name)) is not None and o.is_over]
        surplus = len(self._known) + 1 - settings.keep_operations
        for number, operation in enumerate(over):
            if number < surplus or operation.finished < oldest:
                self._forget(operation)

    def _forget(self, operation: Operation) -> None:
        del self._known[operation.id]
        self._by_key = {key: name for key, name in self._by_key.items() if name != operation.id}
        self._store.remove(operation.id)


def _ended(operation: Operation, done: Done, now: str) -> Operation:
    """The operation with what was done."""
    named = replace(
        operation,
        move=str(done.result.get("move", operation.move)),
        # What a pin's selector means may be another release than when it was asked.
        alias=str(done.result.get("alias", operation.alias)),
    )
    if done.refusal is not None:
        return named.failed(done.refusal, now, result=done.result, words=done.words)
    return named.succeeded(done.result, done.words, now)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
