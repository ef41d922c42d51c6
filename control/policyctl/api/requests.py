"""What the control API is sent, as OpenAPI shows it: strict, and without unknown fields."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from policyctl.domain.artifacts import Format
from policyctl.domain.names import PRODUCTION

MOST_WAIT_S: Final = 120.0
MODEL_PATTERN: Final = r"^[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?$"
RELEASE_PATTERN: Final = r"^[0-9A-Za-z.+-]{1,128}$"
KEY_PATTERN: Final = r"^[!-~]{1,128}$"

Selector = Annotated[
    str,
    Field(min_length=1, max_length=128, description="1.2.3, or what selects one: ^1.2, ~1.2.0, latest, an alias"),
]
Alias = Annotated[str, Field(min_length=1, max_length=64, description="which alias")]
Reason = Annotated[str, Field(max_length=2000, description="why, kept in the journal")]
DryRun = Annotated[bool, Field(description="say what would be done, change nothing, begin no operation")]
LockWait = Annotated[
    float | None, Field(ge=0, le=60, allow_inf_nan=False, description="seconds to wait for another writer")
]


class Asking(BaseModel):
    """What every request has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PromotionRequest(Asking):
    """Move an alias to a release."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"release": "1.1.0", "alias": "production", "reason": "better on stairs"}]}
    )

    release: Selector
    alias: Alias = PRODUCTION
    format: Annotated[Format | None, Field(strict=False, description="which artifact to serve")] = None
    reason: Reason = ""
    gates: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]] | None,
        Field(max_length=16, description="measuring gates; leaving out one of the settings' needs scope admin"),
    ] = None
    dry_run: DryRun = False
    lock_wait_s: LockWait = None


class RollbackRequest(Asking):
    """Move an alias back to the release before, or to an earlier one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "slips on wet tiles"}, {"to": "1.0.0"}]})

    to: Annotated[Selector | None, Field(description="the release to go back to; else the one before")] = None
    alias: Alias = PRODUCTION
    reason: Reason = ""
    dry_run: DryRun = False
    lock_wait_s: LockWait = None


class AbortRequest(Asking):
    """Stop the move that is under way."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    dry_run: DryRun = False
