"""The pages of an administrator: tokens, the audit, settings with where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BeforeValidator, Field

from policyctl.api.console.view import HOME, Form, show
from policyctl.api.context import api_of
from policyctl.api.guard import caller_of, guarded
from policyctl.api.routes import admin, look
from policyctl.domain.json_values import to_json
from policyctl.domain.tokens import Scope
from policyctl.services import running
from policyctl.services.running import Running
from policyctl.services.settings.explained import DEFAULT

router = APIRouter(prefix=HOME, route_class=guarded(Scope.ADMIN, by_session=True))


class AuditQuery(admin.AuditQuery):
    """Which lines, of everybody where a form leaves the name empty."""

    who: Annotated[Annotated[str, Field(max_length=64)] | None, BeforeValidator(lambda text: text or None)] = None


class SettingsQuery(look.StrictQuery):
    """Which settings."""

    changed: bool = Field(False, description="Only what is not as by default.")


@router.get("/tokens")
def tokens_page(request: Request) -> Response:
    """Every token, without its secret."""
    tokens = sorted(admin.get_tokens(request), key=lambda token: token["state"] != "good")
    return show(request, "tokens.html", title="Tokens", tokens=tokens, mine=caller_of(request).name)


@router.post("/tokens/{name}/revoke")
def revoke_token(request: Request, name: Annotated[str, Path(pattern=look.MODEL_PATTERN)], form: Form) -> Response:
    """Revoke a token."""
    admin.delete_token(request, name)
    return RedirectResponse(f"{HOME}/tokens", 303)


@router.get("/audit")
def audit_page(request: Request, query: Annotated[AuditQuery, Query()]) -> Response:
    """The audit, the last line first."""
    lines = admin.get_audit(request, query)
    return show(
        request,
        "audit.html",
        title="Audit",
        lines=lines[::-1],
        query=query,
        earlier=query.skip + query.limit if len(lines) == query.limit else None,
        tokens=[token.name for token in api_of(request).tokens.read()],
    )


@router.get("/settings")
def settings_page(request: Request, query: Annotated[SettingsQuery, Query()]) -> Response:
    """Every setting of this control API, and what the server is set to where that is another."""
    api = api_of(request)
    reading, server = api.reading(), running.read(api.control.repository)
    settings = [each for each in admin.get_settings(request) if not query.changed or each["layers"]]
    return show(
        request,
        "settings.html",
        title="Settings",
        settings=settings,
        query=query,
        profile=reading.profile,
        sources=[str(path) for path in reading.files],
        warnings=reading.warnings,
        others=[] if server is None else _otherwise(settings, server),
        text=_text,
    )


def _otherwise(settings: Sequence[Mapping[str, Any]], server: Running) -> list[tuple[str, Any, Any, str]]:
    """Where the running server is set otherwise: the setting, its value here and there, and where that was set."""
    return [
        (name, each["value"], server.settings[name], server.places.get(name, DEFAULT))
        for each in settings
        if (name := each["key"]) in server.settings and server.settings[name] != to_json(each["value"])
    ]


def _text(value: Any) -> str:
    """A value on one line."""
    return value if isinstance(value, str) and value else json.dumps(to_json(value))
