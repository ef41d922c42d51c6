"""What is published, named, served, and what happened."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from policyctl.api.context import Api, api_of
from policyctl.api.describe import problems
from policyctl.api.documents import (
    AliasDocument,
    EvidenceDocument,
    HistoryDocument,
    ModelDocument,
    ReleaseDocument,
    StatusDocument,
)
from policyctl.api.guard import guarded
from policyctl.api.problems import not_found
from policyctl.api.requests import MODEL_PATTERN, RELEASE_PATTERN
from policyctl.domain import versions
from policyctl.domain.names import LATEST, is_pin, served_name
from policyctl.domain.state import State
from policyctl.domain.timeline import AliasThen
from policyctl.domain.tokens import Scope
from policyctl.errors import UsageError
from policyctl.services import evidence
from policyctl.services import status as service
from policyctl.services.control import Control
from policyctl.services.journal import at

router = APIRouter(prefix="/v1", tags=["look"], route_class=guarded(Scope.READ))

Model = Annotated[str, Path(pattern=MODEL_PATTERN, description="The model's name.", examples=["walker"])]
Release = Annotated[str, Path(pattern=RELEASE_PATTERN, description="A release's number.", examples=["1.0.0"])]
Digest = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", description="Of the evidence.")]


class StatusQuery(BaseModel):
    """What to look at."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, pattern=MODEL_PATTERN, description="Only this model.")


class HistoryQuery(StatusQuery):
    """Which page."""

    limit: int = Field(100, ge=1, le=1000, description="Records at most.")
    before: int | None = Field(None, ge=0, le=2**53, description="Only records before this `seq`.")


def known_model(control: Control, model: str) -> State:
    """The journal's state, where it knows that model.

    Raises:
        ProblemError: It does not.
    """
    try:
        control.repository.require()
        state = control.repository.journal.state()
        state.require(model)
    except UsageError as error:
        raise not_found(error.problem, error.remedy) from error
    return state


@router.get("/status", response_model=StatusDocument, responses=problems(404, 409, 503))
async def get_status(request: Request, query: Annotated[StatusQuery, Query()]) -> Any:
    """What `policyctl status --json` prints: every alias is asked for an action."""
    return await api_of(request).run(_status, api_of(request), query.model)


def _status(api: Api, model: str | None) -> dict[str, Any]:
    if model is not None:
        known_model(api.control, model)
    try:
        return service.status(api.control, model=model).to_json()
    except UsageError as error:  # nothing was ever published
        raise not_found(error.problem, error.remedy) from error


@router.get("/models", response_model=list[ModelDocument], responses=problems(409, 503))
async def get_models(request: Request) -> Any:
    """Every model."""
    return await api_of(request).run(_models, api_of(request))


def _models(api: Api) -> list[dict[str, Any]]:
    state = api.control.repository.journal.state()
    return [_model(state, model) for model in sorted({model for model, _ in state.releases})]


def _model(state: State, model: str) -> dict[str, Any]:
    releases = [r.release for r in state.of_model(model) if not r.collected]
    try:
        latest = versions.select(LATEST, releases, {})
    except UsageError:  # none is, where all are pre-releases
        latest = None
    return {
        "model": model,
        "releases": releases,
        "latest": latest,
        "aliases": {
            alias: named.placement.release for (m, alias), named in sorted(state.aliases.items()) if m == model
        },
    }


@router.get("/models/{model}", response_model=ModelDocument, responses=problems(404, 409, 503))
async def get_model(request: Request, model: Model) -> Any:
    """One model."""
    return await api_of(request).run(lambda api: _model(known_model(api.control, model), model), api_of(request))


@router.get("/models/{model}/releases", response_model=list[ReleaseDocument], responses=problems(404, 409, 503))
async def get_releases(request: Request, model: Model) -> Any:
    """Its releases, by slot; those whose files were collected too."""
    return await api_of(request).run(_releases, api_of(request), model)


def _releases(api: Api, model: str) -> list[dict[str, Any]]:
    return list(service.releases(known_model(api.control, model), model))


@router.get("/models/{model}/releases/{release}", response_model=ReleaseDocument, responses=problems(404, 409, 503))
async def get_release(request: Request, model: Model, release: Release) -> Any:
    """One release."""
    return await api_of(request).run(_release, api_of(request), model, release)


def _release(api: Api, model: str, release: str) -> dict[str, Any]:
    for found in _releases(api, model):
        if found["release"] == release:
            return found
    raise not_found(f"{model} has no release {release!r}", f"See GET /v1/models/{model}/releases.")


@router.get("/models/{model}/aliases", response_model=list[AliasDocument], responses=problems(404, 409, 503))
async def get_aliases(request: Request, model: Model) -> Any:
    """What its aliases and pins name, by the journal, and when each was last certified."""
    return await api_of(request).run(_aliases, api_of(request), model)


def _aliases(api: Api, model: str) -> list[dict[str, Any]]:
    known_model(api.control, model)
    return [_alias(then) for then in at(api.control, "now", model=model).aliases]


def _alias(then: AliasThen) -> dict[str, Any]:
    named, moving, certified = then.named, then.moving, then.certified
    return {
        "model": then.model,
        "alias": then.alias,
        "served": served_name(then.model, then.alias),
        "release": None if named is None else named.release,
        "slot": None if named is None else named.slot,
        "format": None if named is None else named.format.value,
        "since": then.since or None,
        "pinned": is_pin(then.alias),
        "certified": None if certified is None else {"server": certified[0], "time": certified[1]},
        "moving": None if moving is None else moving.to_json(),
    }


@router.get(
    "/models/{model}/releases/{release}/evidence",
    response_model=list[EvidenceDocument],
    responses=problems(404, 409, 503),
)
async def get_evidence(request: Request, model: Model, release: Release) -> Any:
    """What gates said of a release, and what was measured of it, oldest first."""
    return await api_of(request).run(_evidence, api_of(request), model, release)


def _evidence(api: Api, model: str, release: str) -> list[dict[str, Any]]:
    _release(api, model, release)
    return [found.to_json() for found in evidence.kept(api.control, model, release)]


@router.get(
    "/models/{model}/releases/{release}/evidence/{digest}",
    response_class=Response,
    responses={
        **problems(404, 409, 503),
        200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "As it was written."},
    },
)
async def get_evidence_content(request: Request, model: Model, release: Release, digest: Digest) -> Response:
    """One piece of evidence, byte for byte: its SHA-256 is the digest that the journal holds."""
    body = await api_of(request).run(_content, api_of(request), model, release, digest)
    return Response(body, media_type="application/json")


def _content(api: Api, model: str, release: str, digest: str) -> bytes:
    _release(api, model, release)
    try:
        body = evidence.content(api.control, model, release, digest)
    except UsageError as error:
        raise not_found(error.problem, error.remedy) from error
    json.loads(body)
    return body


@router.get("/history", response_model=HistoryDocument, responses=problems(404, 409, 503))
async def get_history(request: Request, query: Annotated[HistoryQuery, Query()]) -> Any:
    """A page of the journal: the newest records, or those before one. Its chain is checked."""
    return await api_of(request).run(_history, api_of(request), query)


def _history(api: Api, query: HistoryQuery) -> dict[str, Any]:
    try:
        records = service.history(api.control, model=query.model)
    except UsageError as error:
        raise not_found(error.problem, error.remedy) from error
    earlier = [record for record in records if query.before is None or record["seq"] < query.before]
    page = earlier[-query.limit :]
    more = len(earlier) > len(page)
    return {"records": page, "before": page[0]["seq"] if more else None}
