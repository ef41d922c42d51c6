"""What is published, named, served, and what happened."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from policyctl.api.context import api_of
from policyctl.api.documents import (
    AliasDocument,
    EvidenceDocument,
    FleetDocument,
    HistoryDocument,
    ModelDocument,
    ReleaseDocument,
    StatusDocument,
    problems,
)
from policyctl.api.guard import guarded
from policyctl.api.problems import missing_is_not_found, not_found
from policyctl.domain import versions
from policyctl.domain.fleet import FleetStatus
from policyctl.domain.json_values import to_json
from policyctl.domain.names import LATEST, is_pin, served_name
from policyctl.domain.state import AliasState, PublishedRelease, State
from policyctl.domain.timeline import AliasThen
from policyctl.domain.tokens import Scope
from policyctl.errors import UsageError
from policyctl.services import evidence
from policyctl.services.control import Control
from policyctl.services.integrity.journal import at
from policyctl.services.show import status as service

router = APIRouter(prefix="/v1", tags=["look"], route_class=guarded(Scope.READ))

MODEL_PATTERN: Final = r"^[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?$"
RELEASE_PATTERN: Final = r"^[0-9A-Za-z.+-]{1,128}$"
Model = Annotated[str, Path(pattern=MODEL_PATTERN, description="The model's name.", examples=["walker"])]
Release = Annotated[str, Path(pattern=RELEASE_PATTERN, description="A release's number.", examples=["1.0.0"])]
Digest = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", description="Of the evidence.")]


class StrictQuery(BaseModel):
    """What a query may hold is stated; anything else is refused."""

    model_config = ConfigDict(extra="forbid")


class StatusQuery(StrictQuery):
    """What to look at."""

    model: str | None = Field(None, pattern=MODEL_PATTERN, description="Only this model.")


class ReleasesQuery(StrictQuery):
    """Which of a model's releases."""

    limit: int | None = Field(None, ge=1, le=1000, description="Releases at most, the last ones.")
    before: int | None = Field(None, ge=1, le=2**53, description="Only slots below this one.")


class HistoryQuery(StatusQuery):
    """Which page."""

    limit: int = Field(100, ge=1, le=1000, description="Records at most.")
    before: int | None = Field(None, ge=0, le=2**53, description="Only records before this `seq`.")


def known_model(control: Control, model: str) -> State:
    """The journal's state, where it knows that model."""
    with missing_is_not_found():
        return control.known(model)


@router.get("/status", response_model=StatusDocument, responses=problems(404, 409, 503))
def get_status(request: Request, query: Annotated[StatusQuery, Query()]) -> Any:
    """What `policyctl status --json` prints: every alias is asked for an action."""
    control = api_of(request).control
    if query.model is not None:
        known_model(control, query.model)
    with missing_is_not_found():  # where nothing was ever published
        return service.status(control, model=query.model).to_json()


@router.get("/fleet", response_model=FleetDocument, responses=problems(404, 409, 503))
async def get_fleet(request: Request) -> Any:
    """What every alias of the fleet names, and what each node says that it serves; read from its store."""
    return (await fleet_status(request)).to_json()


async def fleet_status(request: Request) -> FleetStatus:
    """The fleet whose store the settings name; looked at once for all who ask within a second."""
    api = api_of(request)
    found = await api.share(api.fleet.look, pool=api.pools.store)
    if found is None:
        raise not_found(
            "the settings of this control API name no store",
            "A fleet has one: start policyctl api with POLICYCTL_FLEET__STORE=s3://... See: policyctl docs fleet",
        )
    return found


@router.get("/models", response_model=list[ModelDocument], responses=problems(409, 503))
def get_models(request: Request) -> Any:
    """Every model."""
    state = api_of(request).control.repository.journal.state()
    return described(state, state.models)


@router.get("/models/{model}", response_model=ModelDocument, responses=problems(404, 409, 503))
def get_model(request: Request, model: Model) -> Any:
    """One model."""
    (found,) = described(known_model(api_of(request).control, model), (model,))
    return found


