"""What the control API is sent, as OpenAPI shows it: strict, and without unknown fields."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Then
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
ServedFormat = Annotated[Format | None, Field(strict=False, description="which artifact to serve")]
Gates = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]] | None,
    Field(max_length=16, description="measuring gates; leaving out one of the settings' needs scope admin"),
]


class Asking(BaseModel):
    """What every request has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BakeRequest(Asking):
    """How a release is watched after the switch; less than the settings ask for needs scope admin."""

    for_s: Annotated[
        float | None, Field(ge=0, le=7 * 86400, allow_inf_nan=False, description="seconds; 0 is no bake")
    ] = None
    on_inconclusive: Annotated[
        Then | None, Field(strict=False, description="what follows where there is too little data")
    ] = None
    end: Annotated[bool, Field(description="do not watch it, and end a bake of this release that is under way")] = False


class PromotionRequest(Asking):
    """Move an alias to a release."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"release": "1.1.0", "alias": "production", "reason": "better on stairs"},
                {"release": "^1.1", "bake": {"for_s": 300, "on_inconclusive": "rollback"}},
            ]
        }
    )

    release: Selector
    alias: Alias = PRODUCTION
    format: ServedFormat = None
    reason: Reason = ""
    gates: Gates = None
    bake: Annotated[BakeRequest | None, Field(description="how it is watched after the switch")] = None
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


class PinRequest(Asking):
    """Serve a release under its own number, whatever aliases name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"release": "1.2.0", "reason": "robot 7 was tuned on it"}]}
    )

    release: Selector
    format: ServedFormat = None
    reason: Reason = ""
    gates: Gates = None
    dry_run: DryRun = False
    lock_wait_s: LockWait = None


class UnpinRequest(Asking):
    """Take a pinned release out of service."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"release": "1.2.0"}]})

    release: Selector
    reason: Reason = ""
    dry_run: DryRun = False
    lock_wait_s: LockWait = None


class RemovalRequest(Asking):
    """Take an alias, or a pin, out of service."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"alias": "staging", "reason": "retired"}]})

    alias: Annotated[str, Field(min_length=1, max_length=64, description="which alias, or the number of a pin")]
    reason: Reason = ""
    dry_run: DryRun = False
    lock_wait_s: LockWait = None
