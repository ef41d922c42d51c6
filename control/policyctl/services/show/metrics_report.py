"""The metrics as a command shows them: those of the running server, else what the journal alone says."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.exporter import fetch, read_text, text_of
from policyctl.errors import IntegrityError
from policyctl.services.control import Control
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.supervise.metrics import Metrics


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """One reading.

    Attributes:
        source: Where it comes from: ``host:port`` of the running server, or empty for the journal alone.
        text: In Prometheus's text format.
    """

    source: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"source": self.source or None, "families": read_text(self.text)}


def report(control: Control) -> MetricsReport:
    """What is exported now.

    Raises:
        UsageError: Nothing was ever published, and no server runs; or the journal may not be read.
        ServerError: The server that runs does not answer.
    """
    running = endpoints.read(control.repository)
    if running is not None and running.control_metrics:
        return MetricsReport(running.control_metrics, fetch(running.control_metrics))
    control.repository.require()
    with suppress(IntegrityError):  # the metrics themselves say so of a journal that was tampered with
        control.repository.journal.state()
    return MetricsReport("", text_of(Metrics(control, KnownJournal(control)).collect()))
