"""Every setting, and the only reader of the environment and of settings files.

A setting comes from the command line, else from the environment
(``POLICYCTL_REPOSITORY``, ``POLICYCTL_SERVER__HTTP_PORT``; two underscores go
one level down), else from the file of the profile, else from the base file
(``policyctl.yaml`` or ``policyctl.toml``), else from the defaults here. What is
no setting is refused wherever it stands, for it is most likely a misspelt one.

A field may say when a change of it counts (`Applies`); without that it counts
when `policyctl serve` is started the next time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SecretStr

from policyctl.config.keys import APPLIES, Applies
from policyctl.config.reading import Source
from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Then
from policyctl.domain.choices import LONGEST_DRAIN_S, MOST_CLIENTS, STORE_SCHEMES, Anonymous, Engine, holds_secrets
from policyctl.domain.log_event import LogLevel
from policyctl.plain_files import scheme_of

PREFIX: Final = "POLICYCTL_"
_INT32 = 2**31 - 1  # what config.pbtxt can hold

_LIVE: Final[dict[str, JsonValue]] = {APPLIES: Applies.LIVE.value}
_COMMAND: Final[dict[str, JsonValue]] = {APPLIES: Applies.COMMAND.value}
_MOVE: Final[dict[str, JsonValue]] = {APPLIES: Applies.MOVE.value}
_START: Final[dict[str, JsonValue]] = {APPLIES: Applies.START.value}


def _here(value: Any) -> Any:
    """An empty variable would mean the working directory, and a URL a folder of that name."""
    if value == "":
        raise ValueError("'' names no folder")
    if isinstance(value, str) and (scheme := scheme_of(value)):
        raise ValueError(f"it begins with {scheme}, and names no file or folder of this machine")
    return value


def _bucket(value: Any) -> Any:
    """An address of a store, which every reader of a fleet sees; `adapters.bucket` looks at the rest."""
    if isinstance(value, str) and value and scheme_of(value) not in STORE_SCHEMES:
        raise ValueError(f"an address that begins with one of {', '.join(STORE_SCHEMES)}")
    if isinstance(value, str) and holds_secrets(value):
        raise ValueError("an address without a user, a query or a fragment: the environment gives credentials")
    return value


_Path = Annotated[Path, BeforeValidator(_here)]
_OptionalPath = Annotated[Path | None, BeforeValidator(_here)]


class Group(BaseModel):
    """Settings that belong together; nothing unknown, no infinity, and no change behind another's back."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HttpMode(StrEnum):
    """Whether the embedded Triton answers HTTP."""

    AUTO = "auto"
    """Where its guard is built."""
    ON = "on"
    """Also where one request can end it."""
    OFF = "off"
    """gRPC alone."""


class ServerSettings(Group):
    """Where Triton listens, or where a running one is found."""

    host: str = Field("127.0.0.1", description="address to listen on")
    http: HttpMode = Field(
        HttpMode.AUTO, description="whether the embedded Triton answers HTTP: auto (not without its guard), on or off"
    )
    http_port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    http_hosts: tuple[str, ...] = Field(
        (), description="further names by which HTTP clients may call the server; addresses and localhost always work"
    )
    max_request_mib: int = Field(
        64, ge=1, le=2047, description="largest request that the guard of the embedded Triton lets through"
    )
    lane: str = Field(
        "",
        description="UNIX socket by which clients of the same user ask the embedded Triton without a network:"
        " `local:` for the usual one, or `local:/path`; empty for none",
    )
    grpc_port: int = Field(8001, ge=0, le=65535, description="0 takes a free one")
    metrics_port: int = Field(8002, ge=0, le=65535, description="0 takes a free one")
    control_metrics_port: int = Field(
        8003, ge=0, le=65535, description="of the control plane's own metrics; 0 takes a free one"
    )
    url: str = Field(
        "",
        description="gRPC host:port of a Triton that somebody else runs on this repository",
        json_schema_extra=_COMMAND,
    )
    http_url: str = Field(
        "", description="its HTTP host:port; only measuring over HTTP needs it", json_schema_extra=_COMMAND
    )
    metrics_url: str = Field(
        "", description="its metrics' host:port; only commands that read metrics need it", json_schema_extra=_COMMAND
    )
    api_key: SecretStr = Field(SecretStr(""), description="its key for the restricted repository API")
    timeout_s: float = Field(5.0, gt=0, description="for one request of the control plane", json_schema_extra=_COMMAND)
    load_timeout_s: float = Field(60.0, gt=0, description="for one load", json_schema_extra=_LIVE)
    pinned_pool_mib: int | None = Field(None, ge=0, description="pinned memory; not set: from the hardware")
    cuda_pool_mib: int | None = Field(None, ge=0, description="of each GPU; not set: from the hardware")
    accept_losses: bool = Field(
        False,
        description="promote also on a Triton that loses requests while a served model is loaded again",
        json_schema_extra=_COMMAND,
    )
    warm_commands: bool = Field(
        True, description="keep a process that short commands start from, so that they start at once"
    )
    engine: Engine = Field(Engine.EMBEDDED, description="who runs Triton: embedded, docker or external")


