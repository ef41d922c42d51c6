"""The application: routes, refusals, and what stands before them."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyctl import __version__, pages
from policyctl.api.console import actions, looks, view
from policyctl.api.console import admin as admin_pages
from policyctl.api.context import LOGGER, LOOKS, Api, utc_now
from policyctl.api.documents import DESCRIPTION, describe
from policyctl.api.problems import ProblemError, of_error, refusal, unexpected
from policyctl.api.routes import admin, health, look, moves
from policyctl.domain.log_event import LogLevel
from policyctl.errors import PolicyctlError

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
CLOSE_S: Final = 30.0
"""How long a stop waits for moves that are under way; the server settles what takes longer."""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(pages.style().encode()).digest()).decode()
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
}
_MOST_ERRORS: Final = 20
_ROUTING: Final = {404: ("not-found", "Not found"), 405: ("method", "Not that way")}


def create(api: Api | None) -> FastAPI:
    """The application of one control API; without one it can be described, and not called."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if api is not None:
            api.operations.close(timeout_s=CLOSE_S)

    app = FastAPI(
        title="policyctl control API",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's own would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        openapi_tags=[
            {"name": "health", "description": "Does it live, can it work, how is everything."},
            {"name": "look", "description": "What is published, named, served, and what happened."},
            {
                "name": "move",
                "description": "Promote, roll back, pin, remove, abort; and what became of it.",
            },
            {"name": "admin", "description": "The audit and the tokens."},
        ],
    )
    app.state.api = api
    for router in (
        health.probes,
        health.look,
        health.counts,
        look.router,
        moves.changes,
        moves.removals,
        moves.looks,
        admin.router,
    ):
        app.include_router(router)
    _pages(app)
    for router in (looks.files, actions.doors, actions.leaving, actions.changes, admin_pages.router, looks.looks):
        app.include_router(router, include_in_schema=False)
    _refusals(app)
    if api is not None:
        app.add_middleware(Edge, api=api)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app


def page(template: str, document: Mapping[str, Any]) -> str:
    """A page for people, made of the OpenAPI document: what this is, or every call and every object.

    It runs no script, loads nothing, and its policy forbids a browser to try;
    the one style sheet is allowed by its hash.
    """
    calls = [(method.upper(), path, call) for path, item in document["paths"].items() for method, call in item.items()]
    title = f"{document['info']['title']} {document['info']['version']}"
    return pages.render(template, title=title, document=document, calls=calls)


def _pages(app: FastAPI) -> None:
    @cache
    def text(template: str) -> str:
        return page(template, app.openapi())

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return HTMLResponse(text("api_front.html"), headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(text("api_handbook.html"), headers=_PAGE_HEADERS)


def _refusals(app: FastAPI) -> None:
    def answer(request: Request, error: ProblemError) -> Response:
        if f"{request.url.path}/".startswith(f"{view.HOME}/"):
            return view.refused(request, error)
        return error.answer(request_id=request.state.request_id, path=request.url.path)

    @app.exception_handler(ProblemError)
    async def _of_http(request: Request, error: ProblemError) -> Response:
        return answer(request, error)

    @app.exception_handler(PolicyctlError)
    async def _of_service(request: Request, error: PolicyctlError) -> Response:
        return answer(request, of_error(error))

    @app.exception_handler(RequestValidationError)
    async def _of_shape(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": ".".join(str(part)[:64] for part in each["loc"]), "problem": str(each["msg"])}
            for each in error.errors()[:_MOST_ERRORS]
        ]
        problem = "; ".join(f"{each['field']}: {each['problem']}" for each in errors)
        remedy = "Correct it; /openapi.json says what is asked."
        return answer(request, refusal(422, "request", "Wrong request", problem, remedy, more={"errors": errors}))

    @app.exception_handler(HTTPException)
    async def _of_routing(request: Request, error: HTTPException) -> Response:
        # Bytes that are not UTF-8 are 400 to FastAPI, and text that is not JSON 422; here both are a wrong request.
        status = 422 if error.status_code == 400 else error.status_code
        problem = {
            404: f"there is no {request.url.path}",
            405: f"{request.url.path} knows no {request.method}",
        }.get(status, "the request cannot be understood")
        kind, title = _ROUTING.get(status, ("request", "Wrong request"))
        remedy = "See /openapi.json for what there is."
        return answer(request, refusal(status, kind, title, problem, remedy, headers=error.headers))


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
