"""Which trace context a request carries."""

from __future__ import annotations

import pytest
from test_client_exchange import Server

from policyctl.client import PolicyClient
from policyctl.client.calls import Infer
from policyctl.client.trace_context import chosen
from policyctl.errors import UsageError

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        GIVEN.upper(),
        GIVEN + "-x",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "01" + GIVEN[2:],
        GIVEN + "\r\nx: y",
    ],
)
def test_what_is_no_trace_context_is_refused(text) -> None:
    """Before anything is sent, and it cannot smuggle another header in."""
    with pytest.raises(UsageError, match="traceparent"):
        chosen(text)


def test_what_is_given_is_sent_and_nothing_where_there_is_nothing() -> None:
    """An empty one sends nothing, whatever is active."""
    assert (chosen(GIVEN), chosen(""), chosen(None)) == (GIVEN, "", "")


def test_the_active_span_is_taken_if_it_is_sampled() -> None:
    """As OpenTelemetry's own propagator writes it."""
    trace = pytest.importorskip("opentelemetry.trace", reason="pip install opentelemetry-api")
    for flags, expected in ((1, GIVEN), (0, "")):
        context = trace.SpanContext(
            0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(flags)
        )
        with trace.use_span(trace.NonRecordingSpan(context)):
            assert chosen(None) == expected
            assert chosen("") == ""


def test_a_client_passes_it_on() -> None:
    """Through the exchange, to whatever makes the call."""
    server = Server()
    with PolicyClient("walker", url="127.0.0.1:1", transport=server) as client:
        client.act([0.0, 0.0], traceparent=GIVEN)
        client.act([0.0, 0.0])
    assert [c.traceparent for c in server.calls if isinstance(c, Infer)] == [GIVEN, ""]
