"""Keep a load on a server while this process does something else, such as a promotion.

The load runs in a separate process, so that neither slows the other through
Python's interpreter lock. It ends with this process, however that ends.
"""

from __future__ import annotations

import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self, cast

from policyctl.errors import ServerError, UsageError
from policyctl.measuring.load import LoadOptions, run_load
from policyctl.measuring.load_records import LoadReport, Request
from policyctl.measuring.load_rows import Expected

_STOP_S = 60.0
_READY = "ready"


class BackgroundLoad:
    """A load that runs from entering this context to `stop`, or to leaving it.

    Args:
        options: How much to ask, and whom. Its duration still ends the load.
        expected: What each release that may answer must answer.
        ready_timeout_s: How long every client may take to its first answer.

    Raises:
        ServerError: On entering: no answers within `ready_timeout_s`.
    """

    def __init__(
        self, options: LoadOptions, expected: Mapping[str, Expected], *, ready_timeout_s: float = 120.0
    ) -> None:
        if not expected:
            raise UsageError("a load needs the golden set of at least one release")
        self._options = options
        self._expected = expected
        self._ready_timeout_s = ready_timeout_s
        self._events: queue.Queue[Any] = queue.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._report: LoadReport | None = None
        self._requests: list[Request] = []

    def __enter__(self) -> Self:
        try:
            self._start()
            if self._next_event(self._ready_timeout_s) != _READY:
                raise ServerError(
                    f"the load on {self._options.model} at {self._options.url} had no answers"
                    f" within {self._ready_timeout_s} s: {self._complaint()}",
                    remedy="Check that the server serves the alias before loading it.",
                )
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self._clean()

    @property
    def report(self) -> LoadReport:
        """What the load saw; after `stop`, or after leaving the context.

        Raises:
            UsageError: It is still running.
        """
        if self._report is None:
            raise UsageError("the load has not been stopped, so it has no report yet")
        return self._report

    @property
    def requests(self) -> list[Request]:
        """Every request; after `stop`."""
        return self._requests

    def stop(self) -> LoadReport:
        """End the load and give its report; a second call gives the same.

        Raises:
            ServerError: It ended without a report.
        """
        if self._report is not None:
            return self._report
        if self._process is None or self._process.stdin is None:
            raise UsageError("the load was not started", remedy="Use it in a `with` statement.")
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        while (event := self._next_event(_STOP_S + self._options.deadline_s)) == _READY:
            pass
        if event is None:
            raise ServerError("the load ended without a report; what it printed says why")
        self._report, self._requests = event
        return self.report

    def _start(self) -> None:
        command = [sys.executable, "-m", "policyctl.measuring.background_load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stdin = cast("IO[bytes]", self._process.stdin)
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        with suppress(BrokenPipeError):
            pickle.dump((self._options, dict(self._expected)), stdin)
            stdin.flush()

    def _read(self, stdout: IO[bytes]) -> None:
        with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError), stdout:
            while True:
                # Both ends of the pipe are ours.
                self._events.put(pickle.load(stdout))  # noqa: S301
        self._events.put(None)

    def _next_event(self, timeout_s: float) -> Any:
        """That all clients are ready, or report and requests; None where nothing came, or no more will."""
        with suppress(queue.Empty):
            return self._events.get(timeout=timeout_s)
        return None

    def _complaint(self) -> str:
        """Why there were no answers, in the words of the load itself."""
        try:
            errors = self.stop().errors
        except ServerError as error:
            return error.problem
        return errors[0][0] if errors else "no request ended"

    def _clean(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
            self._process = None


def main() -> None:
    """What the separate process runs: a load until its standard input closes."""
    # Ctrl-C goes to both processes, and the other one decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options, expected = pickle.load(sys.stdin.buffer)  # noqa: S301
    stop = threading.Event()
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    _send(run_load(options, expected, stop=stop, on_ready=lambda: _send(_READY)))


def _stop_at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def _send(event: object) -> None:
    sys.stdout.buffer.write(pickle.dumps(event))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
