"""Every setting, and the only reader of the environment.

A setting comes from the command line, else from the environment
(``POLICYCTL_REPOSITORY``, ``POLICYCTL_SERVER__HTTP_PORT``; two underscores go
one level down), else from the defaults here. A variable with that prefix that
is not a setting is refused, for it is most likely a misspelt one.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from policyctl.domain.bake import Then
from policyctl.errors import UsageError

_PREFIX = "POLICYCTL_"
_INT32 = 2**31 - 1  # what config.pbtxt can hold

MOST_CLIENTS = 1024
"""That any measurement runs at a time: each is a thread of perf_analyzer, and more of them measure that one."""

# Kubernetes sets these by itself where a service is called policyctl.
_NOT_OURS = re.compile(r"(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?")


class ServerSettings(BaseModel):
    """Where Triton listens, or where a running one is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    grpc_port: int = Field(8001, ge=0, le=65535, description="0 takes a free one")
    metrics_port: int = Field(8002, ge=0, le=65535, description="0 takes a free one")
    url: str = Field("", description="gRPC host:port of a Triton that somebody else runs on this repository")
    http_url: str = Field("", description="its HTTP host:port; only measuring over HTTP needs it")
    api_key: SecretStr = Field(SecretStr(""), description="its key for the restricted repository API")
    timeout_s: float = Field(5.0, gt=0, allow_inf_nan=False, description="for one request of the control plane")
    load_timeout_s: float = Field(60.0, gt=0, allow_inf_nan=False, description="for one load")
    pinned_pool_mib: int | None = Field(None, ge=0, description="pinned memory; not set: from the hardware")
    cuda_pool_mib: int | None = Field(None, ge=0, description="of each GPU; not set: from the hardware")


class NativeMode(StrEnum):
    """Which of the two OpenVINO backends serves."""

    AUTO = "auto"
    """The native one where it can, else the Python-based one."""
    ON = "on"
    """The native one; nothing is served where it cannot."""
    OFF = "off"
    """The Python-based one."""


class ServingSettings(BaseModel):
    """How a release is configured when an alias is moved to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: int = Field(64, ge=1, le=_INT32)
    max_queue_delay_us: int = Field(0, ge=0, le=_INT32)
    instances: int = Field(1, ge=1, le=_INT32)
    gpu: bool = False
    native: NativeMode = Field(NativeMode.AUTO, description="the native OpenVINO backend: auto, on or off")
    preferred_batch_sizes: tuple[int, ...] = Field((), description="sizes at which a batch does not wait for more")
    parameters: dict[str, str] = Field(default_factory=dict)
    memory_reserve_mib: int | None = Field(
        64, ge=0, description="kept free when a release is promoted or pinned; null: memory is not looked at"
    )


class ServiceLevelSettings(BaseModel):
    """Limits of the gate `service_level`; a model card's section ``service_level`` goes before them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    p50_ms: float = Field(10.0, gt=0, allow_inf_nan=False)
    p95_ms: float = Field(20.0, gt=0, allow_inf_nan=False)
    p99_ms: float = Field(50.0, gt=0, allow_inf_nan=False)
    throughput_per_s: float = Field(1000.0, gt=0, allow_inf_nan=False, description="observations a second")
    memory_mb: float = Field(1000.0, gt=0, allow_inf_nan=False, description="resident, of one model instance")
    batch_size: int = Field(1, ge=1, le=_INT32)
    request_rate: float = Field(0.0, ge=0, allow_inf_nan=False, description="0 is throughput_per_s / batch_size")
    clients: int = Field(8, ge=1, le=MOST_CLIENTS, description="requests under way while throughput is judged")
    time_cap_s: float = Field(30.0, gt=0, allow_inf_nan=False)


