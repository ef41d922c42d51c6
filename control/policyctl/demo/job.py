"""The main job, end to end, on the real Triton.

It types the same commands as a person would and shows each. Between them it
keeps a load of clients on the server, checks every answer they get, and counts.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl.demo.background_server import BackgroundServer
from policyctl.demo.background_server import policyctl as run
from policyctl.demo.place import MODEL, Place
from policyctl.errors import GateError, PolicyctlError, UnsupportedError
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.measuring.load_records import LoadReport

ENV: Final = "CartPole-v1"
CLIENTS: Final = 8
_NEEDED: Final = ("pytriton", "openvino", "torch", "gymnasium", "stable_baselines3")
_SECONDS_AROUND_A_MOVE: Final = 1.5
_NOT_PASSED: Final = GateError.exit_code


@dataclass(frozen=True, slots=True)
class MoveUnderLoad:
    """A promotion or rollback, and what the clients saw of it.

    Attributes:
        name: Which move.
        load: The clients' requests.
        switch_ms: From the first effect that clients can notice to the last.
        total_ms: Of the whole move.
    """

    name: str
    load: LoadReport
    switch_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo counted and measured.

    Attributes:
        moves: Under load, in order of time.
        bench: Points of `policyctl bench`, as its JSON has them.
        returns: Mean return of each release in the environment, with its 95 % interval: mean, low, high.
        verified: How many parts of the repository `policyctl verify` held intact.
        took_s: Seconds that all of it took.
    """

    moves: tuple[MoveUnderLoad, ...]
    bench: Sequence[dict[str, Any]]
    returns: dict[str, dict[str, float]]
    verified: int
    took_s: float

    @property
    def bad(self) -> int:
        """Requests that failed or were answered wrongly."""
        return sum(move.load.failed + move.load.wrong for move in self.moves)


