"""The application: routes, refusals, and what stands before them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from policyctl import __version__, pages
from policyctl.api.context import Api
from policyctl.api.documents import DESCRIPTION, describe
from policyctl.api.edge import Edge
from policyctl.api.problems import ProblemError, of_error, refusal
from policyctl.api.routes import admin, health, look, moves
from policyctl.errors import PolicyctlError

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
            api.close(timeout_s=CLOSE_S)

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
