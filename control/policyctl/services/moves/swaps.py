"""Whether a server loses requests while a model that it serves is loaded again.

Every move rests on that: Triton loads what comes next to what serves, and only
then lets it take the requests. NVIDIA's documentation of later versions no
longer promises it for explicit model control, so it is measured on the very
server: a release is loaded again and again as its model's candidate, under
callers without pause, and every answer is held against its golden set.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from policyctl.adapters.triton import Triton
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Placement
from policyctl.domain.names import PRODUCTION
from policyctl.domain.probes import ProbeOutcome
from policyctl.errors import MoveError, PolicyctlError, ServerError
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.golden_questions import Question, ask_golden
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.certify import certify
from policyctl.services.moves.validate import require_passed
from policyctl.serving.checks import Check, Status

FILE: Final = "swaps.json"
LOADS: Final = 10
_LEAST_LOADS: Final = 2
_ENOUGH_S: Final = 10.0
"""Others wait for the writer lock meanwhile, a rollback too."""
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
    """Measure it on the running server, with the first alias that is served, and keep the result."""
    fix = "Promote a release first; the server must run."
    try:
        with (
            control.repository.writer("doctor --deep", wait_s=control.settings.lock_wait_s),
            control.triton() as client,
        ):
            state = control.known()
            aliases = sorted(state.aliases.items(), key=lambda item: (item[0][1] != PRODUCTION, item[0]))
            if not aliases:
                return Check("swaps", Status.FAILED, "nothing is served that could be loaded again", fix)
            (model, _), named = aliases[0]
            opened = open_release(control.repository, state.release(model, named.placement.release))
            swaps = _measure(control, client, opened, named.placement)
    except PolicyctlError as error:
        return Check("swaps", Status.FAILED, error.problem, error.remedy or fix)
    if swaps.is_safe:
        return Check("swaps", Status.OK, swaps.words)
    return Check("swaps", Status.FAILED, swaps.words, "Use another version of Triton: policyctl docs containers.")


def require_safe(
    control: Control, client: Triton, opened: OpenRelease, placement: Placement, *, dry_run: bool
) -> tuple[str, ...]:
    """Refuse to move an alias that is served on a server that loses requests; one that nobody measured is measured.

    The caller holds the writer lock.

    Args:
        control: The control plane.
        client: The server.
        opened: The release that is to be moved to.
        placement: How it is to be served.
        dry_run: Measure nothing.

    Returns:
        What is still to be measured, in words, for a dry run.

    Raises:
        GateError: The release does not answer its golden set, so nothing can be measured with it.
        MoveError: The server loses requests, and the settings do not accept that; nothing was changed.
        ServerError: It does not answer.
    """
    version = client.version()
    if version == _PROVEN:
        return ()
    swaps = control.repository.read_value(FILE, Swaps)
    if swaps is None or swaps.version != version:
        if dry_run:
            return (f"measure whether Triton {version} loses requests while it loads",)
        control.say(f"Nobody has measured yet whether Triton {version} loses requests while it loads.")
        swaps = _measure(control, client, opened, placement)
        control.tell(f"{swaps.words}.", level=LogLevel.INFO if swaps.is_safe else LogLevel.ERROR)
    if not swaps.is_safe and not control.settings.server.accept_losses:
        raise MoveError(
            f"{swaps.words}. Nothing was changed",
            remedy="Use another version of Triton, or set POLICYCTL_SERVER__ACCEPT_LOSSES=true where that does not"
            " matter. policyctl doctor --deep measures again.",
        )
    return ()


def _measure(control: Control, client: Triton, opened: OpenRelease, placement: Placement) -> Swaps:
    """Load a release again and again as its model's candidate, under callers, and keep what became of them.

    Raises:
        GateError: The release does not answer its golden set on this server.
        ServerError: The server refuses a load.
    """
    state, repository, published = control.repository.journal.state(), control.repository, opened.published
    question, loads = Question(published.release, opened.contract, opened.golden), 0
    with loaded(control, client, state, opened, placement) as candidate:
        served = candidate.ask.served
        certified = certify(control, client, opened, served, placement)
        require_passed([certified], published.model, published.release)
        with (
            control.working("Loading it again under load") as note,
            _asking(control, client, served, question) as asked,
        ):
            until = time.monotonic() + _ENOUGH_S
            while loads < _LEAST_LOADS or (loads < LOADS and time.monotonic() < until):
                loads += 1
                note(f"{loads} of {LOADS}")
                repository.stamp(served, placement.slot)
                client.load(served, placement.slot)
                asked.wait(_BETWEEN)
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
def _asking(control: Control, client: Triton, served: str, question: Question) -> Iterator[_Asked]:
    """Ask `served` without pause while the block runs."""
    asked, over = _Asked(), threading.Event()

    def ask() -> None:
        mine = control.client(client.endpoint)
        number = 0
        try:
            while not over.is_set():
                answer = ask_golden(mine, served, question, number)
                asked.count(answer.outcome, answer.words)
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
