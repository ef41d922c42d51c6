"""Doctor: can this machine run the engine that the settings name, and what to do if not."""

from __future__ import annotations

from collections.abc import Callable

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.triton import Triton
from policyctl.domain.choices import Engine
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.serving.container import address, connect, require_image
from policyctl.serving.container_request import user_of
from policyctl.serving.preflight import PORT_OPTIONS, Check, Status, port_checks, preflight
from policyctl.settings import ContainerBackends


def examine(control: Control) -> tuple[Check, ...]:
    """Every check that `policyctl serve` makes before it starts.

    Ports that our own running server holds are not asked for.
    """
    match control.settings.server.engine:
        case Engine.DOCKER:
            return _docker(control)
        case Engine.EXTERNAL:
            return _external(control)
        case Engine.EMBEDDED:
            return _embedded(control)


def _embedded(control: Control) -> tuple[Check, ...]:
    return preflight(
        repository=control.repository.root,
        host=control.settings.server.host,
        ports=_ports(control),
        native=control.settings.serving.native,
    )


def _ports(control: Control) -> dict[str, int]:
    """The ports that a server would take, by option; none while our own server has them."""
    if endpoints.read(control.repository) is not None:
        return {}
    server = control.settings.server
    numbers = (server.http_port, server.grpc_port, server.metrics_port, server.control_metrics_port)
    return {option: port for option, port in zip(PORT_OPTIONS, numbers, strict=True) if port}


def _docker(control: Control) -> tuple[Check, ...]:
    settings = control.settings.docker

    def engine() -> str:
        return f"version {connect().version()['Version']} answers at {address()}"

    def image() -> str:
        require_image(connect(), settings.image, python_backends=settings.backends is ContainerBackends.POLICYCTL)
        return settings.image

    return (
        _tried("docker", engine),
        _tried("image", image),
        _tried("user", lambda: f"{user_of(settings)} in the container"),
        *port_checks(_ports(control), host=control.settings.server.host),
    )


def _external(control: Control) -> tuple[Check, ...]:
    server = control.settings.server
    if not server.url:
        problem = "server.url does not say where it is"
        return (Check("triton", Status.FAILED, problem, "Set POLICYCTL_SERVER__URL to its gRPC HOST:PORT."),)
    client = Triton(control.endpoint(), timeout_s=server.timeout_s)

    def live() -> str:
        client.require_live()
        return f"answers at {server.url}"

    try:
        return (
            _tried("triton", live),
            _tried("key", lambda: f"lists {len(client.index())} loaded versions"),
        )
    finally:
        client.close()


def _tried(name: str, step: Callable[[], str]) -> Check:
    try:
        return Check(name, Status.OK, step())
    except PolicyctlError as error:
        return Check(name, Status.FAILED, error.problem, error.remedy or "Is POLICYCTL_SERVER__API_KEY its key?")
