"""What the console shows: every value comes from a call of the control API, or from the service of a command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from policyctl.api.console.view import ASSETS, HOME, asset, show
from policyctl.api.context import api_of, run
from policyctl.api.guard import guarded
from policyctl.api.problems import not_found, of_error
from policyctl.api.routes import health, look, moves
from policyctl.domain.names import PRODUCTION
from policyctl.domain.operations import MovePhase, OperationKind
from policyctl.domain.state import State
from policyctl.domain.tokens import Scope
from policyctl.errors import PolicyctlError
from policyctl.measuring.card_report import shown
from policyctl.measuring.card_tables import tables
from policyctl.measuring.comparison import LIMITS
from policyctl.measuring.report import COMPARISON_COLUMNS, comparison_rows
from policyctl.services.cards.full_card import full
from policyctl.services.integrity.journal import at
from policyctl.services.show.journal_rows import rows_then, rows_with_effect, words_then
from policyctl.services.show.two_releases import two_releases

files = APIRouter(prefix=HOME)
looks = APIRouter(prefix=HOME, route_class=guarded(Scope.READ, by_session=True))
_MOST_MODELS: Final = 200
_MOST_RELEASES: Final = 50
_MOST_MOVES: Final = 20
_MOST_TARGETS: Final = 8
"""Releases that an alias may be rolled back to by a button; `policyctl rollback --to` knows them all."""

_NamedModel = Annotated[str, Field(pattern=look.MODEL_PATTERN)]
OptionalModel = Annotated[_NamedModel | None, BeforeValidator(lambda text: text or None)]


class ModelQuery(look.StrictQuery):
    """Which releases."""

    before: int | None = Field(None, ge=1, le=2**53, description="Only slots below this one.")


class CompareQuery(look.StrictQuery):
    """Which two releases; an empty one is what production names, or the latest."""

    one: str = Field("", max_length=128)
    other: str = Field("", max_length=128)


class HistoryQuery(look.HistoryQuery):
    """Which page, for every model where a form leaves the field empty."""

    model: OptionalModel = None


class AtQuery(look.StrictQuery):
    """Which instant."""

    model: OptionalModel = None
    when: str = Field("now", max_length=64, description="ISO 8601; a time without a zone is UTC.")


def _serve(name: str) -> None:
    """Answer with a file that pages load. It says nothing of the repository, so nobody needs a token."""

    @files.get(f"/{name}")
    async def file() -> Response:
        kept = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset(name), media_type=ASSETS[name], headers=kept)


for _name in ASSETS:
    _serve(_name)


@looks.get("")
async def overview(request: Request) -> Response:
    """Every model with its aliases, how everything is, and the last moves."""
    state = await run(request, api_of(request).control.repository.journal.state)
    models = await run(request, look.described, state, state.models[:_MOST_MODELS])
    healthy = json.loads(bytes((await health.healthz(request)).body))
    operations = await run(request, moves.get_operations, request, moves.ListQuery(limit=8))
    aliases = [check for check in healthy["checks"] if check["name"] == "alias"]
    return show(
        request,
        "overview.html",
        title="Overview",
        health=healthy,
        models=[{**each, "served": [alias for alias in aliases if alias["model"] == each["model"]]} for each in models],
        left_out=len(state.models) - len(models),
        operations=operations,
    )


@looks.get("/models/{model}")
def model_page(request: Request, model: look.Model, query: Annotated[ModelQuery, Query()]) -> Response:
    """A model: its aliases, a page of its releases, and its last moves."""
    known = look.get_model(request, model)
    some = look.ReleasesQuery(before=query.before, limit=_MOST_RELEASES + 1)
    releases = look.get_releases(request, model, some)
    history = look.get_history(request, look.HistoryQuery(model=model, limit=200, before=None))
    aliases = look.get_aliases(request, model)
    return show(
        request,
        "model.html",
        title=model,
        model=known,
        aliases=[{**alias, "targets": _targets(alias, known["releases"])} for alias in aliases],
        releases=releases[: -_MOST_RELEASES - 1 : -1],
        earlier=releases[-_MOST_RELEASES]["slot"] if len(releases) > _MOST_RELEASES else None,
        operations=moves.get_operations(request, moves.ListQuery(model=model, limit=5)),
        history=rows_with_effect(history["records"])[: -_MOST_MOVES - 1 : -1],
    )


def _targets(alias: dict[str, Any], here: Sequence[str]) -> list[str]:
    """The releases that an alias can be rolled back to: those that it named, the last one first."""
    named = dict.fromkeys(reversed(alias["trail"]))
    return [each for each in named if each != alias["release"] and each in here][:_MOST_TARGETS]


@looks.get("/models/{model}/releases/{release}")
async def release_page(request: Request, model: look.Model, release: look.Release) -> Response:
    """A release: its card, files, signatures, gates and evidence."""
    known = await run(request, look.get_release, request, model, release)
    evidence = await run(request, look.get_evidence, request, model, release)
    api, sections, problems = api_of(request), list[dict[str, Any]](), list[str]()
    try:
        card = await api.within(api.pools.of_cards(request), lambda: full(api.control, model=model, release=release))
        sections = [shown(table) for table in tables(card)]
        problems = list(card.release.problems) if card.release is not None else []
        summary = card.summary or ""
    except PolicyctlError as error:
        summary, problems = "", [f"The card cannot be shown: {error.problem}. {error.remedy}"]
    return show(
        request,
        "release.html",
        title=f"{model} {release}",
        release=known,
        summary=summary,
        sections=sections,
        problems=problems,
        evidence=evidence,
    )


@looks.get("/models/{model}/releases/{release}/evidence/{digest}")
def evidence_content(request: Request, model: look.Model, release: look.Release, digest: look.Digest) -> Response:
    """One piece of evidence, byte for byte."""
    return look.get_evidence_content(request, model, release, digest)


@looks.get("/models/{model}/compare")
async def compare_page(request: Request, model: look.Model, query: Annotated[CompareQuery, Query()]) -> Response:
    """Two releases next to each other."""
    known = await run(request, look.get_model, request, model)
    api, comparison, failure = api_of(request), None, None
    one = query.one or known["aliases"].get(PRODUCTION) or known["latest"] or ""
    other = query.other or known["latest"] or ""
    if one and not query.one and one == other:
        one = _release_before(await run(request, api.control.repository.journal.state), model, one)
    try:
        comparison = await api.within(
            api.pools.of_cards(request), lambda: two_releases(api.control, model=model, one=one, other=other)
        )
    except PolicyctlError as error:
        failure = of_error(error)
    return show(
        request,
        "compare.html",
        title=f"Compare releases of {model}",
        status=200 if failure is None else failure.status,
        model=model,
        one=one,
        other=other,
        known=[*known["aliases"], *known["releases"][: -_MOST_RELEASES - 1 : -1]],
        comparison=comparison,
        failure=None if failure is None else failure.failure,
        limits=LIMITS,
        columns=COMPARISON_COLUMNS,
        rows=[] if comparison is None or comparison.measured is None else comparison_rows(comparison.measured),
    )


def _release_before(state: State, model: str, release: str) -> str:
    """The release that production named before this one, or the one in the slot before; itself where none was."""
    named = state.alias(model, PRODUCTION)
    trail = [] if named is None else [placement.release for placement in named.trail if placement.release != release]
    slots = [each.release for each in state.of_model(model)]
    earlier = trail or slots[: slots.index(release)]
    return earlier[-1] if earlier else release


@looks.get("/operations/{operation}")
async def operation_page(request: Request, operation: moves.OperationId) -> Response:
    """An operation: how far its move has come, what was said, how it ended."""
    found = await moves.get_operation(request, operation, moves.WaitQuery(wait=0.0))
    recent = await run(request, moves.get_operations, request, moves.ListQuery(model=found["model"], limit=20))
    aborts = [o for o in recent if o["kind"] == OperationKind.ABORT and o["move"] == found["move"] and o != found]
    bakes = found["phase"] == MovePhase.BAKING or bool((found["result"] or {}).get("bake"))
    return show(
        request,
        "operation.html",
        title=f"{found['kind'].capitalize()} of {found['model']} {found['alias']}",
        operation=found,
        phases=[phase.value for phase in MovePhase if bakes or phase is not MovePhase.BAKING],
        aborts=aborts,
    )


@looks.get("/history")
def history_page(request: Request, query: Annotated[HistoryQuery, Query()]) -> Response:
    """A page of the journal: a row for each move."""
    found = look.get_history(request, query)
    rows = rows_with_effect(found["records"])[::-1]
    before, model = found["before"], query.model
    models = api_of(request).control.repository.journal.state().models[:_MOST_MODELS]
    if model is not None and model not in models:
        models = (*models, model)
    return show(request, "history.html", title="History", rows=rows, before=before, model=model, models=models)


@looks.get("/at")
def at_page(request: Request, query: Annotated[AtQuery, Query()]) -> Response:
    """What each alias served at an instant."""
    found = at(api_of(request).control, query.when, model=query.model, timezone="UTC")
    rows, words = rows_then(found), list(words_then(found))
    return show(
        request, "at.html", title="Served at a time", when=found.when, rows=rows, words=words, model=query.model
    )


@looks.get("/fleet")
async def fleet_page(request: Request) -> Response:
    """What the aliases of a fleet name, and what each node serves."""
    found = await look.fleet_status(request)
    return show(request, "fleet.html", title="Fleet", fleet=found)


@looks.get("/{path:path}")
def nothing(request: Request, path: str) -> Response:
    """Any other address, for who may look."""
    raise not_found(f"{HOME}/{path} does not exist", f"Begin at {HOME}.")