class NonInferioritySettings(BaseModel):
    """Margins and time of the gate `non_inferiority`, declared before anything is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    p50: float = Field(0.05, gt=0, lt=1, description="0.05 is 5 % longer")
    p99: float = Field(0.10, gt=0, lt=1, description="0.10 is 10 % longer")
    throughput: float = Field(0.05, gt=0, lt=1, description="0.05 is 5 % less")
    time_cap_s: float = Field(60.0, gt=0, allow_inf_nan=False)
    alpha_failed: float = Field(0.05, gt=0, le=0.5, description="how often a release at the margin may be failed")
    alpha_passed: float = Field(0.05, gt=0, le=0.5, description="how often a release at the margin may be passed")
    clients: int = Field(1, ge=1, le=MOST_CLIENTS, description="requests under way")
    interval_ms: int = Field(100, ge=20, le=10_000, description="of each of a burst's three windows")
    seed: int | None = Field(None, ge=0, description="of the order of the bursts; another one each time if not set")


class BehaviourSettings(BaseModel):
    """Episodes and margin of the gate `behaviour`, in the environment's own return."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str = Field("", description="a gymnasium environment")
    episodes: int = Field(100, ge=2)
    margin: float | None = Field(None, ge=0, allow_inf_nan=False, description="how much less may be earned on average")
    seed: int = Field(0, ge=0, description="of the first episode")
    time_cap_s: float = Field(120.0, gt=0, allow_inf_nan=False)


class ReplaySettings(BaseModel):
    """Limits of the gate `replay`; what is not set is reported and not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    within: float = Field(0.01, ge=0, le=1, description="continuous actions agree within this share of their range")
    agreement: float | None = Field(0.9, ge=0, le=1, description="at least this share of observations")
    saturation_rise: float | None = Field(0.05, ge=0, le=1, description="more of the action at a bound, at most")
    roughness_rise: float | None = Field(None, ge=0, le=1, description="more change from step to step, at most")


class GateSettings(BaseModel):
    """Which gates measure when, and by which limits. A rollback asks none of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    validate_with: tuple[str, ...] = Field(("service_level", "non_inferiority"), description="by policyctl validate")
    promote_with: tuple[str, ...] = Field((), description="by policyctl promote, before it moves anything")
    service_level: ServiceLevelSettings = ServiceLevelSettings()
    non_inferiority: NonInferioritySettings = NonInferioritySettings()
    behaviour: BehaviourSettings = BehaviourSettings()
    replay: ReplaySettings = ReplaySettings()


class BakeSettings(BaseModel):
    """How a promotion is watched after the switch, and what too much is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    for_s: float = Field(0.0, ge=0, le=7 * 86400, allow_inf_nan=False, description="seconds; 0 is no bake")
    before_s: float = Field(
        10.0, ge=0, le=86400, allow_inf_nan=False, description="the incumbent is watched so long before the switch"
    )
    prometheus: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="URL of a Prometheus that scrapes Triton; empty: policyctl's own figures",
    )
    prometheus_token: SecretStr = Field(SecretStr(""), description="sent to it as a bearer token")
    on_inconclusive: Then = Field(Then.ROLLBACK, description="keep or rollback, where there is too little data")
    error_ratio: float = Field(
        0.01, gt=0, lt=1, description="share of requests that may fail; as many as the incumbent's, if more"
    )
    latency_ratio: float = Field(1.5, ge=1, allow_inf_nan=False, description="times the incumbent's latency")
    latency_floor_us: float = Field(500.0, ge=0, allow_inf_nan=False, description="less than so much longer is no harm")
    wrong_probes: int = Field(0, ge=0, description="golden probes that may be answered wrongly")


class TracingSettings(BaseModel):
    """OpenTelemetry from Triton; it takes the place of `policyctl record`, which needs Triton's own tracing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s,]+)?$",
        description="where spans go, OTLP over HTTP: http://HOST:4318/v1/traces; empty: not traced",
    )
    rate: int = Field(
        1000, ge=0, le=_INT32, description="one of so many requests; 0: only those that bring a sampled traceparent"
    )
    service: str = Field("policyctl", pattern=r"^[\w.-]+$", description="service.name of the spans")


