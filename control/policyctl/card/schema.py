"""What a model card may say: schema 2, field by field.

A figure never stands alone: evaluation, behaviour and performance each name the
evidence that they were read from, a file with its digest. `services.card`
refuses a figure that its evidence does not support.

The contract, and everything else that follows from files of the release, is
derived and not typed; where a card states it, it must be what the files say.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic_core import PydanticCustomError

SCHEMA_VERSION: Final = 2

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}(-dirty)?")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")
_LICENCE_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9.+:-]*"
_LICENCE: Final = re.compile(rf"\(?{_LICENCE_WORD}\)?( (AND|OR|WITH) \(?{_LICENCE_WORD}\)?)*")
_PATH_PART: Final = r"[A-Za-z0-9_.][A-Za-z0-9_.+-]*"
_PATH: Final = re.compile(rf"(?!.*\.\.){_PATH_PART}(/{_PATH_PART})*")


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise PydanticCustomError("form", "{expected}", {"expected": expected})
        return value

    return AfterValidator(check)


def _moment(value: str) -> str:
    try:
        aware = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise PydanticCustomError("form", "{expected}", {"expected": "a time like 2026-01-31T23:59:59+00:00"})
    return value


def _scalar(value: JsonValue) -> JsonValue:
    if not isinstance(value, bool | int | float | str):
        raise PydanticCustomError("form", "{expected}", {"expected": "a number, a text, true or false"})
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
Digest = Annotated[str, _matching(_DIGEST, "sha256: and 64 hexadecimal digits")]
Commit = Annotated[str, _matching(_COMMIT, "a git commit, 7 to 64 hexadecimal digits")]
Fingerprint = Annotated[str, _matching(_FINGERPRINT, "a machine's fingerprint, 12 hexadecimal digits")]
Licence = Annotated[str, _matching(_LICENCE, "an SPDX identifier or expression, for example Apache-2.0")]
Path = Annotated[str, _matching(_PATH, "a relative path of plain names")]
Moment = Annotated[str, AfterValidator(_moment)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Scalar = Annotated[JsonValue, AfterValidator(_scalar)]


class Section(BaseModel):
    """A part of a card: nothing unknown, no value converted, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Evidence(Section):
    """The file that a figure was read from."""

    file: Path = Field(description="below the release, or below the repository's .policyctl")
    digest: Digest
    kept_in: Literal["release", "journal", "bench"] = Field(
        "release", description="release: next to the card; journal: its digest stands there; bench: a kept result"
    )


class Contract(Section):
    """What the policy takes and gives; derived from contract.json."""

    digest: Digest | None = None
    observations: list[Text] = Field(min_length=1)
    outputs: list[Text] = Field(min_length=1)
    action_kind: Text
    distribution: Text
    max_batch: Count | None = Field(None, description="most rows of one inference; left out where there is no limit")
    memory: list[str] | None = Field(None, description="what it remembers within an episode, INPUT -> OUTPUT")
    histories: list[str] | None = Field(None, description="which observations hold the last steps")
    drive: Text | None = Field(None, description="how an action becomes a command of the machine")
    chunk: Text | None = Field(None, description="how an answer holds the actions of several steps")


class Framework(Section):
    """A library and its version."""

    name: Text
    version: Text | None = None


class Environment(Section):
    """What it was trained in."""

    id: Text
    options: dict[str, JsonValue] = Field(default_factory=dict)
    url: Text | None = None


class Training(Section):
    """How the policy came about."""

    algorithm: Text | None = None
    framework: Framework | None = None
    environment: Environment | None = None
    steps: Count | None = None
    environments: Count | None = Field(None, description="side by side")
    seed: int | None = None
    commit: Commit | None = None
    hyperparameters: dict[str, Scalar] = Field(default_factory=dict)
    libraries: dict[str, Text] = Field(default_factory=dict)


class Returns(Section):
    """Undiscounted return of an episode."""

    mean: float
    low: float
    high: float
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    std: NotNegative


class Evaluation(Section):
    """What the policy earned."""

    environment: Text
    episodes: Annotated[int, Field(ge=2)]
    first_seed: int
    returns: Returns
    mean_length: Positive | None = None
    format: Text | None = None
    time: Moment | None = None
    evidence: Evidence


class ActionComponent(Section):
    """How one element of the action spreads."""

    name: Text
    shares: dict[str, Share] | None = Field(None, description="discrete: how often each choice was taken")
    quantiles: list[float] | None = Field(
        None, min_length=7, max_length=7, description="continuous: at 0, 5, 25, 50, 75, 95, 100 %"
    )


