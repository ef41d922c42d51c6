"""Requests that came by the control API: each is begun once, and its outcome is known from then on.

An operation is on disk, with the id that its move will have in the journal,
before its move begins. So a request that is repeated under its idempotency key
finds the first one, also after a restart. The outcome of an operation whose
process was killed is what the journal says of that move.

Each runs in a thread with a control plane that writes in the name of the
caller's token. Promotions and pins may take long (gates measure), so
rollbacks, removals and aborts have places that promotions cannot fill: what
takes a bad release back is never refused because others promote.
"""

from __future__ import annotations

import secrets
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from policyctl import correlation
from policyctl.adapters.operation_store import OperationStore
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Result
from policyctl.domain.operations import Done, MovePhase, Operation, OperationKind, move_progress, settled
from policyctl.errors import BusyError, PolicyctlError, UsageError
from policyctl.services.bake.verdict import ended as bake_ended
from policyctl.services.control import Control
from policyctl.services.moves.moved import Moved, fresh_move_id
from policyctl.services.moves.mover import Timings
from policyctl.services.rollout.here import carry_out, check
from policyctl.services.rollout.request import AliasRequest

_MOST_MESSAGES: Final = 100
_MOST_CHARACTERS: Final = 2000
_PROMOTING: Final = frozenset({OperationKind.PROMOTION, OperationKind.PIN})


class KeyReusedError(UsageError):
    """An idempotency key that names another request already."""


