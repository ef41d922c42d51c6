"""A stand-in for Docker, which the real `docker` package is pointed at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_stand_in import DockerStandIn

from policyctl.settings import DockerSettings


@pytest.fixture
def engine(monkeypatch) -> Iterator[DockerStandIn]:
    """A Docker that has the image of the settings."""
    found = DockerStandIn(images=(DockerSettings().image,))
    monkeypatch.setenv("DOCKER_HOST", found.host)
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    yield found
    found.close()
