"""What a person wants of an alias, as one value.

The command line and the control API build an `AliasRequest`. One of two
executors carries it out: `services.rollout.here` on a repository of this
machine, `services.rollout.remote` through a control API. A dry run, an
idempotency key, a line of the audit and a retry follow from the value alone.

The classes of what is wanted are also the bodies of the HTTP API, so their
limits and descriptions stand here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Then
from policyctl.domain.choices import LONGEST_DRAIN_S
from policyctl.domain.json_values import to_json
from policyctl.domain.names import PRODUCTION
from policyctl.domain.operations import OperationKind
from policyctl.settings import BakeSettings

Selector = Annotated[
    str,
    Field(min_length=1, max_length=128, description="1.2.3, or what selects one: ^1.2, ~1.2.0, latest, an alias"),
]
Alias = Annotated[str, Field(min_length=1, max_length=64, description="which alias")]

Incumbent = Annotated[
    str | None,
    Field(
        max_length=128,
        description="the release that the alias must name still, empty for none; refused (moved) where somebody has"
        " moved it meanwhile",
    ),
]

DrainSeconds = Annotated[
    float | None,
    Field(
        strict=True,
        ge=0,
        le=LONGEST_DRAIN_S,
        allow_inf_nan=False,
        description="seconds at most that the release before stays reachable under its number, for episodes that"
        " began on it; 0 for not",
    ),
]


def _body(*examples: dict[str, Any]) -> ConfigDict:
    """How a class of requests is read from JSON: unknown fields are refused."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)} if examples else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeRequest:
    """How a release is watched after the switch; less than the settings ask for needs scope admin."""

    __pydantic_config__ = _body()
    for_s: Annotated[
        float | None, Field(strict=True, ge=0, le=7 * 86400, allow_inf_nan=False, description="seconds; 0 for no bake")
    ] = None
    on_inconclusive: Annotated[Then | None, Field(description="what follows where there is too little data")] = None
    end: Annotated[
        bool, Field(strict=True, description="do not watch it, and end a bake of this release that is under way")
    ] = False

    def over(self, settings: BakeSettings) -> BakeSettings:
        """The settings by which the release is watched."""
        for_s = settings.for_s if self.for_s is None else self.for_s
        then = self.on_inconclusive or settings.on_inconclusive
        return settings.model_copy(update={"for_s": 0.0 if self.end else for_s, "on_inconclusive": then})

    def is_less_than(self, settings: BakeSettings) -> bool:
        """Whether a release stays sooner, or on less evidence, than the settings ask for; where they ask at all."""
        wanted = self.over(settings)
        keeps = wanted.on_inconclusive is Then.KEEP and settings.on_inconclusive is not Then.KEEP
        return bool(settings.for_s) and (wanted.for_s < settings.for_s or keeps)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRequest:
    """What every request has in common."""

    kind: ClassVar[OperationKind]
    dry_run: Annotated[
        bool, Field(strict=True, description="say what would be done, change nothing, begin no operation")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRequest(AnyRequest):
    """Stop the move that is under way."""

    __pydantic_config__ = _body({}, {"move": "8c1f0e2d3b4a5968"})
    kind = OperationKind.ABORT
    move: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="only the move with this id; refused (moved) where another is"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRequest(AnyRequest):
    """What every request that moves, adds or removes an alias has in common."""

    reason: Annotated[str, Field(max_length=2000, description="why, kept in the journal")] = ""
    lock_wait_s: Annotated[
        float | None,
        Field(strict=True, ge=0, le=60, allow_inf_nan=False, description="seconds to wait for another writer"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRequest(MoveRequest):
    """What every request that puts a release into service has in common."""

    release: Selector
    format: Annotated[Format | None, Field(description="which artifact to serve")] = None
    gates: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] | None,
        Field(max_length=16, description="measuring gates; leaving out one of the settings' needs scope admin"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRequest(ServingRequest):
    """Serve a release under its own number, whatever aliases name."""

    __pydantic_config__ = _body({"release": "1.2.0", "reason": "robot 7 was tuned on it"})
    kind = OperationKind.PIN


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRequest(ServingRequest):
    """Move an alias to a release."""

    __pydantic_config__ = _body(
        {"release": "1.1.0", "alias": "production", "reason": "better on stairs"},
        {"release": "^1.1", "bake": {"for_s": 300, "on_inconclusive": "rollback"}},
        {"release": "1.1.0", "incumbent": "1.0.0"},
    )
    kind = OperationKind.PROMOTION
    alias: Alias = PRODUCTION
    bake: Annotated[BakeRequest | None, Field(description="how it is watched after the switch")] = None
    breaking: Annotated[
        bool,
        Field(
            strict=True,
            description="promote it although its contract breaks the incumbent's, whose clients then get no action",
        ),
    ] = False
    drain_s: DrainSeconds = None
    incumbent: Incumbent = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequest(MoveRequest):
    """Move an alias back to the release before, or to an earlier one; it drains only where that is asked for."""

    __pydantic_config__ = _body(
        {"reason": "slips on wet tiles"}, {"to": "1.0.0"}, {"to": "1.0.0", "incumbent": "1.1.0"}
    )
    kind = OperationKind.ROLLBACK
    to: Annotated[Selector | None, Field(description="the release to go back to; else the one before")] = None
    alias: Alias = PRODUCTION
    drain_s: DrainSeconds = None
    incumbent: Incumbent = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpinRequest(MoveRequest):
    """Take a pinned release out of service."""

    __pydantic_config__ = _body({"release": "1.2.0"})
    kind = OperationKind.UNPIN
    release: Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalRequest(MoveRequest):
    """Take an alias, or a pin, out of service."""

    __pydantic_config__ = _body({"alias": "staging", "reason": "retired"})
    kind = OperationKind.REMOVAL
    alias: Annotated[str, Field(min_length=1, max_length=64, description="which alias, or the number of a pin")]


Wanted = PromotionRequest | RollbackRequest | PinRequest | UnpinRequest | RemovalRequest | AbortRequest


@dataclass(frozen=True, slots=True)
class AliasRequest:
    """What is wanted, and of which model."""

    model: str
    wanted: Wanted

    @property
    def kind(self) -> OperationKind:
        """Promotion, rollback, pin, unpin, removal or abort."""
        return self.wanted.kind

    @property
    def body(self) -> dict[str, Any]:
        """What the HTTP API takes: the fields that differ from their defaults."""
        given = ((field.name, field.default, getattr(self.wanted, field.name)) for field in fields(self.wanted))
        return {name: to_json(value) for name, default, value in given if value != default}

    def to_json(self) -> dict[str, Any]:
        """What an operation shows of its request."""
        return {"kind": self.kind.value, "model": self.model, **self.body}

    @property
    def fingerprint(self) -> str:
        """Digest by which another request under the same idempotency key is known; a dry run has that of its move."""
        shown = {name: value for name, value in self.to_json().items() if name != "dry_run"}
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