def require_installed() -> None:
    """Look before anything is written.

    Raises:
        UnsupportedError: Names what is missing, and the extras that bring it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"the demo needs {', '.join(missing)}, not installed here", remedy="pip install 'policyctl[serve,sb3]'"
        )


@dataclass(frozen=True, slots=True)
class Demo:
    """One run of the demo.

    Attributes:
        place: Where it works.
        say: Takes each line that people read.
    """

    place: Place
    say: Callable[[str], None]

    def run(self) -> DemoResult:
        """Export, publish, serve, promote under load, measure, roll back, verify.

        Raises:
            UnsupportedError: As `require_installed`.
            UsageError: The folders hold what no demo made.
            PolicyctlError: A command refused.
        """
        require_installed()
        self.remove()
        self.place.begin()
        started = time.monotonic()
        self._step(1, "Export a trained policy and publish it as release 1.0.0")
        self._export_and_publish("1.0.0")
        self._step(2, "Serve the repository with the embedded Triton, ask the gates, promote")
        self.say("\n$ policyctl serve &")
        with BackgroundServer(self.place.repository, self.place.log) as server:
            moves, bench, returns = self._on_the_server(server)
        self._step(6, "Verify every byte, now that the server has stopped")
        findings = self._command("verify")["findings"]
        self.say(f"   {len(findings)} of {len(findings)} intact")
        return DemoResult(moves, bench, returns, len(findings), time.monotonic() - started)

    def remove(self) -> tuple[Path, ...]:
        """Remove what an earlier demo left; which folders that was.

        Raises:
            UsageError: The folders hold what no demo made.
            PolicyctlError: A server is running on them.
        """
        self.place.prepare()
        if self.place.may_be_served and self._command("status", show=False)["server_live"]:
            raise PolicyctlError(
                f"a server is running on {self.place.repository}", remedy="Stop it (Ctrl-C in its terminal)."
            )
        return self.place.clear()

    def _on_the_server(
        self, server: BackgroundServer
    ) -> tuple[tuple[MoveUnderLoad, ...], Sequence[dict[str, Any]], dict[str, dict[str, float]]]:
        at = server.endpoint
        self.say(f"   Triton answers on HTTP {at['http'] or '(off)'} and gRPC {at['grpc']}")
        self._ask_gates("1.0.0")
        self._moved(self._command("promote", MODEL, "1.0.0", "--reason", "first release"))
        returns = {"1.0.0": self._evaluate()}
        self._step(3, f"Publish release 1.1.0 and promote it while {CLIENTS} clients ask without pause")
        self._export_and_publish("1.1.0")
        promotion = self._under_load(server, "promote", MODEL, "1.1.0", "--reason", "balances longer")
        returns["1.1.0"] = self._evaluate()
        self._step(4, "Measure with perf_analyzer")
        bench = self._command("bench", MODEL, "--concurrency", "1,8")["points"]
        self._step(5, "Roll back while the clients ask")
        rollback = self._under_load(server, "rollback", MODEL, "--reason", "the demo wants to see it")
        return (promotion, rollback), bench, returns

    def _command(self, *arguments: str, show: bool = True, may_exit: int = 0) -> Any:
        """Run one command and give its JSON; a refusal ends the demo, but for the exit code `may_exit`."""
        if show:
            self.say(f"\n$ policyctl {shlex.join(arguments)}")
        done = run(self.place.repository, *arguments, "--json")
        if done.returncode not in {0, may_exit}:
            raise PolicyctlError(
                f"policyctl {arguments[0]} exited with {done.returncode}: {done.stderr.strip()}",
                remedy="Mend that, and run the demo again.",
            )
        return json.loads(done.stdout)

    def _step(self, number: int, title: str) -> None:
        self.say(f"\n{number}. {title}")

    def _export_and_publish(self, release: str) -> None:
        """One release from its weights to its slot."""
        source, folder = self.place.archive(release), self.place.export(release)
        exported = self._command("export", str(source), "--trust-pickle", "-o", str(folder))
        for parity in exported["parity"]:
            largest = max(parity["max_abs"].values())
            self.say(
                f"   {parity['format']:<12} agrees on {parity['rows']} observations, largest difference {largest:.1e}"
            )
        published = self._command("publish", str(folder), "--model", MODEL, "--release", release)
        self.say(f"   slot {published['slot']}, manifest {published['manifest_digest'][:19]}..., read-only from now on")

    def _ask_gates(self, release: str) -> None:
        """Show each gate's verdict; on a busy machine a measured one may be inconclusive, which ends nothing."""
        validation = self._command("validate", MODEL, release, may_exit=_NOT_PASSED)
        for gate in validation["gates"]:
            self.say(f"   gate {gate['gate']:<13} {gate['verdict']}: {gate['reason']}")
        if validation["verdict"] in {"failed", "error"}:
            why = "; ".join(
                f"{gate['gate']}: {gate['reason']}" for gate in validation["gates"] if gate["verdict"] != "passed"
            )
            raise GateError(f"{MODEL} {release} did not pass its gates: {why}")

    def _under_load(self, server: BackgroundServer, *command: str) -> MoveUnderLoad:
        """Move while clients ask without pause and check each answer against the release that gave it."""
        expected = {release.name: read_expected(release) for release in self.place.exports()}
        options = LoadOptions(
            model=MODEL, url=server.endpoint["grpc"], clients=CLIENTS, deadline_s=30.0, duration_s=600.0
        )
        with BackgroundLoad(options, expected) as load:
            time.sleep(_SECONDS_AROUND_A_MOVE)
            moved = self._command(*command)
            time.sleep(_SECONDS_AROUND_A_MOVE)
        self._moved(moved)
        timings = moved["timings"]
        name = f"{'promotion' if command[0] == 'promote' else command[0]} to {moved['to']}"
        return MoveUnderLoad(name, load.report, timings["switch_ms"], timings["total_ms"])

    def _moved(self, moved: dict[str, Any]) -> None:
        timings = moved["timings"]
        self.say(
            f"   {moved['alias']}: {moved['from'] or 'nothing'} -> {moved['to']},"
            f" switched in {timings['switch_ms']:.0f} ms, {timings['total_ms']:.0f} ms in all"
        )

    def _evaluate(self) -> dict[str, float]:
        """What the served policy earns."""
        found = self._command("evaluate", MODEL, "--env", ENV, "--episodes", "20")["served"]["mean"]
        interval = {name: float(found[name]) for name in ("mean", "low", "high")}
        self.say(f"   return {in_words(interval)} in {ENV}, 20 episodes, 95 % interval")
        return interval


def in_words(interval: dict[str, float]) -> str:
    """A mean with its interval."""
    return f"{interval['mean']:.1f} ({interval['low']:.1f} .. {interval['high']:.1f})"
