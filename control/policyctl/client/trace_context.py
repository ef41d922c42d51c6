"""The W3C trace context that a request carries, so that the server's spans join the caller's trace.

An application that traces with OpenTelemetry need not say anything: the span
that is active is taken. It is looked up only where the application has loaded
OpenTelemetry itself; this package neither needs nor imports it.

A span that is not sampled is not passed on by itself: Triton traces every
request that brings a context, whatever its flags and its own rate are.

Source: https://www.w3.org/TR/trace-context/ (version 00).
"""

from __future__ import annotations

import re
import sys
from typing import Any, Final

from policyctl.errors import UsageError

HEADER: Final = "traceparent"
_VALID: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def chosen(traceparent: str | None) -> str:
    """What to send: what the caller gave, else the active span, else nothing.

    Args:
        traceparent: ``00-<trace>-<span>-<flags>``; an empty one sends nothing; None takes the active span.

    Raises:
        UsageError: It is not of that form.
    """
    if traceparent is None:
        loaded = sys.modules.get("opentelemetry.trace")
        return "" if loaded is None else _active(loaded)
    if traceparent and _VALID.fullmatch(traceparent) is None:
        raise UsageError(
            f"traceparent {traceparent[:80]!r} is not of the form 00-<32 hex>-<16 hex>-<2 hex>",
            remedy="Give it in lower case as https://www.w3.org/TR/trace-context/ says, or leave it out.",
        )
    return traceparent


def _active(loaded: Any) -> str:
    context = loaded.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
