"""Every setting, and the only reader of the environment.

A setting comes from the command line, else from the environment
(``POLICYCTL_REPOSITORY``, ``POLICYCTL_SERVER__HTTP_PORT``; two underscores go
one level down), else from the defaults here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from policyctl.errors import UsageError


class ServerSettings(BaseModel):
    """Where Triton listens, or where a running one is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    grpc_port: int = Field(8001, ge=0, le=65535, description="0 takes a free one")
    metrics_port: int = Field(8002, ge=0, le=65535, description="0 takes a free one")
    url: str = Field("", description="HTTP host:port of a Triton that somebody else runs on this repository")
    grpc_url: str = Field("", description="its gRPC host:port")
    api_key: SecretStr = Field(SecretStr(""), description="its key for the restricted repository API")
    timeout_s: float = Field(5.0, gt=0, description="for one request of the control plane")
    load_timeout_s: float = Field(60.0, gt=0, description="for one load")


class ServingSettings(BaseModel):
    """How a release is configured when an alias is moved to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: int = Field(64, ge=1)
    max_queue_delay_us: int = Field(0, ge=0)
    instances: int = Field(1, ge=1)
    gpu: bool = False
    parameters: dict[str, str] = Field(default_factory=dict)


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(env_prefix="POLICYCTL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    repository: Path = Path("model_repository")
    lock_wait_s: float = Field(0.0, ge=0, description="how long to wait for another writer")
    server: ServerSettings = ServerSettings()
    serving: ServingSettings = ServingSettings()


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        overrides: From the command line; nested ones as dicts. None means not given.

    Raises:
        UsageError: A value is not allowed; names every one.
    """
    given = {
        key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for key, value in overrides.items()
        if value is not None
    }
    try:
        return Settings(**cast(Any, given))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"settings: {problems}", remedy="Correct the option or the POLICYCTL_... variable.") from error
