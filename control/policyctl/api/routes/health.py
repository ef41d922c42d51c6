"""Does it live, can it work, how is everything, what was counted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from policyctl.api.context import api_of
from policyctl.api.documents import Alive, HealthDocument, problems
from policyctl.api.guard import guarded
from policyctl.api.meters import CONTENT_TYPE
from policyctl.domain.tokens import Scope
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services.show.health import Grade

probes = APIRouter(tags=["health"])
look = APIRouter(tags=["health"], route_class=guarded(Scope.READ, monitors=True))
counts = APIRouter(tags=["health"], route_class=guarded(Scope.READ, open_here=True, monitors=True))


@probes.get("/livez", response_model=Alive)
async def livez() -> dict[str, str]:
    """Whether this process answers. Nobody needs a token."""
    return {"status": "ok"}


@probes.get("/readyz", response_model=Alive, responses={503: problems(503)[503]})
async def readyz(request: Request) -> dict[str, str]:
    """Whether calls can be answered: the repository is there and its journal can be read. Nobody needs a token.

    Whether Triton answers is not asked: without it this API still says what is wrong.
    """
    api = api_of(request)
    try:
        await api.share(api.control.repository.journal.records)
    except PolicyctlError as error:  # whatever it is: no call can be answered
        raise ServerError(f"not ready: {error.problem}", remedy=error.remedy) from error
    return {"status": "ok"}


@look.get(
    "/healthz",
    response_model=HealthDocument,
    responses={**problems(), 503: {"model": HealthDocument, "description": "Down."}},
)
async def healthz(request: Request) -> Response:
    """How everything is: servers and aliases by an answered inference, integrity by the scrub, journal, disk.

    200 for ok and degraded; 503 where no server, or no alias, answers.
    """
    api = api_of(request)
    health = await api.share(api.health.look)
    document: dict[str, Any] = health.to_json()
    return JSONResponse(document, 503 if health.grade is Grade.DOWN else 200)


@counts.get(
    "/metrics",
    response_class=Response,
    responses={
        **problems(),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus."},
    },
)
async def metrics(request: Request) -> Response:
    """What this process counted of itself. On its own machine nobody needs a token."""
    return Response(api_of(request).meters.text(), media_type=CONTENT_TYPE)
