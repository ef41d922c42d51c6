"""The OpenAPI document: what FastAPI sees, and what only this project knows of its routes.

The answers are the services' own documents, so a field that one of them gains is
passed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from policyctl.api.guard import SCHEME
from policyctl.api.problems import MEDIA_TYPE
from policyctl.domain.operations import MovePhase, OperationKind, OperationState
from policyctl.domain.tokens import Scope
from policyctl.services.show.health import Grade

_WORDS: Final[Mapping[int, str]] = {
    401: "No token, or one that does not count.",
    403: "The token's scope is not enough.",
    404: "There is no such thing.",
    408: "The request came too slowly.",
    409: "It could not be done: `code` is integrity, gate, parity, busy, moved, move or unsupported.",
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


class Document(BaseModel):
    """What every answer has in common."""

    model_config = ConfigDict(extra="allow")


class ErrorDocument(Document):
    """An error, as the command line prints it with ``--json``."""

    code: str = Field(examples=["gate"])
    exit_code: int = Field(examples=[4])
    problem: str
    remedy: str


class Problem(Document):
    """RFC 9457; ``code`` and ``exit_code`` are those of the command line."""

    type: str = Field(description="urn:policyctl:problem:..., the kind of problem")
    title: str
    status: int
    detail: str = Field(description="problem and remedy in one")
    instance: str = Field(description="the path that was called")
    code: str = Field(description="usage, integrity, gate, parity, busy, moved, server, move, unsupported or error")
    exit_code: int = Field(description="what the command line would exit with")
    problem: str
    remedy: str
    request_id: str
    operation: str | None = Field(None, description="the operation that failed")
    errors: list[dict[str, str]] | None = Field(None, description="each field that is wrong, and why")


class Alive(Document):
    """It lives, or is ready."""

    status: str = Field(examples=["ok"])


class CheckDocument(Document):
    """One thing that was looked at; each kind has its facts."""

    name: str = Field(description="server, alias, integrity, journal, disk, moves or prometheus", examples=["alias"])
    status: Grade
    detail: str = Field(examples=["answered"])


class HealthDocument(Document):
    """How everything is; degraded is not down."""

    status: Grade
    checks: list[CheckDocument]


class ModelDocument(Document):
    """A model: its releases and what its aliases name."""

    model: str = Field(examples=["walker"])
    releases: list[str] = Field(description="by slot", examples=[["1.0.0", "1.1.0"]])
    latest: str | None = Field(description="what `latest` selects", examples=["1.1.0"])
    aliases: dict[str, str] = Field(examples=[{"production": "1.0.0"}])


class ReleaseDocument(Document):
    """A release, as `policyctl status --json` prints it."""

    model: str
    release: str
    slot: int
    published: str
    by: str
    manifest_digest: str
    collected: str | None
    gates: dict[str, str] = Field(examples=[{"integrity": "passed"}])
    aliases: list[str]


class CertifiedDocument(Document):
    """Which server answered the golden set rightly, and when."""

    server: str
    time: str


class MovingDocument(Document):
    """A move that is under way."""

    move: str
    kind: str
    started: str


class AliasDocument(Document):
    """What an alias names, by the journal; `/v1/status` says what really answers."""

    model: str
    alias: str
    served: str = Field(description="the Triton model that clients call")
    release: str | None = Field(description="null while it is promoted for the first time")
    slot: int | None
    format: str | None
    since: str | None
    trail: list[str] = Field(description="the releases by which it came there, oldest first, the named one last")
    pinned: bool
    certified: CertifiedDocument | None = Field(description="when its release was last certified")
    moving: MovingDocument | None


class EvidenceDocument(Document):
    """What a gate saw; its content is found by its digest."""

    what: str = Field(examples=["golden"])
    verdict: str = Field(description="passed, failed, inconclusive or error; empty where nobody judged")
    reason: str
    time: str
    actor: str
    digest: str


class RecordDocument(Document):
    """A record of the journal; each kind has its fields."""

    seq: int
    time: str
    actor: str
    kind: str


class HistoryDocument(Document):
    """A page of the journal, oldest first."""

    records: list[RecordDocument]
    before: int | None = Field(
        description="give it as `before` for the page of earlier records; null where this page is the first"
    )


class AliasStatusDocument(Document):
    """An alias, and what really answers."""

    model: str
    alias: str
    release: str
    answers: str | None


class StatusDocument(Document):
    """What `policyctl status --json` prints."""

    repository: str
    server: str
    server_live: bool
    healthy: bool
    releases: list[ReleaseDocument]
    aliases: list[AliasStatusDocument]


class NodeDocument(Document):
    """What a node of a fleet says of itself."""

    node: str
    time: str
    endpoint: str
    problems: dict[str, str] = Field(description="what it could not do, by the id of the move")
    serves: list[dict[str, Any]] = Field(description="of each alias the release and its generation")
    stopped: bool


class FleetDocument(Document):
    """What `policyctl --store URL status --json` prints."""

    store: str = Field(examples=["s3://policies/robots"])
    aliases: list[dict[str, Any]] = Field(description="model, alias, release, generation, since and by")
    open: list[str] = Field(description="moves that are being prepared")
    nodes: list[NodeDocument]
    silent: list[str] = Field(description="nodes whose last report is too old, or cannot be read")
    healthy: bool = Field(
        description="a node runs, and each that is not stopped reports, answers, and says that it serves what every"
        " alias names"
    )


class OperationDocument(Document):
    """What was asked, and how it stands."""

    id: str
    kind: OperationKind
    model: str
    alias: str
    state: OperationState
    phase: MovePhase = Field(description="how far the journal says that its move has come")
    move: str = Field(description="its move in the journal, once it has begun")
    by: str = Field(description="in whose name the journal records it")
    accepted: str
    finished: str | None
    request: dict[str, Any]
    result: dict[str, Any] | None = Field(description="what the command line prints with --json")
    words: str = Field(description="the same for people")
    error: ErrorDocument | None
    messages: list[str] = Field(description="what was said on the way")


class PlanDocument(Document):
    """What a dry run says."""

    result: dict[str, Any]
    words: str
    messages: list[str] = Field(description="what was said on the way")


class TokenDocument(Document):
    """A token, without its secret."""

    name: str
    scope: Scope
    last_four: str
    created: str
    by: str
    expires: str | None
    revoked: str | None
    state: str = Field(description="good, expired or revoked")


class SettingDocument(Document):
    """A setting, and where its value comes from; a secret is masked."""

    key: str = Field(examples=["api.reads_per_s"])
    value: Any
    default: Any
    place: str = Field(alias="from", description="the layer that won, with file and line", examples=["default"])
    layers: list[dict[str, Any]] = Field(description="every layer that sets it, highest first")
    description: str
    variable: str = Field(examples=["POLICYCTL_API__READS_PER_S"])
    applies: str = Field(description="when a change counts")
    secret: bool


class AuditDocument(Document):
    """A line of the audit."""

    time: str
    event: str = Field(description="asked or ended")
    who: str | None
    unlisted_before: int = Field(0, description="calls without a token that counts since the line before, not listed")


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