class ScrubSettings(BaseModel):
    """How `policyctl serve` reads every published file again in the background."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    bytes_per_s: int = Field(4 << 20, ge=4096, description="read at most")
    pause_s: float = Field(600.0, ge=0, allow_inf_nan=False, description="between two passes")


class RetentionSettings(BaseModel):
    """What `policyctl gc` keeps beside what is named, pinned, served or under way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollbacks: int = Field(3, ge=1, description="releases that each alias can be rolled back to")
    days: float = Field(30.0, ge=0, allow_inf_nan=False, description="since published, or since an alias named it")
    newest: int = Field(2, ge=1, description="of each model, by time of publishing")


class StorageSettings(BaseModel):
    """How releases are kept on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share_from_bytes: int | None = Field(
        64 << 10, ge=1, description="identical files from this size on are stored once; null: never"
    )


class RegistrySettings(BaseModel):
    """How an OCI registry is spoken to by export-release and import-release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    username: str = ""
    password: SecretStr = SecretStr("")
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")
    timeout_s: float = Field(30.0, gt=0, allow_inf_nan=False, description="without a byte")


class SignatureRule(StrEnum):
    """What is asked of a release that is to be served."""

    OFF = "off"
    """Nothing."""
    WARN = "warn"
    """Say so where no trusted key signed it."""
    REQUIRED = "required"
    """Refuse it where no trusted key signed it."""


class IntegritySettings(BaseModel):
    """Signatures: whether they are asked for, and whom to believe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signatures: SignatureRule = Field(SignatureRule.OFF, description="off, warn or required")
    trust: Path | None = Field(None, description="the trust store; not set: .policyctl/trust.yaml in the repository")
    passphrase: SecretStr = Field(SecretStr(""), description="of the private key that signs")


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
    )

    repository: Path = Path("model_repository")

    @field_validator("repository", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """An empty variable would mean the working directory."""
        if value == "":
            raise ValueError("'' names no folder")
        return value

    lock_wait_s: float = Field(2.0, ge=0, allow_inf_nan=False, description="how long to wait for another writer")
    server: ServerSettings = ServerSettings()
    serving: ServingSettings = ServingSettings()
    gates: GateSettings = GateSettings()
    bake: BakeSettings = BakeSettings()
    tracing: TracingSettings = TracingSettings()
    scrub: ScrubSettings = ScrubSettings()
    retention: RetentionSettings = RetentionSettings()
    storage: StorageSettings = StorageSettings()
    registry: RegistrySettings = RegistrySettings()
    integrity: IntegritySettings = IntegritySettings()


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        overrides: From the command line; nested ones as dicts. None means not given.

    Raises:
        UsageError: A value is not allowed, or a variable is unknown; names every one.
    """
    if unknown := _unknown_variables():
        known = ", ".join(_PREFIX + name.upper() for name in Settings.model_fields)
        raise UsageError(
            f"settings: {', '.join(unknown)} is not a setting",
            remedy=f"Correct or unset it. The settings are {known}; two underscores go one level down.",
        )
    try:
        return Settings(**cast(Any, _given(overrides)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"settings: {problems}", remedy="Correct the option or the POLICYCTL_... variable.") from error
    except SettingsError as error:
        raise UsageError(f"settings: {error}", remedy="Give JSON, or set its parts: POLICYCTL_SERVER__URL.") from error


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that were not given, on every level."""
    return {k: _given(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}


def _unknown_variables() -> list[str]:
    """A misspelt variable would be ignored, and the command would work on another repository than was meant."""
    unknown = []
    for name in sorted(os.environ):
        if not name.upper().startswith(_PREFIX) or _NOT_OURS.fullmatch(name.upper().removeprefix(_PREFIX)):
            continue
        first, *deeper = name.upper().removeprefix(_PREFIX).lower().split("__")
        found = Settings.model_fields.get(first)
        nested = found is not None and isinstance(found.default, BaseModel)
        if found is None or (deeper and not nested):
            unknown.append(name)
    return unknown