class NativeMode(StrEnum):
    """Which of the two OpenVINO backends serves."""

    AUTO = "auto"
    """The native one where it can, else the Python-based one."""
    ON = "on"
    """The native one; nothing is served where it cannot."""
    OFF = "off"
    """The Python-based one."""


class ServingSettings(Group, json_schema_extra=_MOVE):
    """How a release is configured when an alias is moved to it."""

    max_batch_size: int = Field(64, ge=1, le=_INT32, description="largest batch that Triton forms or accepts")
    max_queue_delay_us: int = Field(0, ge=0, le=_INT32, description="how long a request may wait for others to join it")
    instances: int = Field(1, ge=1, le=_INT32, description="copies of the model")
    gpu: bool = Field(False, description="serve on GPUs")
    format: Format | None = Field(
        None, description="the artifact where --format says none; not set: openvino, in NVIDIA's container onnx"
    )
    native: NativeMode = Field(
        NativeMode.AUTO, description="the native OpenVINO backend: auto, on or off", json_schema_extra=_START
    )
    preferred_batch_sizes: tuple[int, ...] = Field((), description="sizes at which a batch does not wait for more")
    parameters: dict[str, str] = Field(
        default_factory=dict, description="options for the backend, by the native backend's names"
    )
    memory_reserve_mib: int | None = Field(
        64,
        ge=0,
        description="kept free when a release is promoted or pinned; null: memory is not looked at",
        json_schema_extra=_COMMAND,
    )


class ContainerBackends(StrEnum):
    """Which backends serve in the container of the engine docker."""

    NVIDIA = "nvidia"
    """Those of the image, which read a release's files themselves."""
    POLICYCTL = "policyctl"
    """Ours, mounted over the image's; its Python must have policyctl and the runtimes."""


class DockerSettings(Group):
    """The container that `policyctl serve --engine docker` runs."""

    image: str = Field("nvcr.io/nvidia/tritonserver:26.09-py3", min_length=1, description="must be on the machine")
    backends: ContainerBackends = Field(ContainerBackends.NVIDIA, description="nvidia or policyctl")
    network: str = Field("", description="a network of Docker's, or host; not set: the default bridge")
    user: str = Field("", description="UID:GID in the container; not set: the user that runs policyctl, never root")
    memory_mib: int = Field(4096, ge=256, description="more than this and the kernel ends it")
    cpus: float | None = Field(None, gt=0, description="not set: all")
    shm_mib: int = Field(256, ge=64, description="its own /dev/shm")
    pids: int = Field(1024, ge=256, description="processes and threads; Triton starts some for each core")


class ServiceLevelSettings(Group, json_schema_extra=_COMMAND):
    """Limits of the gate `service_level`; a model card's section ``service_level`` goes before them."""

    p50_ms: float = Field(10.0, gt=0, description="50 % of requests are answered within this")
    p95_ms: float = Field(20.0, gt=0, description="95 % of requests are answered within this")
    p99_ms: float = Field(50.0, gt=0, description="99 % of requests are answered within this")
    throughput_per_s: float = Field(1000.0, gt=0, description="observations a second")
    memory_mb: float = Field(1000.0, gt=0, description="resident, of one model instance")
    batch_size: int = Field(1, ge=1, le=_INT32, description="observations in a request")
    request_rate: float = Field(0.0, ge=0, description="0 is throughput_per_s / batch_size")
    clients: int = Field(8, ge=1, le=MOST_CLIENTS, description="requests under way while throughput is judged")
    time_cap_s: float = Field(30.0, gt=0, description="it has decided by then")


