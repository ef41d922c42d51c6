"""The OpenAPI document: what FastAPI sees, and what only this project knows of its routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from policyctl.api.documents import Problem
from policyctl.api.guard import SCHEME
from policyctl.api.problems import MEDIA_TYPE

_WORDS: Final[Mapping[int, str]] = {
    401: "No token, or one that does not count.",
    403: "The token's scope is not enough.",
    404: "There is no such thing.",
    408: "The request came too slowly.",
    409: "It could not be done: `code` is integrity, gate, parity, busy, move or unsupported.",
    413: "The request is too large.",
    422: "The request is wrong: `code` is usage.",
    429: "Too often, or too much at a time. `Retry-After` says when to ask again.",
    503: "No Triton answers, or not in time.",
}
_EVERYWHERE: Final = (401, 403, 408, 413, 422, 429)

DESCRIPTION: Final = """Look at what is published and served, and move aliases, by HTTP.

Moves are asynchronous: a POST answers 202 with an operation, whose address is in `Location`. With `?wait=SECONDS` \
it answers when the move is over. An `Idempotency-Key` makes a POST safe to repeat.

Refusals are RFC 9457 problem documents with `problem`, `remedy`, and the command line's `code` and `exit_code`."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, with those that every guarded route has."""
    return {status: _refusal(status) for status in sorted({*_EVERYWHERE, *statuses})}


def _refusal(status: int) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    headers = {}
    if status == 429:
        headers = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    if status in {401, 403}:
        headers = {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "What is asked for."}}
    return {"description": _WORDS[status], "content": content, **({"headers": headers} if headers else {})}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, example in json.loads((Path(__file__).parent / "examples.json").read_text()).items():
        schemas[name]["examples"] = [example]
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {
        SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "`policyctl token create NAME --scope read|promote|admin`; each scope allows what those"
            " before it allow. On the machine itself, callers without one may look"
            " (setting `api.anonymous`).",
        }
    }
    return document
