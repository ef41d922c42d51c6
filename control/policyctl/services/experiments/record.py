"""Record: keep what live traffic asks of an alias, through Triton's own tracing.

Nothing stands in the way of a request: the server copies its tensors to files
in a folder that only its owner may enter, and this process reads them, removes
them, and writes one recording.

Tracing ends with the recording whatever happens. Triton itself stops after
`count` requests. A marker is written before tracing is switched on and removed
after it was switched off; a marker whose recorder is gone (killed, out of
memory) is a leftover, which the supervisor or the next recording settles.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.adapters.tracing import TraceFiles
from policyctl.adapters.triton import Triton
from policyctl.domain.contract import Contract
from policyctl.domain.names import served_name
from policyctl.domain.recording import Recording, RecordingOrigin, Traced, build
from policyctl.errors import BusyError, ServerError, UnsupportedError, UsageError
from policyctl.services.control import Control, open_release
from policyctl.services.supervise.leftovers import (
    TRACING_OFF,
    TRACING_UNSET,
    mark,
    recording_lock,
    settle,
    unmark,
)
from policyctl.serving import triton_guard

POLL_S: Final = 0.2
CHUNK: Final = 100
"""Requests in a file of Triton's: what a crash of the server can lose."""
DRAIN_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How much to record.

    Attributes:
        rate: One of how many requests.
        one_stream: One control loop sends all of the traffic, so that
            consecutive requests are consecutive steps.
    """

    rate: int = 1
    count: int = 10_000
    seconds: float = 30.0
    one_stream: bool = False


def record(
    control: Control,
    options: RecordOptions,
    *,
    model: str,
    alias: str,
    output: Path,
    stop: threading.Event | None = None,
) -> Recording:
    """Record live traffic of an alias and write it to `output`, readable by its owner alone.

    Args:
        output: A file that is not there yet.
        stop: Set it to end early; what was recorded until then is kept.

    Raises:
        UsageError: The alias names nothing, the file is there, or nobody asked anything.
        UnsupportedError: The server was started without a trace file, or
            Triton cannot trace a dtype of the contract.
        BusyError: Somebody records or traces already.
        ServerError: No server.
    """
    control.repository.require()
    if output.exists() or not output.parent.is_dir():
        found = "is there already" if output.exists() else "is in no folder"
        raise UsageError(f"{output} {found}", remedy="Name a file that is not there yet, in a folder that is.")
    state = control.repository.journal.state()
    named = state.named(model, alias)
    contract = open_release(control.repository, state.release(model, named.placement.release)).contract
    _require_traceable(contract)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begun = time.monotonic()
    # Both clocks are this machine's: the files are read where they were written.
    offset_ns = time.time_ns() - time.monotonic_ns()
    session = _Session(control, options, served_name(model, alias), stop or threading.Event())
    with recording_lock(control.repository), control.triton() as client:
        traced, unread = session.run(client)
    releases = {int(slot): release for slot, release in control.repository.journal.state().slots(model).items()}
    origin = RecordingOrigin(
        model=model,
        alias=alias,
        releases=releases,
        rate=options.rate,
        one_stream=options.one_stream,
        started=started,
        seconds=round(time.monotonic() - begun, 3),
    )
    recording = build(contract, traced, origin, clock_offset_ns=offset_ns, unread=unread)
    if not recording.rows:
        why = ", ".join(f"{n} {reason}" for reason, n in recording.dropped.items()) or "nobody asked"
        raise UsageError(
            f"nothing was recorded from {session.served} in {origin.seconds:.0f} s ({why}); no file was written",
            remedy="Record while clients ask, for longer (--for), or with a smaller --rate.",
        )
    files.write_atomically(output, recording.to_bytes(), mode=0o600)
    return recording


@dataclass(slots=True)
class _Session:
    """One recording under way."""

    control: Control
    options: RecordOptions
    served: str
    stop: threading.Event
    _traced: list[Traced] = field(default_factory=list)

    def run(self, client: Triton) -> tuple[list[Traced], int]:
        """Trace until there is enough; the requests, and how many more were traced and not read."""
        while not settle(self.control, client):
            time.sleep(POLL_S / 4)
        settings = client.trace(self.served)
        folder = _trace_files(settings, self.served)
        self._require_safe(client)
        mark(self.control.repository, self.served, client.endpoint.server_id)
        sampled = 0
        try:
            client.trace(self.served, self._on())
            self.control.say(
                f"Recording {self.served}: one of {self.options.rate} requests, at most {self.options.count},"
                f" for at most {self.options.seconds:g} s. Ctrl-C ends it and keeps what there is."
            )
            self._follow(client, folder)
        finally:
            sampled = self._end(client, folder)
        return self._traced, max(0, sampled - len(self._traced))

    def _require_safe(self, client: Triton) -> None:
        if client.endpoint.triton_guard or self.control.settings.tracing.unguarded:
            return
        if not triton_guard.is_mended(version := client.version()):
            raise UnsupportedError(
                f"Triton {version} can crash while it traces, and nothing guards this server against it",
                remedy=triton_guard.REMEDY,
            )

    def _on(self) -> dict[str, Any]:
        return {
            "trace_level": ["TIMESTAMPS", "TENSORS"],
            "trace_rate": str(self.options.rate),
            "trace_count": str(self.options.count),
            "log_frequency": str(min(CHUNK, self.options.count)),
        }

    def _follow(self, client: Triton, folder: TraceFiles) -> None:
        deadline = time.monotonic() + self.options.seconds
        asked_at = time.monotonic()
        while not self.stop.wait(min(POLL_S, max(0.0, deadline - time.monotonic()))):
            self._traced += folder.take()
            if time.monotonic() >= deadline:
                return
            if time.monotonic() - asked_at < 1.0:
                continue
            asked_at = time.monotonic()
            try:
                now = client.trace(self.served)
            except ServerError as error:
                self.control.say(f"The server does not answer, the recording ends here: {error.problem}")
                return
            if "TENSORS" not in now["trace_level"]:
                self.control.say("The server was started again, or somebody switched tracing off: it ends here.")
                return
            if now["trace_count"] == ("0",):
                return

    def _end(self, client: Triton, folder: TraceFiles) -> int:
        """Switch off and read the rest; how many requests Triton says it traced, 0 where it does not say."""
        sampled = 0
        try:
            left = client.trace(self.served, TRACING_OFF)["trace_count"]
            sampled = self.options.count - int(left[0])
            client.trace(self.served, TRACING_UNSET)
        except ServerError as error:
            # The marker stays, so that the next process that reaches the server settles it.
            self.control.say(f"Tracing could not be switched off; the server's supervisor will: {error.problem}")
        else:
            unmark(self.control.repository)
        deadline = time.monotonic() + DRAIN_S
        self._traced += folder.take()
        while len(self._traced) < sampled and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
            self._traced += folder.take()
        folder.remove()
        return sampled


def _trace_files(settings: dict[str, tuple[str, ...]], served: str) -> TraceFiles:
    if settings.get("trace_mode") == ("opentelemetry",):
        raise UnsupportedError(
            "this server sends OpenTelemetry spans, and Triton traces in one way at a time: nothing can be recorded",
            remedy="Start it without POLICYCTL_TRACING__ENDPOINT for as long as you record.",
        )
    if "OFF" not in settings["trace_level"]:
        raise BusyError(
            f"{served} is traced already ({', '.join(settings['trace_level'])}), by somebody else",
            remedy="Let them switch it off first; two cannot share Triton's tracing.",
        )
    name = next(iter(settings.get("trace_file", ())), "")
    if not name or settings.get("trace_mode", ("triton",)) != ("triton",):
        raise UnsupportedError(
            "this server was started without a trace file, and Triton takes one at the start only",
            remedy="Start it with policyctl serve, or give tritonserver --trace-config triton,file=FOLDER/trace"
            " with a folder that only its owner may enter.",
        )
    prefix = Path(name)
    if not prefix.parent.is_dir():
        raise UnsupportedError(
            f"the server writes its traces to {prefix.parent}, which is not on this machine",
            remedy="Record on the machine of the server.",
        )
    return TraceFiles(prefix)


def _require_traceable(contract: Contract) -> None:
    for spec in (*contract.observations, contract.action):
        if spec.dtype == "float16":
            raise UnsupportedError(
                f"{spec.name} is float16, which Triton's tracing leaves empty",
                remedy="Export the policy with float32 observations and actions.",
            )