class NonInferioritySettings(Group, json_schema_extra=_COMMAND):
    """Margins and time of the gate `non_inferiority`, declared before anything is measured."""

    p50: float = Field(0.05, gt=0, lt=1, description="0.05 is 5 % longer")
    p99: float = Field(0.10, gt=0, lt=1, description="0.10 is 10 % longer")
    throughput: float = Field(0.05, gt=0, lt=1, description="0.05 is 5 % less")
    time_cap_s: float = Field(60.0, gt=0, description="it has decided by then")
    alpha_failed: float = Field(0.05, gt=0, le=0.5, description="how often a release at the margin may be failed")
    alpha_passed: float = Field(0.05, gt=0, le=0.5, description="how often a release at the margin may be passed")
    clients: int = Field(1, ge=1, le=MOST_CLIENTS, description="requests under way")
    interval_ms: int = Field(100, ge=20, le=10_000, description="of each of a burst's three windows")
    seed: int | None = Field(None, ge=0, description="of the order of the bursts; another one each time if not set")


class BehaviourSettings(Group, json_schema_extra=_COMMAND):
    """Episodes and margin of the gate `behaviour`, in the environment's own return."""

    env: str = Field("", description="a gymnasium environment")
    env_args: dict[str, JsonValue] = Field(default_factory=dict, description="its arguments, by name")
    wrappers: tuple[str, ...] = Field((), description="package.module:callable each, the innermost first")
    episodes: int = Field(100, ge=2, description="on common seeds")
    margin: float | None = Field(None, ge=0, description="how much less may be earned on average")
    seed: int = Field(0, ge=0, description="of the first episode")
    time_cap_s: float = Field(120.0, gt=0, description="it has decided by then")


class ReplaySettings(Group, json_schema_extra=_COMMAND):
    """Limits of the gate `replay`; what is not set is reported and not judged."""

    within: float = Field(0.01, ge=0, le=1, description="continuous actions agree within this share of their range")
    agreement: float | None = Field(0.9, ge=0, le=1, description="at least this share of observations")
    saturation_rise: float | None = Field(0.05, ge=0, le=1, description="more of the action at a bound, at most")
    roughness_rise: float | None = Field(None, ge=0, le=1, description="more change from step to step, at most")


class GateSettings(Group, json_schema_extra=_COMMAND):
    """Which gates measure when, and by which limits. A rollback asks none of them."""

    validate_with: tuple[str, ...] = Field(("service_level", "non_inferiority"), description="by policyctl validate")
    promote_with: tuple[str, ...] = Field((), description="by policyctl promote, before it moves anything")
    service_level: ServiceLevelSettings = ServiceLevelSettings()
    non_inferiority: NonInferioritySettings = NonInferioritySettings()
    behaviour: BehaviourSettings = BehaviourSettings()
    replay: ReplaySettings = ReplaySettings()


class BakeSettings(Group, json_schema_extra=_LIVE):
    """How a promotion is watched after the switch, and what too much is."""

    for_s: float = Field(0.0, ge=0, le=7 * 86400, description="seconds; 0: without a bake")
    before_s: float = Field(10.0, ge=0, le=86400, description="the incumbent is watched so long before the switch")
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
    latency_ratio: float = Field(1.5, ge=1, description="times the incumbent's latency")
    latency_floor_us: float = Field(500.0, ge=0, description="so much longer does not count as slower")
    wrong_probes: int = Field(0, ge=0, description="golden probes that may be answered wrongly")


class TracingSettings(Group):
    """OpenTelemetry from Triton; it takes the place of `policyctl record`, which needs Triton's own tracing."""

    endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s,]+)?$",
        description="where spans go, OTLP over HTTP: http://HOST:4318/v1/traces; empty: not traced",
    )
    rate: int = Field(
        1000, ge=0, le=_INT32, description="one of so many requests; 0: only those that bring a sampled traceparent"
    )
    service: str = Field("policyctl", pattern=r"^[\w.-]+$", description="service.name of the spans")
    unguarded: bool = Field(
        False, description="trace and record although Triton can crash of it: before 25.05, without its guard"
    )


class ScrubSettings(Group, json_schema_extra=_LIVE):
    """How `policyctl serve` reads every published file again in the background."""

    enabled: bool = Field(True, description="whether it runs")
    bytes_per_s: int = Field(4 << 20, ge=4096, description="read at most")
    pause_s: float = Field(600.0, ge=0, description="between two passes")