class Behaviour(Section):
    """What its actions look like."""

    observations: Text
    rows: Count
    saturation: Share | None = None
    pairs: int = Field(0, ge=0, description="steps whose next one is known")
    roughness: NotNegative | None = Field(None, description="mean change from step to step; smooth is near 0")
    entropy: float | None = Field(None, description="of the action distribution, nats")
    actions: list[ActionComponent] = Field(default_factory=list)
    time: Moment | None = None
    evidence: Evidence


class Latency(Section):
    """By the client's clock, microseconds."""

    p50: Positive
    p95: Positive
    p99: Positive


class Machine(Section):
    """Where a figure was taken: see `policyctl hardware`."""

    fingerprint: Fingerprint
    words: Text


class Performance(Section):
    """How fast it answered on one machine under one load."""

    machine: Machine
    format: Text
    load: Text
    latency_us: Latency
    throughput_per_s: Positive
    memory_mb: Positive | None = None
    requests: Count
    failed: int = Field(0, ge=0)
    time: Moment | None = None
    evidence: Evidence


class ParityTolerance(Section):
    """How far an artifact was allowed to differ from the policy."""

    atol: NotNegative
    rtol: NotNegative
    tie: NotNegative


class ParityOfFormat(Section):
    """How far one artifact differed from the policy."""

    rows: Count
    near_ties: int = Field(0, ge=0)
    max_abs: dict[str, NotNegative] = Field(default_factory=dict)


class Parity(Section):
    """How artifacts were held against the policy at export; derived from parity.json."""

    tolerance: ParityTolerance | None = None
    formats: dict[str, ParityOfFormat] = Field(default_factory=dict)
    golden_rows: Count | None = None
    seed: int | None = None


class LimitsOfUse(Section):
    """What it is for, what it is not for, and what may go wrong."""

    intended: list[Text] = Field(default_factory=list)
    out_of_scope: list[Text] = Field(default_factory=list)
    risks: list[Text] = Field(default_factory=list)


class Owner(Section):
    """Who answers for it."""

    name: Text
    contact: Text | None = None


class Source(Section):
    """The file that was exported."""

    kind: Text
    file: Text | None = None
    digest: Digest | None = None
    normalizer: Text | None = None
    normalizer_digest: Digest | None = None


class Provenance(Section):
    """Where it comes from."""

    created: Moment | None = None
    source: Source | None = None
    repository: Text | None = None
    exported_with: dict[str, Text] = Field(default_factory=dict)


class ServiceLevel(Section):
    """Limits that the gate `service_level` holds this release to; see docs/gates.md."""

    p50_ms: Positive | None = None
    p95_ms: Positive | None = None
    p99_ms: Positive | None = None
    throughput_per_s: Positive | None = None
    memory_mb: Positive | None = None
    batch_size: Count | None = None
    request_rate: Positive | None = None
    clients: Count | None = None


class Gate(Section):
    """The last verdict of one gate."""

    gate: Text
    verdict: Text
    time: Moment
    evidence: Evidence


class Signature(Section):
    """Who let it out, and whether that counts where the card was made."""

    name: Text
    method: Text
    key: Text
    since: Moment
    standing: Text | None = Field(None, description="trusted, untrusted, invalid or unchecked")
    signer: Text | None = Field(None, description="by the trust store's name")
    evidence: Evidence


class File(Section):
    """A file of the release."""

    path: Path
    size_bytes: int = Field(ge=0)
    digest: Digest


class Release(Section):
    """What the journal says; only a full card has it."""

    model: Text
    release: Text
    slot: Count
    manifest_digest: Digest
    published: Moment
    by: Text
    files: list[File] = Field(default_factory=list)
    gates: list[Gate] = Field(default_factory=list)
    signatures: list[Signature] = Field(default_factory=list)
    problems: list[Text] = Field(default_factory=list, description="evidence that is missing or was changed")


class Card(Section):
    """A model card."""

    schema_version: Literal[2]
    name: Text | None = None
    summary: Text | None = None
    contract: Contract | None = None
    training: Training | None = None
    evaluation: list[Evaluation] = Field(default_factory=list)
    behaviour: list[Behaviour] = Field(default_factory=list)
    performance: list[Performance] = Field(default_factory=list)
    parity: Parity | None = None
    limits_of_use: LimitsOfUse | None = None
    licence: Licence | None = None
    owners: list[Owner] = Field(default_factory=list)
    provenance: Provenance | None = None
    service_level: ServiceLevel | None = None
    extensions: dict[str, JsonValue] = Field(default_factory=dict, description="whatever else; kept, not judged")
    release: Release | None = Field(None, description="written where a card is shown; a published card has none")

    def to_json(self) -> dict[str, Any]:
        """A plain object of what is stated, and nothing of what is not."""
        return self.model_dump(mode="json", exclude_unset=True)


RECOMMENDED: Final = ("summary", "training", "limits_of_use", "licence", "owners")
"""What people look for in a card, and a card may lack."""
