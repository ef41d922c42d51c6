"""Ask every alias for an action, again and again, and load again what does not answer correctly.

A ready flag proves nothing: a backend whose process died stays ready for ever.
An answer alone is not enough: the prober compares it with the golden set, row
after row, by the tolerance of certification. After a wrong answer it loads the
alias again, which certifies it. If that fails, or if the alias answers wrongly
again within the hour, it is withdrawn: no action is better than a wrong one. It
stays so until somebody moves it, loads it, or starts the server again.

Probing shares the writer lock with promotions and never waits for it: a
move certifies its alias as well. What was refused, because a file or a
signature is not right, is tried again now and then, so putting that right is all
that has to be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from policyctl.adapters.triton import Triton
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.probes import AliasKey, ProbeOutcome
from policyctl.domain.state import AliasState
from policyctl.errors import BusyError, IntegrityError, PolicyctlError
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.golden_questions import Question, Questions, ask_golden
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.moves.aliases import WrongAnswersError, load_alias
from policyctl.services.observed import Observed

FAILURES_BEFORE_RELOAD: Final = 2
RELOADS_BEFORE_RESTART: Final = 2
RETRY_S: Final = 5.0
"""How soon what was refused, or is not intact on disk, is looked at again."""
_LOGGER: Final = "policyctl.prober"
WRONG_AGAIN_S: Final = 3600.0
"""A second wrong answer within this time of the first withdraws an alias."""


@dataclass(slots=True)
class Health:
    """What probing has seen of one alias.

    Attributes:
        failures: Silences, one after the other.
        reloads: In vain, one after the other.
        wrong_at: When what answered wrongly last was loaded again, and what that was.
    """

    failures: int = 0
    reloads: int = 0
    asked: int = 0
    wrong_at: tuple[float, Placement] | None = None


@dataclass(slots=True)
class Prober:
    """Probes one server.

    Attributes:
        client: The server; its time limit bounds a question.
        observed: Where it writes down what it sees, and which aliases are refused:
            one that can be loaded again is taken out.
        silent: Whether the server itself gave no answer any more, when `probe` returned False.
    """

    control: Control
    client: Triton
    observed: Observed
    known: KnownJournal
    clock: Callable[[], float] = time.monotonic
    silent: bool = False
    _health: dict[AliasKey, Health] = field(default_factory=dict)
    _questions: Questions = field(init=False)
    _next_look: dict[str, float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._questions = Questions(self.control)

    def probe(self) -> bool:
        """Ask every alias once.

        Returns:
            False where only starting the server again can help.
        """
        for key, state in self.known.state().aliases.items():
            if self.observed.refused.get(key) == state.placement:
                self._retry(key, state)
                continue
            health = self._health.setdefault(key, Health())
            outcome = self.ask(key, state, health)
            if outcome is ProbeOutcome.FAILED:
                health.failures += 1
                if health.failures < FAILURES_BEFORE_RELOAD:
                    continue
                if not self.client.is_live():
                    self.silent = True
                    return False
                if health.reloads >= RELOADS_BEFORE_RESTART:
                    return False
                self._reload(key, state, health)
                continue
            health.failures = health.reloads = 0
            if outcome is ProbeOutcome.WRONG:
                self._put_right(key, state, health)
        return True

    def asked(self, key: AliasKey) -> int:
        """How often it has asked an alias."""
        return self._health[key].asked if key in self._health else 0

    def ask(self, key: AliasKey, state: AliasState, health: Health) -> ProbeOutcome | None:
        """Ask an alias for the next row of its golden set; None while that cannot be read."""
        question = self._question(key, state)
        if question is None:
            return None
        served, withdrawn = served_name(*key), key in self.observed.withdrawn
        said = ask_golden(self.client, served, question, health.asked)
        health.asked += 1
        if said.slot is None:
            if not withdrawn:  # then it is silent because we silenced it
                self.observed.probed(key, ProbeOutcome.FAILED, 0.0)
                self._tell(key, f"{served} does not answer: {said.words}", LogLevel.WARNING)
            return ProbeOutcome.FAILED
        problem = said.words if said.slot == state.placement.slot else self._stranger(key, state, said.slot)
        outcome = ProbeOutcome.WRONG if problem else ProbeOutcome.ANSWERED
        self.observed.probed(key, outcome, said.took_us / 1e6)
        if problem:
            self._tell(key, f"WRONG {served}: {problem}", LogLevel.ERROR)
        return outcome

    def _stranger(self, key: AliasKey, state: AliasState, slot: int) -> str:
        """What is wrong where another slot answers; empty if nothing is."""
        # A switch writes the journal before its first answer, so the journal of now explains that.
        now = self.known.state()
        if now.moving(*key) is not None or now.aliases.get(key) != state:
            return ""
        return f"slot {slot} answers, expected {state.placement.slot} ({state.placement.release})"

    def _question(self, key: AliasKey, state: AliasState) -> Question | None:
        """What to ask an alias; None while its files are not intact.

        What the server holds in memory was verified when it was loaded, and serves on.
        """
        if (known := self._questions.known(state.placement)) is not None:
            return known
        opened = self._open(key, state)
        return None if opened is None else self._questions.remember(opened)

    def _open(self, key: AliasKey, state: AliasState) -> OpenRelease | None:
        """Read an alias's release; None where it is not intact, or was looked at a moment ago."""
        digest = state.placement.manifest_digest
        if self.clock() < self._next_look.get(digest, 0.0):
            return None
        self._next_look[digest] = self.clock() + RETRY_S
        try:
            published = self.known.state().release(key[0], state.placement.release)
            return open_release(self.control.repository, published)
        except IntegrityError as error:
            self._say_once(f"{served_name(*key)} is not intact on disk: {error.problem}")
            return None

    def _retry(self, key: AliasKey, state: AliasState) -> None:
        """Load what was refused, if it can be loaded now; what answered wrongly only if somebody did so."""
        if self.observed.withdrawn.get(key) == state.placement:
            self._look_at_withdrawn(key, state)
            return
        if self._open(key, state) is None:
            return
        served = served_name(*key)
        try:
            with self.control.repository.writer(f"another try to load {served}"):
                if self.control.repository.journal.state().aliases.get(key) == state:
                    load_alias(self.control, self.client, key, state, afresh=True, observed=self.observed)
                    self._accept(key)
        except BusyError:
            return
        except WrongAnswersError as error:
            self._refuse(key, state, error, withdrawn=True)
        except PolicyctlError as error:
            self._say_once(f"{served} is still refused: {error.problem}")

    def _look_at_withdrawn(self, key: AliasKey, state: AliasState) -> None:
        match self.ask(key, state, self._health.setdefault(key, Health())):
            case ProbeOutcome.ANSWERED:
                self._tell(key, f"{served_name(*key)} was loaded by somebody and answers rightly.", LogLevel.INFO)
                self._accept(key)
            case ProbeOutcome.WRONG:
                self._withdraw(key, state)
            case _:
                pass

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            self.control.tell(words, level=LogLevel.ERROR, logger=_LOGGER)

    def _put_right(self, key: AliasKey, state: AliasState, health: Health) -> None:
        """Load again what answered wrongly, or withdraw it where that did not help before."""
        before, health.wrong_at = health.wrong_at, (self.clock(), state.placement)
        again = before is not None and before[1] == state.placement and self.clock() - before[0] < WRONG_AGAIN_S
        done = self._withdraw(key, state) if again else self._reload(key, state, health)
        if not done:
            health.wrong_at = before

    def _withdraw(self, key: AliasKey, state: AliasState) -> bool:
        """Take an alias out of service that does not answer rightly; says whether it could."""
        served = served_name(*key)
        try:
            with self.control.repository.writer(f"withdrawal of {served}"):
                if self.control.repository.journal.state().aliases.get(key) == state:
                    self.client.unload(served)
                    problem = f"{served} answered wrongly again after it was loaded again, and is withdrawn"
                    remedy = f"Roll back (policyctl rollback {key[0]}) or promote another release."
                    self._refuse(key, state, WrongAnswersError(problem, remedy=remedy), withdrawn=True)
        except BusyError:
            return False
        except PolicyctlError as error:
            self._tell(key, f"{served} could not be withdrawn: {error.problem}", LogLevel.ERROR)
            return False
        return True

    def _reload(self, key: AliasKey, seen: AliasState, health: Health) -> bool:
        """Load an alias again; says whether that was tried."""
        served = served_name(*key)
        try:
            with self.control.repository.writer(f"reload of {served}"):
                state = self.control.repository.journal.state().aliases.get(key)
                if state is None:
                    return False  # it was taken out of service since it was asked
                self._tell(key, f"Reloading {served}.", LogLevel.WARNING)
                self.observed.reloaded(key)
                health.reloads += 1
                load_alias(self.control, self.client, key, state, afresh=True, observed=self.observed)
        except BusyError:
            return False
        except (IntegrityError, WrongAnswersError) as error:
            # A damaged file or a revoked key: starting the server again would not help, and stop the other models.
            self._refuse(key, seen, error, withdrawn=isinstance(error, WrongAnswersError))
        except PolicyctlError as error:
            self._tell(key, f"{served} could not be loaded again: {error.problem}", LogLevel.ERROR)
        return True

    def _refuse(self, key: AliasKey, state: AliasState, error: PolicyctlError, *, withdrawn: bool) -> None:
        self.observed.refused[key] = state.placement
        if withdrawn:
            self.observed.withdrawn[key] = state.placement
        self._tell(key, f"REFUSED {served_name(*key)}: {error.problem}. {error.remedy}", LogLevel.ERROR)

    def _tell(self, key: AliasKey, words: str, level: LogLevel) -> None:
        self.control.tell(words, level=level, logger=_LOGGER, model=key[0], alias=key[1])

    def _accept(self, key: AliasKey) -> None:
        del self.observed.refused[key]
        self.observed.withdrawn.pop(key, None)