class ProberSettings(Group):
    """How `policyctl serve` asks each alias for its golden answers."""

    interval_s: float = Field(1.0, ge=0.05, le=3600, description="from one round to the next", json_schema_extra=_LIVE)


class LogFormat(StrEnum):
    """How `policyctl serve` speaks on stderr."""

    TEXT = "text"
    """In words."""
    JSON = "json"
    """A JSON object a line, as in the log file."""


class LogSettings(Group):
    """What is written down, and how much of it is kept."""

    level: LogLevel = Field(LogLevel.INFO, description="of the control plane", json_schema_extra=_LIVE)
    triton_level: LogLevel = Field(
        LogLevel.INFO, description="of tritonserver; debug is its verbose level 1", json_schema_extra=_LIVE
    )
    format: LogFormat = Field(LogFormat.TEXT, description="of what serve writes on stderr: text or json")
    file: bool = Field(True, description="JSON lines in .policyctl/logs/")
    max_bytes: int = Field(10 << 20, ge=4096, description="of one log file; then it is set aside")
    keep: int = Field(4, ge=0, le=100, description="log files that stay when they were set aside, of each kind")


class RetentionSettings(Group, json_schema_extra=_COMMAND):
    """What `policyctl gc` keeps besides what is named, pinned, served or under way."""

    rollbacks: int = Field(3, ge=1, description="releases that each alias can be rolled back to")
    days: float = Field(30.0, ge=0, description="since published, or since an alias named it")
    newest: int = Field(2, ge=1, description="of each model, by time of publishing")


class StorageSettings(Group, json_schema_extra=_COMMAND):
    """How releases are kept on disk."""

    share_from_bytes: int | None = Field(
        64 << 10, ge=1, description="identical files from this size on are stored once; null: never"
    )


class RegistrySettings(Group, json_schema_extra=_COMMAND):
    """How an OCI registry is spoken to by release export and release import."""

    username: str = Field("", description="who asks")
    password: SecretStr = Field(SecretStr(""), description="or token")
    ca_file: _OptionalPath = Field(None, description="certificates to trust instead of the system's")
    timeout_s: float = Field(30.0, gt=0, description="for an answer; of a file, without a byte")
    slowest_kib_per_s: float = Field(64.0, gt=0, description="of a file, on average; a slower transfer is given up")


class SignatureRule(StrEnum):
    """What is asked of a release that is to be served."""

    OFF = "off"
    """Nothing."""
    WARN = "warn"
    """Say so where no trusted key signed it."""
    REQUIRED = "required"
    """Refuse it where no trusted key signed it."""


class IntegritySettings(Group, json_schema_extra=_LIVE):
    """Signatures: whether they are asked for, and whom to believe."""

    signatures: SignatureRule = Field(SignatureRule.OFF, description="off, warn or required")
    trust: _OptionalPath = Field(None, description="the trust store; not set: .policyctl/trust.yaml in the repository")
    passphrase: SecretStr = Field(
        SecretStr(""), description="of the private key that signs", json_schema_extra=_COMMAND
    )


class SecuritySettings(Group, json_schema_extra=_COMMAND):
    """What a profile may forbid, and what has to be stated because it cannot be seen."""

    unpickle: bool = Field(True, description="whether --trust-pickle may unpickle what somebody trusts")
    tls_terminated: bool = Field(
        False,
        description="a proxy with TLS stands before everything that does not listen on loopback",
        json_schema_extra=_LIVE,
    )