def described(state: State, models: Collection[str]) -> list[dict[str, Any]]:
    """Those models, each with its releases and aliases; everything else is looked through once for all of them."""
    releases: dict[str, list[PublishedRelease]] = {model: [] for model in models}
    aliases: dict[str, dict[str, str]] = {model: {} for model in models}
    for (model, _), published in state.releases.items():
        if model in releases and not published.collected:
            releases[model].append(published)
    for (model, alias), named in sorted(state.aliases.items(), key=lambda each: each[0]):
        if model in aliases:
            aliases[model][alias] = named.placement.release
    return [_model(model, releases[model], aliases[model]) for model in models]


def _model(model: str, published: Collection[PublishedRelease], aliases: dict[str, str]) -> dict[str, Any]:
    releases = [r.release for r in sorted(published, key=lambda r: r.slot)]
    try:
        latest = versions.select(LATEST, releases, {})
    except UsageError:  # where all are pre-releases
        latest = None
    return {"model": model, "releases": releases, "latest": latest, "aliases": aliases}


@router.get("/models/{model}/releases", response_model=list[ReleaseDocument], responses=problems(404, 409, 503))
def get_releases(request: Request, model: Model, query: Annotated[ReleasesQuery, Query()]) -> Any:
    """Its releases, by slot; those whose files were collected too."""
    state = known_model(api_of(request).control, model)
    published = [each for each in state.of_model(model) if query.before is None or each.slot < query.before]
    return list(service.described(state, published if query.limit is None else published[-query.limit :]))


@router.get("/models/{model}/releases/{release}", response_model=ReleaseDocument, responses=problems(404, 409, 503))
def get_release(request: Request, model: Model, release: Release) -> Any:
    """One release."""
    state = known_model(api_of(request).control, model)
    if (published := state.releases.get((model, release))) is not None:
        return service.described(state, (published,))[0]
    raise not_found(f"{model} has no release {release!r}", f"See GET /v1/models/{model}/releases.")


@router.get("/models/{model}/aliases", response_model=list[AliasDocument], responses=problems(404, 409, 503))
def get_aliases(request: Request, model: Model) -> Any:
    """What its aliases and pins name, by the journal, and when each was last certified."""
    control = api_of(request).control
    state = known_model(control, model)
    return [_alias(then, state.alias(model, then.alias)) for then in at(control, "now", model=model).aliases]


def _alias(then: AliasThen, state: AliasState | None) -> dict[str, Any]:
    named, moving, certified = then.named, then.moving, then.certified
    return {
        "model": then.model,
        "alias": then.alias,
        "served": served_name(then.model, then.alias),
        "release": None if named is None else named.release,
        "slot": None if named is None else named.slot,
        "format": None if named is None else named.format.value,
        "since": then.since or None,
        "trail": [] if state is None else [placement.release for placement in state.trail],
        "pinned": is_pin(then.alias),
        "certified": None if certified is None else to_json(certified),
        "moving": None if moving is None else moving.to_json(),
    }


@router.get(
    "/models/{model}/releases/{release}/evidence",
    response_model=list[EvidenceDocument],
    responses=problems(404, 409, 503),
)
def get_evidence(request: Request, model: Model, release: Release) -> Any:
    """What gates said of a release, and what was measured of it, oldest first."""
    get_release(request, model, release)
    return [to_json(each) for each in evidence.kept(api_of(request).control, model, release)]


@router.get(
    "/models/{model}/releases/{release}/evidence/{digest}",
    response_class=Response,
    responses={
        **problems(404, 409, 503),
        200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "As it was written."},
    },
)
def get_evidence_content(request: Request, model: Model, release: Release, digest: Digest) -> Response:
    """One piece of evidence, byte for byte: its SHA-256 is the digest that the journal holds."""
    get_release(request, model, release)
    with missing_is_not_found():
        body = evidence.content(api_of(request).control, model, release, digest)
    json.loads(body)
    return Response(body, media_type="application/json")


@router.get("/history", response_model=HistoryDocument, responses=problems(404, 409, 503))
def get_history(request: Request, query: Annotated[HistoryQuery, Query()]) -> Any:
    """A page of the journal: the newest records, or those before one. Its chain is checked."""
    control = api_of(request).control
    with missing_is_not_found():
        found = service.history(control, model=query.model, before=query.before, limit=query.limit + 1)
    page, more = found[-query.limit :], len(found) > query.limit
    return {"records": page, "before": page[0]["seq"] if more else None}
