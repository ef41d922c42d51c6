"""Two commits from their files to a verdict, for `against_release.py`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import Format
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import PolicyctlError, UsageError
from policyctl.gates import golden, non_inferiority
from policyctl.gates.non_inferiority import Plan
from policyctl.services.control import Control, OpenRelease, asker, open_release
from policyctl.services.performance import bursts_of, compare, plan_of
from policyctl.serving.backends.spin import PARAMETER
from policyctl.settings import load as load_settings
from policyctl_benchmarks.checkouts import CheckoutError, CheckoutTimeError
from policyctl_benchmarks.paired import Side
from policyctl_benchmarks.release_report import Compared, Way
from release_sides import MODEL, RELEASES, ReleaseSide, median_moves

POLICY = Path("examples", "cartpole", "ppo-1.0.0.zip")
"""In this tree; both sides serve it."""

_PREPARE_S = 60.0
_MOVES_S = 30.0
_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        base: A commit; empty for the last release.
        ways: What is measured.
        seconds: For one way, at most.
        limit_s: For everything.
        slow_us: Put into this tree's backends, for a test; 0 for none.
        moves: Promotions that are timed on each side, 0 for none.
        seed: Of the orders.
        say: Where words for people go.
    """

    base: str
    ways: tuple[Way, ...]
    seconds: float
    limit_s: float
    slow_us: int
    moves: int
    seed: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        needed = self.seconds * (len(self.ways) + 1) + _STOP_S + _PREPARE_S
        if not self.seconds > 0 or not self.limit_s >= needed:
            raise UsageError(
                f"{self.limit_s:g} s in all are too few for {len(self.ways)} ways of {self.seconds:g} s, one of them"
                " measured again, and the preparation",
                remedy=f"For example --limit {needed:.0f}, or fewer --ways, or less --seconds.",
            )


class NothingToCompareError(PolicyctlError):
    """There is no base, or it cannot be run, or there is no time: no fault of this tree."""


