"""A real Docker engine for the tests, with images of this machine's Triton and control plane."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from embedded import Embedded, embedded

from harness.docker_engine import Engine, MissingError, engine, final_instructions, image_environment
from policyctl import __version__
from policyctl.settings import DockerSettings

TRITON = DockerSettings().image
CONTROL = f"policyctl:{__version__}"


@pytest.fixture(scope="session")
def docker(tmp_path_factory) -> Iterator[Engine]:
    """An engine that has both images; the tests that need it are skipped where this machine can run none."""
    try:
        with engine(tmp_path_factory.mktemp("docker")) as found:
            found.import_image(TRITON, changes=[image_environment()])
            found.derive_image(CONTROL, base=TRITON, instructions="\n".join(final_instructions()))
            yield found
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def server(docker: Engine, tmp_path, monkeypatch) -> Iterator[Embedded]:
    """A repository with nothing in it, to be served by a container of that engine."""
    monkeypatch.setenv("DOCKER_HOST", docker.host)
    monkeypatch.setenv("POLICYCTL_SERVER__ENGINE", "docker")
    monkeypatch.setenv("POLICYCTL_SERVER__TIMEOUT_S", "60")
    with embedded(tmp_path) as found:
        yield found
