"""What the routes of one control API share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar

from fastapi import Request

from policyctl.adapters.audit import Audit
from policyctl.adapters.token_store import TokenFile
from policyctl.api.limits import Buckets
from policyctl.api.meters import Meters
from policyctl.domain.log_event import LogLevel
from policyctl.domain.operations import Operation
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services.control import Control
from policyctl.services.health import Looker
from policyctl.services.operations import Operations

P = ParamSpec("P")
T = TypeVar("T")
_READ_BURST_S: Final = 2.0
_FAILURES_PER_MINUTE: Final = 30.0
LOGGER: Final = "policyctl.api"


@dataclass(slots=True)
class Api:
    """One control API.

    Attributes:
        control: Reads the repository; its settings are those of now.
        local: It listens on this machine alone.
        audit: Where calls that would change something are told.
        tokens: Who may ask.
        operations: What was asked.
        health: How everything is.
        meters: What is counted.
        reads: How often each may look.
        changes: How often each may change something.
        failures: How often each address may show a token that is none.
    """

    control: Control
    local: bool
    audit: Audit
    tokens: TokenFile
    operations: Operations
    health: Looker
    meters: Meters
    reads: Buckets
    changes: Buckets
    failures: Buckets
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, "api"))

    @classmethod
    def of(cls, control: Control, *, local: bool) -> Api:
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
            meters=Meters(),
            reads=Buckets(reads),
            changes=Buckets(changes),
            failures=Buckets(lambda: (_FAILURES_PER_MINUTE / 60, _FAILURES_PER_MINUTE)),
        )

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what blocks beside the event loop, within the time that one call may take.

        Raises:
            ServerError: It took longer; it goes on, and nobody waits for it.
        """
        loop, limit_s = asyncio.get_running_loop(), self.control.settings.api.timeout_s
        future = loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))
        try:
            return await asyncio.wait_for(future, limit_s)
        except TimeoutError as error:
            raise ServerError(
                f"no answer within {limit_s:g} s", remedy="Try again, or raise POLICYCTL_API__TIMEOUT_S."
            ) from error

    async def tell(self, entry: dict[str, Any]) -> None:
        """Add to the audit; a disk that takes no line is told to the log."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, self.audit.append, entry)
        except PolicyctlError as error:
            _lost(self.control, error, entry)

    def close(self, *, timeout_s: float) -> None:
        """Wait for the moves that are under way."""
        self.operations.close(timeout_s=timeout_s)


def api_of(request: Request) -> Api:
    """The control API that this request came to."""
    found: Api = request.app.state.api
    return found


def utc_now() -> str:
    """The time, as every document tells it."""
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
    words = f"The audit cannot be written: {error.problem}. It would say: {json.dumps(entry)}"
    control.tell(words, level=LogLevel.ERROR, logger=LOGGER)
