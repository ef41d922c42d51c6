"""One of the two commits that `against_release.py` compares: its own files, its own server, the same policy.

It is driven by its own command line alone, which is what a release promises to
keep; its Python is never imported here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from policyctl.domain.artifacts import Format
from policyctl.domain.names import CANDIDATE, served_name
from policyctl.errors import ServerError
from policyctl.serving.memory import Memory
from policyctl.serving.memory import measure as measure_memory
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.checkouts import Checkout, CheckoutError

MODEL = "policy"
RELEASES = ("1.0.0", "1.1.0")
"""The same policy twice, so that there is something to move to."""

_CANDIDATE = served_name(MODEL, CANDIDATE)

Left = Callable[[], float]
"""Seconds that are left for preparing."""


class ReleaseSide:
    """One commit.

    Args:
        name: In words, for messages.
        folder: For everything of it; its files lie in ``tree`` below it.
        variables: Set for everything that it runs.
    """

    def __init__(self, name: str, folder: Path, *, variables: dict[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.repository = folder / "model_repository"
        own = {"POLICYCTL_REPOSITORY": str(self.repository), **variables}
        self.checkout = Checkout(name, folder / "tree", own)
        self.server = BackgroundServer(
            self.repository, folder / "serve.log", command=self.checkout.command, environment=self.checkout.environment
        )
        self.native_problem: str | None = None
        """Why its native backend could not be compiled; empty where it was, None where it has none."""

    def check(self, left: Left) -> None:
        """Make its interpreter, and see whether its command line starts.

        Raises:
            CheckoutError: It does not.
        """
        self.checkout.make_interpreter()
        self._run("--version", left=left)

    def prepare(self, policy: Path, left: Left, *, native: bool) -> None:
        """Make what serves `policy`: native backend if `native`, artifacts, releases.

        Raises:
            CheckoutError: It cannot.
        """
        try:
            self.native_problem = "" if native and self.checkout.build_native(limit_s=left()) else None
        except CheckoutError as error:
            self.native_problem = error.problem
        export = self.folder / "export"
        self._run("export", str(policy), "--trust-pickle", "-o", str(export), left=left)
        for release in RELEASES:
            self._run("publish", str(export), "--model", MODEL, "--release", release, left=left)

    def serve(self, formats: Sequence[Format], left: Left, *, parameters: str = "") -> None:
        """Start its server, and serve an alias for each of `formats`, named as that.

        Args:
            formats: Which artifacts.
            left: Seconds that are left.
            parameters: ``serving.parameters`` as JSON, in effect while the aliases are placed.

        Raises:
            CheckoutError: It cannot.
        """
        try:
            self.server.start(timeout_s=max(1.0, left()))
        except ServerError as error:
            raise CheckoutError(f"{self.name}: {error.problem}") from error
        variables = {"POLICYCTL_SERVING__PARAMETERS": parameters} if parameters else {}
        for chosen in formats:
            words = ("promote", MODEL, RELEASES[0], "--alias", chosen.value, "--format", chosen.value)
            self.checkout.policyctl(*words, limit_s=left(), variables=variables)

    def start_anew(self) -> None:
        """Stop its server and start another one, which serves the same.

        Raises:
            CheckoutError: It did not end, or the other one did not get ready.
        """
        try:
            self.server.stop()
            self.server.start()
        except (ServerError, subprocess.TimeoutExpired) as error:
            raise CheckoutError(f"{self.name} cannot be started anew: {error}") from error

    @property
    def grpc(self) -> str:
        """Where it answers."""
        try:
            return str(self.server.endpoint["grpc"])
        except (OSError, ValueError, KeyError) as error:
            raise CheckoutError(f"{self.name} does not say where it answers ({error!r})") from error

    @property
    def backend(self) -> str:
        """Which OpenVINO backend serves, in its own words."""
        return str(self.server.endpoint.get("openvino") or "unknown")

    def processes(self) -> tuple[int, ...]:
        """Process ids of its server and of the backends of its aliases; none where they cannot be told.

        What a promotion was certified by lingers for a second and is none of them.
        """
        try:
            pid, found = self._memory()
        except CheckoutError:
            return ()
        return (pid, *(stub.pid for stub in found.stubs if not stub.instance.startswith(_CANDIDATE)))

    def memory_mb(self) -> float:
        """Resident, of its server and of that one's backends.

        Raises:
            CheckoutError: It cannot be told.
        """
        _, found = self._memory()
        return (found.server_rss_bytes + sum(stub.rss_bytes for stub in found.stubs)) / 1e6

    def _memory(self) -> tuple[int, Memory]:
        try:
            pid = int(self.server.endpoint["pid"])
            return pid, measure_memory(pid)
        except (OSError, ValueError, KeyError, ServerError) as error:
            raise CheckoutError(f"the server of {self.name} cannot be looked at ({error!r})") from error

    def move(self, format: Format, release: str, left: Left) -> dict[str, float]:  # noqa: A002
        """Move an alias to `release`; milliseconds by what took them.

        Raises:
            CheckoutError: It refused, or says nothing of the time.
        """
        words = ("promote", MODEL, release, "--alias", format.value, "--format", format.value, "--json")
        try:
            found = json.loads(self._run(*words, left=left))["timings"]
            return {
                "switch of a promotion, ms": float(found["switch_ms"]),
                "promotion in all, ms": float(found["total_ms"]),
            }
        except (ValueError, KeyError, TypeError) as error:
            raise CheckoutError(f"{self.name} does not say how long a promotion took ({error!r})") from error

    def served(self, format: Format) -> str:  # noqa: A002
        """The Triton model of the alias for `format`."""
        return served_name(MODEL, format.value)

    def _run(self, *words: str, left: Left) -> str:
        return self.checkout.policyctl(*words, limit_s=left())


def median_moves(
    base: ReleaseSide,
    candidate: ReleaseSide,
    format: Format,  # noqa: A002
    *,
    moves: int,
    left: Left,
) -> dict[str, tuple[float, float]]:
    """How long a promotion takes on each side, in turn; medians in milliseconds, as far as the time goes.

    Raises:
        CheckoutError: A side refuses.
    """
    seen: dict[str, dict[str, list[float]]] = {}
    for number in range(moves):
        if left() < 0:
            break
        for side in (base, candidate) if number % 2 else (candidate, base):
            for what, took_ms in side.move(format, RELEASES[(number + 1) % 2], left).items():
                seen.setdefault(what, {}).setdefault(side.name, []).append(took_ms)
    return {
        what: (float(np.median(took[base.name])), float(np.median(took[candidate.name]))) for what, took in seen.items()
    }
