"""What every request meets first and every answer last: an id, headers, counts, the audit, and no trace."""

from __future__ import annotations

import re
import secrets
import time
import traceback
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyctl.api.context import LOGGER, LOOKS, Api, utc_now
from policyctl.api.problems import refusal, unexpected
from policyctl.domain.log_event import LogLevel

_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer. How long TLS must be kept is for the proxy that speaks it."""


class Edge:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, *, api: Api) -> None:
        self._app, self._api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, state = time.perf_counter(), scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(scope)
        answer = {"status": 0}
        app = _two_lengths if {name for name, _ in scope["headers"]} >= _LENGTHS else self._app

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["method"] not in LOOKS:
                    await self._api.tell(_entry(scope, message["status"]))
            await send(message)

        try:
            await app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001  a defect must not show itself to callers
            message = f"request {request_id}: {''.join(traceback.format_exception(error))}"
            self._api.control.tell(message, level=LogLevel.ERROR, logger=LOGGER)
            if not answer["status"]:
                refused = unexpected(request_id).answer(request_id=request_id, path=scope["path"])
                await refused(scope, receive, sending)
        finally:
            # 499: the caller has gone.
            status = answer["status"] or 499
            self._api.meters.count(scope["method"], route_of(scope), status, time.perf_counter() - started)


async def _two_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request that states its length twice: a proxy may have read another request out of it."""
    problem = "the request has both Content-Length and Transfer-Encoding"
    refused = refusal(400, "request", "Wrong request", problem, "Send one of them.", headers={"Connection": "close"})
    await refused.answer(request_id=scope["state"]["request_id"], path=scope["path"])(scope, receive, send)


def route_of(scope: Scope) -> str:
    """The route as it is declared; never the path as it came."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "none"


def _request_id(scope: Scope) -> str:
    """What the caller calls it, so that its log and ours can be joined; else a fresh one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)


def _entry(scope: Scope, status: int) -> dict[str, Any]:
    state, client = scope["state"], scope.get("client")
    caller = state.get("caller")
    return {
        "time": utc_now(),
        "event": "asked",
        "who": None if caller is None else caller.name,
        "from": None if client is None else client[0],
        "request_id": state["request_id"],
        "method": scope["method"],
        "path": scope["path"][:512],
        "status": status,
        "operation": state.get("operation"),
        "replayed": state.get("replayed", False),
    }
