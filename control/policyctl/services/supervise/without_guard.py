"""What the embedded Triton does not do where its guard is not built: it answers no HTTP, and sends no spans."""

from __future__ import annotations

from policyctl.domain.log_event import LogLevel
from policyctl.errors import UnsupportedError
from policyctl.services.control import Control
from policyctl.serving import triton_guard
from policyctl.serving.compiled import how_to_have_them
from policyctl.settings import HttpMode


def answers_http(control: Control) -> bool:
    """Whether the embedded Triton answers HTTP; says what can end it where its guard is not built."""
    mode = control.settings.server.http
    if triton_guard.find() is not None:
        return mode is not HttpMode.OFF
    control.tell(
        "WARNING the guard of this Triton is not built: a client can end the server for everybody, by cancelling gRPC"
        f" calls or by cutting short the memory that it shares. For the guard: {how_to_have_them()}.",
        level=LogLevel.WARNING,
    )
    if mode is HttpMode.ON:
        control.tell(
            "WARNING server.http is on without the guard: any web page that is opened on this machine can end the"
            " server with one request.",
            level=LogLevel.WARNING,
        )
    elif mode is HttpMode.AUTO:
        control.tell("HTTP is off: without the guard, one request can end the server. gRPC serves.")
    return mode is HttpMode.ON


def require_guard(control: Control) -> None:
    """Spans are of every request that brings a context, whatever the rate: the embedded Triton needs its guard."""
    chosen = control.settings.tracing
    if chosen.endpoint and not chosen.unguarded and triton_guard.find() is None:
        raise UnsupportedError(
            "the embedded Triton can crash where it sends spans, and the guard that prevents it is not built",
            remedy=triton_guard.REMEDY,
        )
