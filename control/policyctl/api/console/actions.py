"""What the console changes: sign in and out, promote, roll back, abort. Each is a call of the control API."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from pydantic import Field, TypeAdapter, ValidationError

from policyctl.api.console.view import HOME, Form, fields_of, has_tls, page_of_ours, session_of, show, sign_in_page
from policyctl.api.context import api_of, run
from policyctl.api.guard import SCOPE_TO_MOVE, guarded, of_secret, place_of, read_body, require_rate, session_cookie
from policyctl.api.problems import ProblemError, of_error
from policyctl.api.routes import look, moves
from policyctl.domain.names import PRODUCTION
from policyctl.domain.tokens import Scope, digest_of_secret
from policyctl.errors import PolicyctlError
from policyctl.services.rollout.request import AbortRequest, PromotionRequest, RollbackRequest

doors = APIRouter(prefix=HOME)
"""Nobody is known here yet, so nothing but the size and the origin of a form is looked at before its token."""
leaving = APIRouter(prefix=HOME, route_class=guarded(Scope.READ, by_session=True))
changes = APIRouter(prefix=HOME, route_class=guarded(SCOPE_TO_MOVE, by_session=True))
_PROMOTION: Final = TypeAdapter(PromotionRequest)
_ROLLBACK: Final = TypeAdapter(RollbackRequest)
_ABORT: Final = TypeAdapter(AbortRequest)
_FIELDS: Final = ("release", "alias", "reason", "breaking")
_AT_ONCE: Final = moves.WaitQuery(wait=0.0)


class PromoteQuery(look.StrictQuery):
    """What the form of a promotion begins with."""

    release: str = Field("latest", max_length=128)
    alias: str = Field(PRODUCTION, max_length=64)


class SignInQuery(look.StrictQuery):
    """Where signing in leads."""

    after: str = Field(HOME, max_length=2000)


@doors.get("/sign-in")
async def sign_in_form(request: Request, query: Annotated[SignInQuery, Query()]) -> Response:
    """The page that asks for a token."""
    return sign_in_page(request, after=page_of_ours(query.after))


@doors.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session for the token of the form."""
    api, fields = api_of(request), fields_of(request, await read_body(request))
    request.state.after = after = page_of_ours(fields.get("after", ""))
    secret = fields.get("token", "").strip()
    request.state.caller = caller = of_secret(api, request, secret)
    require_rate(api, request, caller)
    with place_of(api, caller):
        api.sessions.end(request.cookies.get(session_cookie(api), ""))
        session = api.sessions.begin(digest_of_secret(secret))
    answer = RedirectResponse(after, 303)
    answer.set_cookie(
        session_cookie(api), session.name, path=HOME, secure=has_tls(request), httponly=True, samesite="strict"
    )
    return answer


@leaving.post("/sign-out")
async def sign_out(request: Request, form: Form) -> Response:
    """End the session."""
    api, session = api_of(request), session_of(request)
    if session is not None:
        api.sessions.end(session.name)
    answer = RedirectResponse(HOME, 303)
    answer.delete_cookie(session_cookie(api), path=HOME)
    return answer


@changes.get("/models/{model}/promote")
async def promote_form(request: Request, model: look.Model, query: Annotated[PromoteQuery, Query()]) -> Response:
    """The form of a promotion."""
    return await _promotion(request, model, {"release": query.release, "alias": query.alias})


@changes.post("/models/{model}/promote")
async def promote(request: Request, model: look.Model, form: Form) -> Response:
    """Show what a promotion would do; with `confirmed`, begin it."""
    try:
        planned = "confirmed" not in form
        given: dict[str, Any] = {name: form.get(name, "") for name in _FIELDS}
        given |= {"breaking": bool(given["breaking"]), "dry_run": planned}
        if not planned:
            given["incumbent"] = form.get("incumbent")
        body = _read(_PROMOTION, given)
        answer = await moves.post_promotion(request, model, body, _AT_ONCE, None if planned else _key(form))
    except (PolicyctlError, ProblemError) as error:
        refusal = error if isinstance(error, ProblemError) else of_error(error)
        return await _promotion(request, model, form, refusal=refusal)
    if planned:
        return await _promotion(request, model, form, plan=json.loads(bytes(answer.body)))
    return _to_operation(answer)


@changes.post("/models/{model}/rollback")
async def roll_back(request: Request, model: look.Model, form: Form) -> Response:
    """Move an alias back to the release that the form names, while it names the one that the page showed."""
    given = {name: form.get(name, "") for name in ("alias", "to", "reason")} | {"incumbent": form.get("incumbent")}
    return _to_operation(await moves.post_rollback(request, model, _read(_ROLLBACK, given), _AT_ONCE))


@changes.post("/models/{model}/abort")
async def abort(request: Request, model: look.Model, form: Form) -> Response:
    """Stop the move that the page showed, while it is under way."""
    await moves.post_abort(request, model, _read(_ABORT, {"move": form.get("move", "")}), _AT_ONCE)
    return RedirectResponse(page_of_ours(form.get("after", "")), 303)


def _key(form: Mapping[str, str]) -> str | None:
    """The idempotency key of the page that was shown: what is sent twice, because no answer came, begins one move."""
    key = form.get("key", "")
    return key if re.fullmatch(moves.KEY_PATTERN, key) else None


def _read(kind: TypeAdapter[Any], given: dict[str, Any]) -> Any:
    """A request of the API, read as its routes read it."""
    try:
        return kind.validate_python(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _to_operation(answer: Response) -> Response:
    return RedirectResponse(answer.headers["location"].replace("/v1/", f"{HOME}/", 1), 303)


async def _promotion(
    request: Request,
    model: str,
    form: Mapping[str, str],
    *,
    plan: Mapping[str, Any] | None = None,
    refusal: ProblemError | None = None,
) -> Response:
    known = await run(request, look.get_model, request, model)
    # What was typed may mean another release a moment later, so the second button names the one that is shown.
    release = form.get("release", "") if plan is None else plan["result"]["to"]
    published = await run(request, look.get_release, request, model, release) if release in known["releases"] else None
    answer = show(
        request,
        "promote.html",
        title=f"Promote {model}",
        status=200 if refusal is None else refusal.status,
        model=model,
        aliases=known["aliases"],
        gates=None if published is None else published["gates"],
        form={name: form.get(name, "") for name in _FIELDS},
        release=release,
        plan=plan,
        key=secrets.token_hex(16),
        failure=None if refusal is None else refusal.failure,
    )
    answer.headers.update({} if refusal is None else refusal.headers)
    return answer
