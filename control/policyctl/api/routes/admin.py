"""The audit, the tokens and the settings, for scope admin. Tokens are created where the repository is, never here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from policyctl.api.context import api_of
from policyctl.api.documents import AuditDocument, SettingDocument, TokenDocument, problems
from policyctl.api.guard import guarded
from policyctl.api.problems import missing_is_not_found
from policyctl.api.routes.look import MODEL_PATTERN, StrictQuery
from policyctl.domain.tokens import Scope, Token
from policyctl.services.settings.explained import explain
from policyctl.services.trust.tokens import revoke

router = APIRouter(prefix="/v1", tags=["admin"], route_class=guarded(Scope.ADMIN))


class AuditQuery(StrictQuery):
    """Which lines."""

    limit: int = Field(100, ge=1, le=1000, description="Lines at most.")
    skip: int = Field(0, ge=0, le=2**53, description="So many later lines are left out.")
    who: str | None = Field(None, max_length=64, description="Only those of this token.")
    failed: bool = Field(False, description="Only calls that were refused, and operations that failed.")

    def wants(self, entry: Mapping[str, Any]) -> bool:
        """Whether a line is one of those."""
        is_wanted = self.who is None or entry.get("who") == self.who
        return is_wanted and (not self.failed or entry.get("status", 0) >= 400 or entry.get("outcome") == "failed")


@router.get("/audit", response_model=list[AuditDocument], responses=problems(503))
def get_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> Any:
    """The last lines of the audit, oldest first."""
    return api_of(request).audit.last(query.limit, skip=query.skip, wanted=query.wants)


@router.get("/settings", response_model=list[SettingDocument], responses=problems(503))
def get_settings(request: Request) -> Any:
    """Every setting of this control API, as `policyctl config show` prints it. Secrets are masked."""
    return [setting.to_json() for setting in explain(api_of(request).reading())]


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
