"""What the routes of one control API share."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar

from fastapi import Request

from policyctl.adapters.audit import Audit
from policyctl.adapters.token_store import TokenFile
from policyctl.api.meters import Buckets, Meters
from policyctl.api.sessions import Sessions
from policyctl.config.reading import Reading
from policyctl.domain.log_event import LogLevel
from policyctl.domain.operations import Operation
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services.control import Control
from policyctl.services.fleet.looker import FleetLooker
from policyctl.services.rollout.operations import Operations
from policyctl.services.show.health import Looker
from policyctl.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
_READ_BURST_S: Final = 2.0
_FAILURES_PER_MINUTE: Final = 30.0
_REFUSALS_PER_MINUTE: Final = 60.0
_FRESH_S: Final = 1.0
"""A result up to that age serves the next caller too, where callers share one."""
MOST_AT_ONCE: Final = 32
"""Requests that one caller may have under way."""
LOGGER: Final = "policyctl.api"
LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that change nothing."""
ANONYMOUS: Final = "anonymous"


class Pools:
    """Threads for what blocks: callers without a token cannot occupy those of a token, nor a look those of a move."""

    def __init__(self) -> None:
        self.changes = ThreadPoolExecutor(16, "api-changes")
        self.looks = ThreadPoolExecutor(16, "api-looks")
        self.anonymous = ThreadPoolExecutor(8, "api-anonymous")
        self.shared = ThreadPoolExecutor(4, "api-shared")
        # A store that does not answer holds up nobody who watches this API.
        self.store = ThreadPoolExecutor(1, "api-store")
        # A card is shown after every file of its release was read: one at a time, however many people look.
        self._cards = ThreadPoolExecutor(1, "api-cards")
        self._cards_of_anonymous = ThreadPoolExecutor(1, "api-cards-anonymous")

    def of(self, request: Request) -> ThreadPoolExecutor:
        """The threads for this request."""
        if request.method not in LOOKS:
            return self.changes
        return self.anonymous if _is_anonymous(request) else self.looks

    def of_cards(self, request: Request) -> ThreadPoolExecutor:
        """The thread for the card that this request asks for."""
        return self._cards_of_anonymous if _is_anonymous(request) else self._cards


