"""Promote, roll back, pin, take out of service, abort; and the operations that follow from it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from policyctl.api.context import Api, api_of, run
from policyctl.api.documents import OperationDocument, PlanDocument, problems
from policyctl.api.guard import SCOPE_TO_MOVE, caller_of, guarded, require_scope
from policyctl.api.problems import not_found, of_failure
from policyctl.api.routes.look import MODEL_PATTERN, Model, StrictQuery, known_model
from policyctl.domain.json_values import to_json
from policyctl.domain.operations import MovePhase, Operation, OperationState, move_progress
from policyctl.domain.tokens import Scope
from policyctl.errors import PolicyctlError
from policyctl.services.rollout.here import carry_out
from policyctl.services.rollout.operations import Submitted
from policyctl.services.rollout.request import (
    AbortRequest,
    AliasRequest,
    PinRequest,
    PromotionRequest,
    RemovalRequest,
    RollbackRequest,
    ServingRequest,
    UnpinRequest,
    Wanted,
)
from policyctl.services.strictness import in_force

changes = APIRouter(prefix="/v1", tags=["move"], route_class=guarded(SCOPE_TO_MOVE))
removals = APIRouter(prefix="/v1", tags=["move"], route_class=guarded(Scope.ADMIN))
looks = APIRouter(prefix="/v1", tags=["move"], route_class=guarded(Scope.READ))
_POLL_S: Final = 0.2
MOST_WAIT_S: Final = 120.0
KEY_PATTERN: Final = r"^[!-~]{1,128}$"

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="The same key with the same request finds the same operation, also after a restart;"
        " with another request it is refused (422).",
    ),
]
OperationId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Of the operation.")]


class WaitQuery(StrictQuery):
    """How long to wait."""

    wait: float = Field(
        0.0, ge=0, le=MOST_WAIT_S, allow_inf_nan=False, description="Seconds to wait for the operation's end."
    )


class ListQuery(StrictQuery):
    """Which operations."""

    model: str | None = Field(None, pattern=MODEL_PATTERN, description="Only this model's.")
    limit: int = Field(20, ge=1, le=1000, description="Operations at most.")


_LOCATION = {
    "Location": {"schema": {"type": "string"}, "description": "The operation."},
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "The same request had come before, under the same key; nothing was begun.",
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **problems(404, 409, 503),
    200: {
        "description": "It is done (`wait`), or what would be done (`dry_run`).",
        "model": OperationDocument | PlanDocument,
    },
    202: {"description": "Begun. Its progress and outcome are at `Location`.", "headers": _LOCATION},
}
_POST: dict[str, Any] = {"status_code": 202, "response_model": OperationDocument, "responses": _RESPONSES}


@changes.post("/models/{model}/promotions", **_POST)
async def post_promotion(
    request: Request, model: Model, body: PromotionRequest, query: Annotated[WaitQuery, Query()], key: Key = None
) -> Response:
    """Move an alias to a release without losing a request, and watch it there."""
    return await _begin(request, model, body, query, key)


@changes.post("/models/{model}/rollbacks", **_POST)
async def post_rollback(
    request: Request, model: Model, body: RollbackRequest, query: Annotated[WaitQuery, Query()], key: Key = None
) -> Response:
    """Move an alias back to the release before, or to an earlier one. No gate is asked."""
    return await _begin(request, model, body, query, key)


@changes.post("/models/{model}/pins", **_POST)
async def post_pin(
    request: Request, model: Model, body: PinRequest, query: Annotated[WaitQuery, Query()], key: Key = None
) -> Response:
    """Serve a release under its own number, whatever aliases name."""
    return await _begin(request, model, body, query, key)


@changes.post("/models/{model}/unpins", **_POST)
async def post_unpin(
    request: Request, model: Model, body: UnpinRequest, query: Annotated[WaitQuery, Query()], key: Key = None
) -> Response:
    """Take a pinned release out of service. It stays published, and aliases that name it stay."""
    return await _begin(request, model, body, query, key)


@removals.post("/models/{model}/removals", **_POST)
async def post_removal(
    request: Request, model: Model, body: RemovalRequest, query: Annotated[WaitQuery, Query()], key: Key = None
) -> Response:
    """Take an alias, or a pin, out of service: its clients get the error that it is not served."""
    return await _begin(request, model, body, query, key)


@changes.post("/models/{model}/aborts", **_POST)
async def post_abort(
    request: Request, model: Model, body: AbortRequest, query: Annotated[WaitQuery, Query()], key: Key = None
) -> Response:
    """Stop the move that is under way. Before the switch it is reverted; after it, roll back instead."""
    return await _begin(request, model, body, query, key)


@looks.get("/operations", response_model=list[OperationDocument], responses=problems(503))
def get_operations(request: Request, query: Annotated[ListQuery, Query()]) -> Any:
    """The last operations, newest first."""
    api = api_of(request)
    return [_document(api, each) for each in api.operations.recent(model=query.model, limit=query.limit)]


@looks.get("/operations/{operation}", response_model=OperationDocument, responses=problems(404, 503))
async def get_operation(request: Request, operation: OperationId, query: Annotated[WaitQuery, Query()]) -> Any:
    """How an operation stands: 200 also where it failed, because the failure is the answer."""
    api = api_of(request)
    current = await run(request, api.operations.get, operation)
    if current is None:
        hours = api.control.settings.api.keep_hours
        raise not_found(
            f"there is no operation {operation}", f"They are kept for {hours:g} hours. What happened: GET /v1/history"
        )
    return await run(request, _document, api, await _waited(request, current, query.wait))


async def _begin(request: Request, model: str, body: Wanted, query: WaitQuery, key: str | None) -> Response:
    _require_right(request, body)
    wanted, key = AliasRequest(model, body), key or ""
    if body.dry_run:
        return JSONResponse(await run(request, _plan, api_of(request), wanted, caller_of(request).name, key), 200)
    return await _answer(request, wanted, wait_s=query.wait, key=key)


def _require_right(request: Request, body: Wanted) -> None:
    """Ask for scope admin where less is looked at than the settings say."""
    if not isinstance(body, ServingRequest):
        return
    caller, (settings, _) = caller_of(request), in_force(api_of(request).control)
    left_out = [g for g in settings.gates.promote_with if body.gates is not None and g not in body.gates]
    if left_out:
        require_scope(caller, Scope.ADMIN, what=f"promoting past the gate {', '.join(left_out)}")
    if isinstance(body, PromotionRequest) and body.bake is not None and body.bake.is_less_than(settings.bake):
        require_scope(caller, Scope.ADMIN, what="promoting with less of a bake than the settings ask for")


def _plan(api: Api, wanted: AliasRequest, caller: str, key: str) -> dict[str, Any]:
    """What would be done."""
    known_model(api.control, wanted.model)
    api.operations.find(wanted, caller=caller, key=key)
    messages: list[str] = []
    plan = carry_out(replace(api.control, say=messages.append), wanted)
    return {"result": dict(plan.result), "words": plan.words, "messages": messages}


async def _answer(request: Request, wanted: AliasRequest, *, wait_s: float, key: str) -> Response:
    api, caller = api_of(request), caller_of(request).name
    submitted = await run(request, _submit, api, wanted, caller, key)
    operation = submitted.operation
    request.state.operation, request.state.replayed = operation.id, submitted.replayed
    location = {"Location": f"/v1/operations/{operation.id}"}
    if submitted.replayed:
        location["Idempotency-Replayed"] = "true"
    current = await _waited(request, operation, wait_s) if wait_s else operation
    if wait_s and current.error is not None:
        problem = of_failure(current.error, operation=current.id)
        answer = problem.answer(request_id=request.state.request_id, path=request.url.path)
        answer.headers.update(location)
        return answer
    if wait_s and current.is_over:
        return JSONResponse(await run(request, _document, api, current), 200, location)
    # The answer to what was accepted is the same each time: how far it has come is at its address.
    return JSONResponse(_accepted(current), 202, location)


def _submit(api: Api, wanted: AliasRequest, caller: str, key: str) -> Submitted:
    known_model(api.control, wanted.model)
    return api.operations.submit(wanted, caller=caller, key=key)


async def _waited(request: Request, operation: Operation, wait_s: float) -> Operation:
    """The operation when it is over, or when that time is."""
    api, until = api_of(request), time.monotonic() + wait_s
    while not operation.is_over and (left := until - time.monotonic()) > 0:
        future = api.operations.future(operation.id)
        if future is None:
            # Its process has gone: the server settles its move, and the journal says how.
            await asyncio.sleep(min(_POLL_S, left))
        else:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=left)
        now: Operation | None = await run(request, api.operations.get, operation.id)
        operation = now or operation
    return operation


def _document(api: Api, operation: Operation) -> dict[str, Any]:
    try:
        phase = move_progress(api.control.repository.journal.records(), operation.move).phase
    except PolicyctlError:
        phase = MovePhase.WAITING  # nothing is known while the journal cannot be read
    if operation.is_over and phase is MovePhase.BAKING:  # somebody else moved the alias meanwhile
        phase = MovePhase.OVER
    return _shown(operation, phase)


def _accepted(operation: Operation) -> dict[str, Any]:
    """An operation as it was when it was accepted."""
    then = replace(operation, state=OperationState.RUNNING, finished="", result=None, words="", error=None, messages=())
    return _shown(then, MovePhase.WAITING)


def _shown(operation: Operation, phase: MovePhase) -> dict[str, Any]:
    document = {
        **to_json(operation),
        "phase": phase.value,
        "by": operation.actor,
        "finished": operation.finished or None,
        "request": {key: value for key, value in operation.request.items() if value is not None},
    }
    return {name: document[name] for name in OperationDocument.model_fields}
