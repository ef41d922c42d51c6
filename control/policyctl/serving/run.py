"""One run of a server, whatever it runs in: its log, and the wait until it answers."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import ClassVar, Final

from policyctl.errors import ServerError
from policyctl.serving import ports
from policyctl.serving.command import ServerOptions
from policyctl.serving.logs import LogLine, OnLog, last_words, parse

_KEPT_LINES: Final = 1000


class ServerRun(ABC):
    """One run, started once and stopped once. Its methods may be called from any thread.

    Args:
        options: How the server runs.
        on_log: Called with every line of its log, on a thread of ours.
    """

    name: ClassVar[str]
    """What the user calls it, in messages."""
    poll_s: ClassVar[float]

    def __init__(self, options: ServerOptions, on_log: OnLog) -> None:
        self.options = options
        self._on_log = on_log
        self._last: deque[LogLine] = deque(maxlen=_KEPT_LINES)

    @abstractmethod
    def is_running(self) -> bool:
        """Whether this very run goes on (which says nothing about its answers)."""

    @abstractmethod
    def may_have_ended(self) -> bool:
        """Whether `is_running` is worth asking now; costs next to nothing, so it may be asked all the time."""

    @abstractmethod
    def ended(self) -> str:
        """How it ended, as a phrase."""

    @abstractmethod
    def stop(self, *, at_once: bool = False) -> None:
        """End it, and leave nothing behind; nothing happens where there is nothing.

        Args:
            at_once: Kill it, without asking it first: a server that is silent answers nobody any more.
        """

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to do where it does not answer."""

    def wait_live(self, timeout_s: float) -> None:
        """Return once this very run answers.

        Args:
            timeout_s: How long to wait.

        Raises:
            ServerError: It ended, or did not answer in time; names its last words.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise ServerError(
                    f"{self.name} ended ({self.ended()}) before it answered: {self._last_words()}", remedy=self.remedy
                )
            if self._answers():
                return
            time.sleep(self.poll_s)
        where = f"{self.options.host}:{self._port}"
        raise ServerError(
            f"{self.name} did not answer on {where} within {timeout_s:g} s: {self._last_words()}", remedy=self.remedy
        )

    def _refuse_taken_ports(self) -> None:
        for port in self.options.ports:
            if not ports.is_free(port, host=self.options.host):
                who = ports.holder(port) or "another process"
                raise ServerError(
                    f"port {port} of {self.options.host} is held by {who}",
                    remedy="Stop it, or choose other ports: policyctl serve --http-port, --grpc-port, --metrics-port"
                    " (0 takes a free one).",
                )

    @property
    def _port(self) -> int:
        """Where it is asked whether it lives; that of gRPC where it has no HTTP."""
        return self.options.http_port if self.options.http else self.options.grpc_port

    def _answers(self) -> bool:
        return not self.options.http or ports.is_live(self._port, host=self.options.host)

    def _last_words(self) -> str:
        return last_words(self._last)

    def _take_line(self, raw: bytes) -> LogLine:
        """Keep a line of the log, and forward it."""
        line = parse(raw.decode(errors="replace").rstrip("\r\n"), secret=self.options.api_key)
        self._last.append(line)
        self._forward(line)
        return line

    def _forward(self, line: LogLine) -> None:
        # A listener's defect must not stop the reading: a full pipe would stop the server.
        with contextlib.suppress(Exception):
            self._on_log(line)
