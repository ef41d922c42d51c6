"""The audit and the tokens, for whoever may see them. Tokens are created where the repository is, never here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from policyctl.api.context import Api, api_of
from policyctl.api.describe import problems
from policyctl.api.documents import AuditDocument, TokenDocument
from policyctl.api.guard import guarded
from policyctl.api.problems import not_found
from policyctl.api.requests import MODEL_PATTERN
from policyctl.domain.tokens import Scope
from policyctl.errors import UsageError
from policyctl.services.tokens import revoke

router = APIRouter(prefix="/v1", tags=["admin"], route_class=guarded(Scope.ADMIN))


class AuditQuery(BaseModel):
    """How much."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000, description="Lines at most.")


@router.get("/audit", response_model=list[AuditDocument], responses=problems(503))
async def get_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> Any:
    """The last lines of the audit, oldest first."""
    return await api_of(request).run(api_of(request).audit.last, query.limit)


@router.get("/tokens", response_model=list[TokenDocument], responses=problems(409, 503))
async def get_tokens(request: Request) -> Any:
    """Every token, without its secret."""
    now = datetime.now(UTC)
    found = await api_of(request).run(api_of(request).tokens.read)
    return [{**token.public(), "state": token.state(now)} for token in found]


@router.delete("/tokens/{name}", response_model=TokenDocument, responses=problems(404, 409, 503))
async def delete_token(
    request: Request, name: Annotated[str, Path(pattern=MODEL_PATTERN, description="Of the token.")]
) -> Any:
    """Revoke a token: it counts no more from the next call on. Revoking it again changes nothing."""
    return await api_of(request).run(_revoke, api_of(request), name)


def _revoke(api: Api, name: str) -> dict[str, Any]:
    try:
        found = revoke(api.control, name=name)
    except UsageError as error:
        raise not_found(error.problem, error.remedy) from error
    return {**found.public(), "state": found.state(datetime.now(UTC))}
