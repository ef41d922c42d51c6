"""Keep a load on a server while this process does something else, such as a promotion.

The load runs in a process of its own, so that neither slows the other through
Python's interpreter lock, and ends with this process, however that ends.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE
from policyctl.errors import ServerError, UsageError
from policyctl_benchmarks import load_records
from policyctl_benchmarks.load import LoadOptions
from policyctl_benchmarks.load_records import LoadReport, Request
from policyctl_benchmarks.load_rows import Expected

_STOP_S = 10.0


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
        self, options: LoadOptions, expected: Mapping[str, Expected], *, ready_timeout_s: float = 15.0
    ) -> None:
        if not expected:
            raise UsageError("a load needs the golden set of at least one release")
        self._options = options
        self._expected = expected
        self._ready_timeout_s = ready_timeout_s
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._report: LoadReport | None = None
        self._requests: list[Request] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="policyctl-load-")
        try:
            self._start(Path(self._folder.name))
            if self._next_event(self._ready_timeout_s) != "ready":
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
        if self._process is None or self._folder is None:
            raise UsageError("the load was not started", remedy="Use it in a `with` statement.")
        if self._process.stdin is not None:
            self._process.stdin.close()
        while (event := self._next_event(_STOP_S + self._options.deadline_s)) == "ready":
            pass
        if event != "report" or self._report is None:
            raise ServerError(f"the load ended without a report: {self._stderr()}")
        self._requests = load_records.load(Path(self._folder.name) / "requests.npz")
        return self._report

    def _start(self, folder: Path) -> None:
        options = self._options
        command = [sys.executable, "-m", "policyctl_benchmarks.load", "--stop-on-eof"]
        command += ["--model", options.model, "--url", options.url, "--alias", options.alias]
        command += ["--protocol", options.protocol.value, "--clients", str(options.clients)]
        command += ["--deadline-s", str(options.deadline_s), "--duration-s", str(options.duration_s)]
        command += ["--records", str(folder / "requests.npz")]
        if options.rate_per_client is not None:
            command += ["--rate", str(options.rate_per_client)]
        for number, (release, expected) in enumerate(self._expected.items()):
            place = folder / str(number)
            place.mkdir()
            (place / CONTRACT_FILE).write_text(json.dumps(expected.contract.to_json()), encoding="utf-8")
            (place / GOLDEN_FILE).write_bytes(expected.golden.to_bytes())
            command += ["--golden", f"{release}={place}"]
        with (folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def _next_event(self, timeout_s: float) -> str | None:
        """Name of the next event; None where none came, or no more will."""
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if event is None:
            return None
        if event["event"] == "report":
            self._report = LoadReport.from_json(event["report"])
        return str(event["event"])

    def _complaint(self) -> str:
        """Why there were no answers, in the words of the load itself."""
        try:
            errors = self.stop().errors
        except ServerError as error:
            return error.problem
        return errors[0][0] if errors else "no request ended"

    def _stderr(self) -> str:
        if self._folder is None:
            return ""
        return (Path(self._folder.name) / "stderr").read_text(encoding="utf-8", errors="replace")[-1000:]

    def _clean(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