class LimitError(BusyError):
    """More at a time than is allowed."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """An operation that was begun, or was there already.

    Attributes:
        operation: As it stands.
        replayed: The same request had come before, under the same key; nothing was begun.
    """

    operation: Operation
    replayed: bool


class Operations:
    """The operations of one repository, carried out by one process.

    Args:
        control: Reads the journal, and holds the current settings.
        ended: Called with each operation that ends here.
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

    def submit(self, request: AliasRequest, *, caller: str, key: str = "") -> Submitted:
        """Begin a request, or find its operation where the same one came under the same key before.

        Args:
            request: What is wanted.
            caller: Name of the token that sent it.
            key: Idempotency key; empty for none.

        Raises:
            KeyReusedError: The key names another request.
            LimitError: Too many are under way.
            UsageError: No such model, alias or release, or a rule of the profile forbids it; or the disk refuses.
            IntegrityError: The journal was tampered with.
        """
        with self._lock:
            earlier = self.find(request, caller=caller, key=key)
            if earlier is not None:
                return Submitted(earlier, True)
            checked = check(self.control, request)
            self._require_place(request.kind)
            self._sweep()
            operation = Operation(
                id=secrets.token_hex(16),
                kind=request.kind,
                model=request.model,
                alias=checked.alias,
                request=request.to_json(),
                move=fresh_move_id() if checked.stops is None else checked.stops.id,
                caller=caller,
                actor=f"token:{caller}@{socket.gethostname()}",
                accepted=_now(),
                key=key,
                fingerprint=request.fingerprint,
            )
            self._store.write(operation)
            self._remember(operation)
            future: Future[Operation] = Future()
            self._running[operation.id] = future
            self._messages[operation.id] = []
        # A daemon: a move that is cut short is finished or reverted by the server, and must not hold up an exit.
        threading.Thread(
            target=self._run, args=(operation, request, future), name=f"operation-{operation.id}", daemon=True
        ).start()
        return Submitted(operation, False)

    def find(self, request: AliasRequest, *, caller: str, key: str) -> Operation | None:
        """The operation that the same request began under the same key; None where the key is unused.

        Raises:
            KeyReusedError: The key names another request.
        """
        with self._lock:
            known = self.get(self._by_key.get((caller, key), "")) if key else None
        if known is None or known.fingerprint == request.fingerprint:
            return known
        raise KeyReusedError(
            f"Idempotency-Key {key!r} names another request already (operation {known.id})",
            remedy="Use a fresh key for each request, and the same one only to repeat it.",
        )

    def get(self, name: str) -> Operation | None:
        """An operation as it stands; None where it is unknown."""
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
        operations = (self.get(name) for name in reversed(names[-limit:]))
        return tuple(operation for operation in operations if operation is not None)

    def future(self, name: str) -> Future[Operation] | None:
        """Comes true when the operation ends; None where it does not run here."""
        return self._running.get(name)

    def close(self, *, timeout_s: float) -> None:
        """Wait for what is under way; what takes longer is left to the server to settle."""
        with self._lock:
            left = tuple(self._running.values())
        wait(left, timeout=timeout_s)

    def _settle(self, operation: Operation) -> Operation:
        """The outcome of an operation whose process has gone."""
        journal = self.control.repository.journal
        try:
            progress = move_progress(journal.records(), operation.move)
            move, result = progress.move, dict[str, Any]()
            if move is not None:
                moved = Moved(move, changed=True, timings=Timings(**progress.timings))
                result = moved.to_json()
                is_done = progress.result is Result.DONE and operation.kind is OperationKind.PROMOTION
                if is_done and move.bake is not None:
                    key = (move.model, move.alias)
                    owed = journal.state().bakes.get(key)
                    if owed is not None and owed.move.id == move.id:
                        return operation  # the server watches on where its process died
                    moved = replace(moved, bake=bake_ended(self.control, key, move.id))
                    return self._keep(_ended(operation, Done(moved.to_json(), moved.words, moved.refusal)))
        except PolicyctlError:
            return operation  # nothing is known while the journal cannot be read
        outcome = settled(operation, progress, result=result, now=_now())
        return self._keep(outcome) if outcome.is_over else outcome

    def _run(self, operation: Operation, request: AliasRequest, future: Future[Operation]) -> None:
        """Carry out a request in this thread, and keep its outcome."""
        ended = self._outcome(operation, request)
        with self._lock:
            self._keep(replace(ended, messages=tuple(self._messages.pop(operation.id))))
            del self._running[operation.id]
        try:
            self._ended(ended)
        finally:
            future.set_result(self._known.get(operation.id, ended))

    def _outcome(self, operation: Operation, request: AliasRequest) -> Operation:
        control = Control.of(self.control.settings, lambda line: self._say(operation.id, line), actor=operation.actor)
        control.log = self.control.log
        try:
            # Its lines in the log carry the operation's id.
            with correlation.bound(operation=operation.id):
                return _ended(operation, carry_out(control, request, move=operation.move))
        except PolicyctlError as error:
            return operation.failed(error, _now())
        except Exception as error:  # noqa: BLE001  a defect must not leave the operation open for ever
            trace = f"operation {operation.id}: {''.join(traceback.format_exception(error))}"
            self.control.tell(trace, level=LogLevel.ERROR, logger="policyctl.api", operation=operation.id)
            unexpected = PolicyctlError(
                f"an unexpected failure ({type(error).__name__})",
                remedy=f"Please report it; the control API's log has it under operation {operation.id}.",
            )
            return operation.failed(unexpected, _now())

    def _say(self, name: str, line: str) -> None:
        messages = self._messages[name]
        if len(messages) < _MOST_MESSAGES:
            messages.append(line[:_MOST_CHARACTERS])

    def _keep(self, operation: Operation) -> Operation:
        self._known[operation.id] = operation
        # The journal has the outcome also where a full disk takes no file.
        with suppress(PolicyctlError):
            self._store.write(operation)
        return operation

    def _remember(self, operation: Operation) -> None:
        self._known[operation.id] = operation
        if operation.key:
            self._by_key[operation.caller, operation.key] = operation.id

    def _require_place(self, kind: OperationKind) -> None:
        most = self.control.settings.api.max_operations
        promotes = kind in _PROMOTING
        moves = [o.move for name in self._running if ((o := self._known[name]).kind in _PROMOTING) is promotes]
        if len(moves) >= most:
            records = self.control.repository.journal.records()
            # One that waits for a drain has moved its alias, and needs no place any more.
            moves = [move for move in moves if move_progress(records, move).phase is not MovePhase.OVER]
        if (running := len(moves)) >= most:
            what = "promotions and pins" if promotes else "removals, rollbacks and aborts"
            raise LimitError(
                f"{running} {what} are under way, as many as may be at a time", remedy="Try again when one has ended."
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
                del self._known[operation.id]
                self._by_key = {key: name for key, name in self._by_key.items() if name != operation.id}
                self._store.remove(operation.id)


def _ended(operation: Operation, done: Done) -> Operation:
    """The operation with what was done."""
    named = replace(
        operation,
        move=str(done.result.get("move", operation.move)),
        # A pin's selector may mean another release by now than when the request came.
        alias=str(done.result.get("alias", operation.alias)),
    )
    if done.refusal is not None:
        return named.failed(done.refusal, _now(), result=done.result, words=done.words)
    return named.succeeded(done.result, done.words, _now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
