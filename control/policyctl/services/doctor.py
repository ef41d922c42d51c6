"""Doctor: can this machine run the embedded Triton, and what to do if not."""

from __future__ import annotations

from policyctl.adapters import endpoint as endpoints
from policyctl.services.control import Control
from policyctl.serving.preflight import Check, preflight


def examine(control: Control) -> tuple[Check, ...]:
    """Every check that `policyctl serve` makes before it starts.

    Ports that our own running server holds are not asked for.
    """
    server = control.settings.server
    running = endpoints.read(control.repository)
    ports = (server.http_port, server.grpc_port, server.metrics_port, server.control_metrics_port)
    return preflight(
        repository=control.repository.root,
        host=server.host,
        ports=() if running is not None else tuple(p for p in ports if p),
        native=control.settings.serving.native,
    )
