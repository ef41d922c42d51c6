"""Whether a server loses requests while a model that it serves is loaded again.

Every move rests on that: Triton loads what comes next to what serves, and only
then lets it take the requests. NVIDIA's documentation of later versions no
longer promises it for explicit model control, so it is measured on the very
server: a release is loaded again and again as its model's candidate, under
callers without pause, and every answer is held against its golden set.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import Format
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Placement
from policyctl.domain.names import PRODUCTION
from policyctl.domain.probes import ProbeOutcome
from policyctl.errors import MoveError, ServerError
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.golden_questions import Question, ask_golden
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.measurement_lock import measuring
from policyctl.services.moves.validate import place
from policyctl.serving.checks import Check, Status

FILE: Final = "swaps.json"
LOADS: Final = 10
_CALLERS: Final = 2
_BETWEEN: Final = 20
"""Answers that are waited for after each load, so that loads do meet requests."""
_LIMIT_S: Final = 60.0
_PROVEN: Final = "2.51.0"
"""The embedded Triton: `make performance` moves aliases on it under load, and counts."""


@dataclass(frozen=True, slots=True)
class Swaps:
    """What became of the requests.

    Attributes:
        version: Triton's.
        loads: How often the served model was loaded again.
        requests: How many were asked meanwhile.
        failed: Those without an answer.
        wrong: Those with another than the golden answer.
        problem: What was wrong first; empty where nothing was.
    """

    version: str
    loads: int
    requests: int
    failed: int
    wrong: int
    problem: str

    @property
    def is_safe(self) -> bool:
        """Whether no request was lost, or answered wrongly."""
        return not self.failed and not self.wrong

    @property
    def words(self) -> str:
        """All of it, in a sentence."""
        counted = f"of {self.requests} requests {self.failed} failed and {self.wrong} were answered wrongly"
        first = f"; the first: {self.problem}" if self.problem else ""
        return f"Triton {self.version}: {counted} while a served model was loaded again {self.loads} times{first}"


def check(control: Control) -> Check:
    """Measure it on the running server, with the first alias that is served, and keep the result.

    Raises:
        BusyError: Another writer is at work.
    """
    fix = "Promote a release first; the server must run."
    try:
        with _measuring(control, "doctor --deep"), control.triton() as client:
            state = control.known()
            aliases = sorted(state.aliases.items(), key=lambda item: (item[0][1] != PRODUCTION, item[0]))
            if not aliases:
                return Check("swaps", Status.FAILED, "nothing is served that could be loaded again", fix)
            (model, _), named = aliases[0]
            opened = open_release(control.repository, state.release(model, named.placement.release))
            swaps = measure(control, client, opened, named.placement)
    except ServerError as error:
        return Check("swaps", Status.FAILED, error.problem, error.remedy or fix)
    if swaps.is_safe:
        return Check("swaps", Status.OK, swaps.words)
    return Check("swaps", Status.FAILED, swaps.words, "Use another version of Triton: docs/containers.md.")


def require_safe(control: Control, opened: OpenRelease, wanted: Format | None) -> None:
    """Refuse to move an alias that is served on a server that loses requests; one that nobody measured is measured.

    The caller does not hold the writer lock: a rollback need not wait for what is measured.

    Args:
        control: The control plane.
        opened: The release that is to be moved to.
        wanted: Which of its artifacts.

    Raises:
        BusyError: Another writer is at work, or another process measures.
        MoveError: The server loses requests, and the settings do not accept that; nothing was changed.
        ServerError: It does not answer.
    """
    with control.triton() as client:
        version = client.version()
        if version == _PROVEN:
            return
        swaps = control.repository.read_value(FILE, Swaps)
        if swaps is None or swaps.version != version:
            control.say(f"Nobody has measured yet whether Triton {version} loses requests while it loads.")
            with _measuring(control, f"measure Triton {version}"):
                placement = place(control, control.repository.journal.state(), opened, wanted)
                swaps = measure(control, client, opened, placement)
            control.tell(f"{swaps.words}.", level=LogLevel.INFO if swaps.is_safe else LogLevel.ERROR)
    if not swaps.is_safe and not control.settings.server.accept_losses:
        raise MoveError(
            f"{swaps.words}. Nothing was changed",
            remedy="Use another version of Triton, or set POLICYCTL_SERVER__ACCEPT_LOSSES=true where that does not"
            " matter. policyctl doctor --deep measures again.",
        )


@contextmanager
def _measuring(control: Control, doing: str) -> Iterator[None]:
    with measuring(control, doing), control.repository.writer(doing, wait_s=control.settings.lock_wait_s):
        yield


def measure(
    control: Control, client: Triton, opened: OpenRelease, placement: Placement, *, loads: int = LOADS
) -> Swaps:
    """Load a release again and again as its model's candidate, under callers, and keep what became of them.

    The caller holds the writer lock, and is the one process that measures. Others may write meanwhile.

    Raises:
        ServerError: The server refuses a load, or somebody else loaded a candidate of the model meanwhile.
    """
    state, repository = control.repository.journal.state(), control.repository
    question = Question(opened.published.release, opened.contract, opened.golden)
    with loaded(control, client, state, opened, placement) as candidate:
        served = candidate.ask.served
        with (
            repository.writer_aside(),
            control.working("Loading it again under load") as note,
            _asking(control, client, served, placement.slot, question) as asked,
        ):
            for number in range(loads):
                note(f"{number + 1} of {loads}")
                repository.stamp(served, placement.slot)
                client.load(served, placement.slot)
                asked.wait(_BETWEEN)
    if asked.strange:
        raise ServerError(
            f"somebody else loaded {served} while it was measured", remedy="Try again when that move has ended."
        )
    swaps = Swaps(client.version(), loads, asked.requests, asked.failed, asked.wrong, asked.problem)
    repository.write_value(FILE, swaps)
    return swaps


@dataclass(slots=True)
class _Asked:
    """What callers saw; each counts under the lock."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    problem: str = ""
    strange: bool = False
    """Whether another release answered, which somebody else has loaded."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def count(self, outcome: ProbeOutcome, words: str) -> None:
        with self.changed:
            self.requests += 1
            self.failed += outcome is ProbeOutcome.FAILED
            self.wrong += outcome is ProbeOutcome.WRONG
            self.problem = self.problem or words
            self.changed.notify_all()

    def wait(self, more: int) -> None:
        """Wait for so many more requests."""
        with self.changed:
            wanted = self.requests + more
            if not self.changed.wait_for(lambda: self.requests >= wanted, _LIMIT_S):
                raise ServerError(f"{self.requests} requests ended, and no more of them within {_LIMIT_S:.0f} s")


@contextmanager
def _asking(control: Control, client: Triton, served: str, slot: int, question: Question) -> Iterator[_Asked]:
    """Ask `served` without pause while the block runs."""
    asked, over = _Asked(), threading.Event()

    def ask() -> None:
        mine = control.client(client.endpoint)
        number = 0
        try:
            while not over.is_set():
                answer = ask_golden(mine, served, question, number)
                if answer.slot in {None, slot}:
                    asked.count(answer.outcome, answer.words)
                else:
                    asked.strange = True
                number += 1
        finally:
            mine.close()

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(_CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield asked
    finally:
        over.set()
        for caller in callers:
            caller.join()