@dataclass(slots=True)
class Api:
    """One control API.

    Attributes:
        local: It listens on this machine alone.
        reads: How often each may look.
        changes: How often each may change something.
        failures: How often each address may show an unknown token.
        refusals: How often the audit takes a line about callers without a token that counts.
        reading: How the settings came about, as they were read last.
        sessions: Who signed in to the console.
        shared: The last results that callers share, and when each was asked for.
    """

    control: Control
    local: bool
    audit: Audit
    tokens: TokenFile
    operations: Operations
    health: Looker
    fleet: FleetLooker
    meters: Meters
    reads: Buckets
    changes: Buckets
    failures: Buckets
    refusals: Buckets
    reading: Callable[[], Reading[Settings]]
    pools: Pools = field(default_factory=Pools)
    sessions: Sessions = field(default_factory=Sessions)
    shared: dict[str, tuple[float, asyncio.Future[Any]]] = field(default_factory=dict)
    _under_way: Counter[str] = field(default_factory=Counter)
    _unlisted: int = 0

    @classmethod
    def of(cls, control: Control, *, local: bool, reading: Callable[[], Reading[Settings]]) -> Api:
        """The control API of one repository."""
        audit = Audit(control.repository)

        def reads() -> tuple[float, float]:
            per_s = control.settings.api.reads_per_s
            return per_s, max(1.0, per_s * _READ_BURST_S)

        def changes() -> tuple[float, float]:
            per_minute = control.settings.api.changes_per_minute
            return per_minute / 60, max(1.0, per_minute)

        return cls(
            control=control,
            local=local,
            audit=audit,
            tokens=TokenFile(control.repository),
            operations=Operations(control, ended=lambda operation: _tell(control, audit, operation)),
            health=Looker(control),
            fleet=FleetLooker(control),
            meters=Meters(),
            reads=Buckets(reads),
            changes=Buckets(changes),
            failures=Buckets(lambda: (_FAILURES_PER_MINUTE / 60, _FAILURES_PER_MINUTE)),
            refusals=Buckets(lambda: (_REFUSALS_PER_MINUTE / 60, _REFUSALS_PER_MINUTE)),
            reading=reading,
        )

    @contextmanager
    def place(self, caller: str) -> Iterator[bool]:
        """One of the requests that `caller` has under way while the block runs; False where it has too many."""
        self._under_way[caller] += 1
        try:
            yield self._under_way[caller] <= MOST_AT_ONCE
        finally:
            self._under_way[caller] -= 1
            if not self._under_way[caller]:
                del self._under_way[caller]

    async def share(self, work: Callable[[], T], *, pool: ThreadPoolExecutor | None = None) -> T:
        """The result of `work`, which runs once for all who ask within a second, however many they are.

        Args:
            work: What blocks.
            pool: On which threads; None for those that callers share.
        """
        name, now = work.__qualname__, time.monotonic()
        since, future = self.shared.get(name, (0.0, None))
        if future is None or (future.done() and now - since > _FRESH_S):
            future = asyncio.ensure_future(self.within(pool or self.pools.shared, work))
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # every asker may have gone
            self.shared[name] = (now, future)
        return await asyncio.shield(future)

    async def within(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Do what blocks on one of these threads, within the time that one call may take.

        Raises:
            ServerError: It took longer; it goes on, and nobody waits for it.
        """
        loop, limit_s = asyncio.get_running_loop(), self.control.settings.api.timeout_s
        try:
            return await asyncio.wait_for(loop.run_in_executor(pool, work), limit_s)
        except TimeoutError as error:
            raise ServerError(
                f"no answer within {limit_s:g} s", remedy="Try again, or raise POLICYCTL_API__TIMEOUT_S."
            ) from error

    async def tell(self, entry: dict[str, Any]) -> None:
        """Add to the audit; where the disk takes no line, the log says so.

        Strangers cannot push the lines of others out: what exceeds their share is counted in the next line.
        """
        if entry["who"] in {None, ANONYMOUS} and self.refusals.take(ANONYMOUS):
            self._unlisted += 1
            return
        if self._unlisted:
            entry, self._unlisted = {**entry, "unlisted_before": self._unlisted}, 0
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self.pools.changes, self.audit.append, entry)
        except PolicyctlError as error:
            _lost(self.control, error, entry)


def api_of(request: Request) -> Api:
    """The control API that this request came to."""
    api: Api = request.app.state.api
    return api


async def run(request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what blocks on another thread than the event loop's, within the time that one call may take."""
    api = api_of(request)
    return await api.within(api.pools.of(request), lambda: work(*args, **kwargs))


def _is_anonymous(request: Request) -> bool:
    caller = getattr(request.state, "caller", None)
    return caller is None or caller.name == ANONYMOUS


def utc_now() -> str:
    """The time, as every document writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _tell(control: Control, audit: Audit, operation: Operation) -> None:
    """The outcome of an operation, for the audit."""
    entry = {
        "time": utc_now(),
        "event": "ended",
        "who": operation.caller,
        "operation": operation.id,
        "what": operation.kind.value,
        "model": operation.model,
        "alias": operation.alias,
        "move": operation.move,
        "outcome": operation.state.value,
        "code": None if operation.error is None else operation.error.code,
    }
    with suppress(Exception):  # whatever happens here must not keep the operation from ending
        try:
            audit.append(entry)
        except PolicyctlError as error:
            _lost(control, error, entry)


def _lost(control: Control, error: PolicyctlError, entry: dict[str, Any]) -> None:
    message = f"The audit cannot be written: {error.problem}. It would say: {json.dumps(entry)}"
    control.tell(message, level=LogLevel.ERROR, logger=LOGGER)