class ApiSettings(Group, json_schema_extra=_LIVE):
    """Where `policyctl api` listens and what it lets through; and which one the command line speaks to."""

    host: str = Field("127.0.0.1", description="address to listen on", json_schema_extra=_START)
    port: int = Field(8004, ge=0, le=65535, description="0 takes a free one", json_schema_extra=_START)
    anonymous: Anonymous = Field(Anonymous.READ, description="callers of this machine without a token: none or read")
    max_body_bytes: int = Field(64 << 10, ge=1024, le=16 << 20, description="of one request")
    max_operations: int = Field(
        4,
        ge=1,
        le=64,
        description="promotions and pins under way; rollbacks, removals and aborts have as many separate places",
    )
    reads_per_s: float = Field(50.0, gt=0, description="of one token, on average")
    changes_per_minute: float = Field(60.0, gt=0, description="of one token, on average")
    timeout_s: float = Field(30.0, gt=0, description="of one call, besides what it asks to wait")
    keep_hours: float = Field(24.0, gt=0, description="that an operation can be asked for")
    keep_operations: int = Field(1000, ge=8, le=100_000, description="that are kept at most")
    disk_free_mib: int = Field(512, ge=0, description="below which /healthz says degraded")
    url: str = Field(
        "",
        description="of a control API that the command line uses, instead of a repository",
        json_schema_extra=_COMMAND,
    )
    token: SecretStr = Field(SecretStr(""), description="for that control API", json_schema_extra=_COMMAND)
    ca_file: _OptionalPath = Field(
        None, description="certificates to trust for it instead of the system's", json_schema_extra=_COMMAND
    )


class CutOff(StrEnum):
    """What a node does whose store cannot be read for longer than the lease."""

    KEEP = "keep"
    """It serves on what it read last."""
    WITHDRAW = "withdraw"
    """It serves nothing that it cannot know to be current."""


class FleetSettings(Group):
    """The store whose journal says what all nodes of a fleet serve."""

    store: Annotated[str, BeforeValidator(_bucket)] = Field(
        "", description="s3://, gs://, az:// or file:// address of the store; empty for no fleet"
    )
    node: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?)?$",
        description="name of this node in the fleet; not set: the host's name",
    )
    look_s: float = Field(0.5, gt=0, le=60, description="how often a node looks for a new record of the store")
    lease_s: float = Field(
        10.0, ge=1, le=3600, description="a node that reports nothing for so long, or cannot read the store, is cut off"
    )
    when_cut_off: CutOff = Field(CutOff.KEEP, description="keep or withdraw what a node serves after the lease")
    prepare_s: float = Field(
        300.0, gt=0, description="for all nodes to load and certify a release", json_schema_extra=_COMMAND
    )
    max_unavailable: int = Field(
        0, ge=0, description="nodes that may be cut off while a release is promoted", json_schema_extra=_COMMAND
    )


class Settings(Group):
    """The whole tree."""

    ENV_PREFIX: ClassVar[str] = PREFIX

    profile: str = Field(
        "", description="development, staging, production, or any that has a file", json_schema_extra=_LIVE
    )
    repository: _Path = Field(Path("model_repository"), description="the model repository")
    lock_wait_s: float = Field(2.0, ge=0, description="how long to wait for another writer", json_schema_extra=_COMMAND)
    drain_s: float = Field(
        30.0,
        ge=0,
        le=LONGEST_DRAIN_S,
        description="how long at most a promotion keeps an incumbent with memory reachable; 0: not at all",
        json_schema_extra=_COMMAND,
    )
    server: ServerSettings = ServerSettings()
    docker: DockerSettings = DockerSettings()
    serving: ServingSettings = ServingSettings()
    gates: GateSettings = GateSettings()
    bake: BakeSettings = BakeSettings()
    tracing: TracingSettings = TracingSettings()
    scrub: ScrubSettings = ScrubSettings()
    prober: ProberSettings = ProberSettings()
    logs: LogSettings = LogSettings()
    retention: RetentionSettings = RetentionSettings()
    storage: StorageSettings = StorageSettings()
    registry: RegistrySettings = RegistrySettings()
    integrity: IntegritySettings = IntegritySettings()
    api: ApiSettings = ApiSettings()
    fleet: FleetSettings = FleetSettings()
    security: SecuritySettings = SecuritySettings()


def source(*, config: Path | None = None, **overrides: Any) -> Source[Settings]:
    """Where settings come from; can be read again and again.

    Args:
        config: The base file that the command line names.
        overrides: From the command line; nested ones as dicts. None means not given.
    """
    return Source(Settings, given(overrides), config)


def load(*, config: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        config: The base file that the command line names.
        overrides: From the command line; nested ones as dicts. None means not given.

    Raises:
        UsageError: A value is not allowed, a name unknown, or a rule of the profile broken; names every one.
    """
    return source(config=config, **overrides).read().require()


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those that were not given, on every level, and without groups of which none was."""
    stated = {k: given(v) if isinstance(v, Mapping) else v for k, v in values.items() if v is not None}
    return {k: v for k, v in stated.items() if v != {}}
