"""The audit and the tokens, for callers with scope admin. Tokens are created where the repository is, never here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from policyctl.api.context import api_of
from policyctl.api.documents import AuditDocument, TokenDocument, problems
from policyctl.api.guard import guarded
from policyctl.api.problems import missing_is_not_found
from policyctl.api.routes.look import MODEL_PATTERN, StrictQuery
from policyctl.domain.tokens import Scope, Token
from policyctl.services.trust.tokens import revoke

router = APIRouter(prefix="/v1", tags=["admin"], route_class=guarded(Scope.ADMIN))


class AuditQuery(StrictQuery):
    """How much."""

    limit: int = Field(100, ge=1, le=1000, description="Lines at most.")


@router.get("/audit", response_model=list[AuditDocument], responses=problems(503))
def get_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> Any:
    """The last lines of the audit, oldest first."""
    return api_of(request).audit.last(query.limit)


@router.get("/tokens", response_model=list[TokenDocument], responses=problems(409, 503))
def get_tokens(request: Request) -> Any:
    """Every token, without its secret."""
    return [_document(token) for token in api_of(request).tokens.read()]


@router.delete("/tokens/{name}", response_model=TokenDocument, responses=problems(404, 409, 503))
def delete_token(
    request: Request, name: Annotated[str, Path(pattern=MODEL_PATTERN, description="Of the token.")]
) -> Any:
    """Revoke a token: the next call that shows it is refused. Revoking it again changes nothing."""
    with missing_is_not_found():
        return _document(revoke(api_of(request).control, name=name))


def _document(token: Token) -> dict[str, Any]:
    return {**token.public(), "state": token.state(datetime.now(UTC))}