class Pair:
    """Both sides, from their files to a verdict."""

    def __init__(self, asked: Options, base: ReleaseSide, candidate: ReleaseSide, until: float) -> None:
        self.asked, self.base, self.candidate = asked, base, candidate
        self._until = until
        self._formats = tuple(dict.fromkeys(way.format for way in asked.ways))
        self._control = Control.of(load_settings(repository=candidate.repository))
        self._rng = np.random.default_rng(asked.seed)
        self.plan: Plan = replace(plan_of(self._control), time_cap_s=asked.seconds)

    def left(self) -> float:
        """Seconds until everything must be over."""
        return self._until - _STOP_S - time.monotonic()

    def _left_to_prepare(self) -> float:
        """What measuring each way once, and one of them again, does not need."""
        return self.left() - self.asked.seconds * (len(self.asked.ways) + 1)

    def prepare(self) -> None:
        """Make what both serve, at once: nothing is measured yet.

        Raises:
            NothingToCompareError: The base cannot be run.
            CheckoutError: This tree cannot.
        """
        self.asked.say("Preparing both sides (compile, export, publish) ...")
        policy = self.candidate.checkout.folder / POLICY
        native = Format.OPENVINO in self._formats and not self.asked.slow_us
        with _fault_of_the_base():
            self.base.check(self._left_to_prepare)
        self.candidate.check(self._left_to_prepare)
        with ThreadPoolExecutor(max_workers=2) as pool:
            base, candidate = (
                pool.submit(s.prepare, policy, self._left_to_prepare, native=native)
                for s in (self.base, self.candidate)
            )
        with _no_time():
            candidate.result()
        with _fault_of_the_base():
            base.result()
        if self.base.native_problem and not self.candidate.native_problem:
            raise NothingToCompareError(self.base.native_problem)
        if self.candidate.native_problem and self.base.native_problem == "":
            raise CheckoutError(self.candidate.native_problem)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Both servers, for as long as the block runs; each answers the golden set rightly.

        Raises:
            NothingToCompareError: The base cannot serve it, or acts otherwise.
            CheckoutError: This tree cannot.
        """
        spin = json.dumps({PARAMETER: str(self.asked.slow_us)}) if self.asked.slow_us else ""
        with contextlib.ExitStack() as stack:
            for side in (self.base, self.candidate):
                stack.callback(lambda server: server.is_running and server.stop(), side.server)
            self.asked.say("Starting both servers ...")
            with _no_time():
                self.candidate.serve(self._formats, self._left_to_prepare, parameters=spin)
            self._certify(self.candidate)
            with _fault_of_the_base():
                self.base.serve(self._formats, self._left_to_prepare)
                self._certify(self.base)
            yield

    def _certify(self, side: ReleaseSide) -> None:
        """Both must act as the artifacts of this tree do, or they are not the same policy.

        Raises:
            CheckoutError: It acts otherwise, or does not answer.
        """
        opened = self._opened
        with contextlib.closing(Triton(Endpoint(http="", grpc=side.grpc))) as client:
            for chosen in self._formats:
                asks, slot = asker(client, side.served(chosen)), opened.published.slot
                said = golden.run(opened.contract, opened.golden, asks, slot=slot, max_batch_size=16)
                if said.verdict is not Verdict.PASSED:
                    raise CheckoutError(
                        f"{side.name} answers {chosen} otherwise than the artifacts of this tree: {said.reason}"
                    )

    @property
    def _opened(self) -> OpenRelease:
        repository = self._control.repository
        return open_release(repository, repository.journal.state().release(MODEL, RELEASES[0]))

    def cautions(self) -> tuple[str, ...]:
        """What a reader should know."""
        found = []
        if self.candidate.native_problem:
            found.append(
                f"the native backend is not built here, so the Python-based one serves: {self.candidate.native_problem}"
            )
        if self.base.native_problem is None and self.candidate.native_problem == "":
            found.append("the base has no native backend: what is compared is what each serves by itself")
        one, other = (side.checkout.folder / "constraints.txt" for side in (self.base, self.candidate))
        if not one.is_file() or one.read_bytes() != other.read_bytes():
            found.append("pinned versions differ, and both ran with the installed ones")
        if self.asked.slow_us:
            found.append(f"{self.asked.slow_us} us were put into each inference of this tree, for a test")
        return tuple(found)

    def judge(self) -> Iterator[Compared]:
        """Measure every way; then those that failed once more, with other processes, until one is proved.

        Raises:
            NothingToCompareError: There is no time left.
        """
        if self._left_to_prepare() < 0:
            raise NothingToCompareError(
                f"preparing took too long to measure within {self.asked.limit_s:.0f} s (--limit, --seconds)"
            )
        first = {way: self._measure(way) for way in self.asked.ways}
        again: dict[Way, GateResult] = {}
        failed = [way for way, result in first.items() if result.verdict is Verdict.FAILED]
        for way in failed:
            if self.left() < self.asked.seconds or any(r.verdict is Verdict.FAILED for r in again.values()):
                break
            again[way] = self._measure_anew(way)
        for way, result in first.items():
            yield Compared(way, (result, again[way]) if way in again else (result,))

    def _measure_anew(self, way: Way) -> GateResult:
        self.asked.say(f"{way.words} failed. Starting both servers anew to measure it once more ...")
        for side, verdict in ((self.base, Verdict.INCONCLUSIVE), (self.candidate, Verdict.ERROR)):
            try:
                side.start_anew()
            except CheckoutError as error:
                return GateResult(non_inferiority.NAME, verdict, error.problem)
        return self._measure(way)

    def _measure(self, way: Way) -> GateResult:
        self.asked.say(f"Measuring {way.words}, {self.asked.seconds:.0f} s at most ...")
        before = self.base.processes(), self.candidate.processes()
        interval_ms = self._control.settings.gates.non_inferiority.interval_ms
        with bursts_of(self._control, self._opened, interval_ms=interval_ms) as here:
            there = replace(here, options=replace(here.options, url=self.base.grpc))
            found = compare(
                Side(there, self.base.served(way.format), way.clients),
                Side(here, self.candidate.served(way.format), way.clients),
                self.plan,
                rng=self._rng,
            )
        after = self.base.processes(), self.candidate.processes()
        for side, one, other, verdict in zip(
            (self.base, self.candidate), before, after, (Verdict.INCONCLUSIVE, Verdict.ERROR), strict=True
        ):
            if one != other:
                words = f"a process of {side.name} died or was replaced meanwhile"
                found = replace(found, verdict=verdict, reason=words)
        self.asked.say(f"{way.words}: {found.verdict}. {found.reason}")
        return found

    def figures(self) -> dict[str, tuple[float, float]]:
        """What is told and not judged: memory, and how long a promotion takes, as far as there is time."""
        found: dict[str, tuple[float, float]] = {}
        try:
            found["memory of the server and its backends, MB"] = (self.base.memory_mb(), self.candidate.memory_mb())
            end = time.monotonic() + min(_MOVES_S, self.left())
            if end > time.monotonic():
                left = lambda: end - time.monotonic()  # noqa: E731
                found |= median_moves(self.base, self.candidate, self._formats[0], moves=self.asked.moves, left=left)
        except PolicyctlError as error:
            self.asked.say(f"Not everything was told: {error.problem}")
        return found


@contextlib.contextmanager
def _no_time() -> Iterator[None]:
    try:
        yield
    except CheckoutTimeError as error:
        raise NothingToCompareError(f"there was no time: {error.problem}") from error


@contextlib.contextmanager
def _fault_of_the_base() -> Iterator[None]:
    try:
        yield
    except CheckoutError as error:
        raise NothingToCompareError(f"this base cannot be compared with: {error.problem}") from error
