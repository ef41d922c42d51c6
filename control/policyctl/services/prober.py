"""Ask every alias for an action, again and again, and load anew what does not answer.

A ready flag is hearsay: a backend whose process died stays ready for ever.
Probing shares the writer lock with promotions and never waits for it: whoever
moves an alias certifies it as well. What was refused, because a file or a
signature is not right, is tried again now and then, so putting that right is all
that has to be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from policyctl.adapters.triton import Triton
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.state import AliasState
from policyctl.errors import BusyError, IntegrityError, PolicyctlError, ServerError
from policyctl.services.aliases import AliasKey, load_alias
from policyctl.services.control import Control, OpenRelease, open_release

FAILURES_BEFORE_RELOAD: Final = 2
RELOADS_BEFORE_RESTART: Final = 2
RETRY_S: Final = 5.0
"""How soon what was refused, or is not intact on disk, is looked at again."""


@dataclass(frozen=True, slots=True)
class Question:
    """One golden observation, for the action."""

    observations: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]


@dataclass(slots=True)
class Health:
    """What probing has seen of one alias."""

    failures: int = 0
    reloads: int = 0


@dataclass(slots=True)
class Prober:
    """Probes one server.

    Attributes:
        control: The control plane.
        client: The server; its time limit bounds a question.
        refused: Aliases that were not loaded; one that can be loaded again is taken out.
        clock: Seconds, monotonic.
    """

    control: Control
    client: Triton
    refused: dict[AliasKey, Placement]
    clock: Callable[[], float] = time.monotonic
    _health: dict[AliasKey, Health] = field(default_factory=dict)
    _questions: dict[str, Question] = field(default_factory=dict)
    _next_look: dict[str, float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def probe(self) -> bool:
        """Ask every alias once.

        Returns:
            False where only starting the server again can help.
        """
        for key, state in self.control.repository.journal.state().aliases.items():
            if self.refused.get(key) == state.placement:
                self._retry(key, state)
                continue
            health = self._health.setdefault(key, Health())
            if self._answers(key, state):
                health.failures = health.reloads = 0
                continue
            health.failures += 1
            if health.failures < FAILURES_BEFORE_RELOAD:
                continue
            if health.reloads >= RELOADS_BEFORE_RESTART or not self.client.is_live():
                return False
            self._reload(key, state, health)
        return True

    def _answers(self, key: AliasKey, state: AliasState) -> bool:
        question = self._question(key, state)
        if question is None:
            return True
        try:
            self.client.infer(served_name(*key), question.observations, question.outputs)
        except ServerError as error:
            self.control.say(f"{served_name(*key)} does not answer: {error.problem}")
            return False
        return True

    def _question(self, key: AliasKey, state: AliasState) -> Question | None:
        """What to ask an alias; None while its files are not intact.

        What the server holds in memory was verified when it was loaded, and serves on.
        """
        digest = state.placement.manifest_digest
        if digest not in self._questions and (opened := self._open(key, state)) is not None:
            first = {name: array[:1] for name, array in opened.golden.observations.items()}
            self._questions[digest] = Question(first, (opened.contract.action.name,))
        return self._questions.get(digest)

    def _open(self, key: AliasKey, state: AliasState) -> OpenRelease | None:
        """Read an alias's release; None where it is not intact, or was looked at a moment ago."""
        digest, repository = state.placement.manifest_digest, self.control.repository
        if self.clock() < self._next_look.get(digest, 0.0):
            return None
        self._next_look[digest] = self.clock() + RETRY_S
        try:
            return open_release(repository, repository.journal.state().release(key[0], state.placement.release))
        except IntegrityError as error:
            self._say_once(f"{served_name(*key)} is not intact on disk: {error.problem}")
            return None

    def _retry(self, key: AliasKey, state: AliasState) -> None:
        """Load what was refused, if it can be loaded now."""
        if self._open(key, state) is None:
            return
        served = served_name(*key)
        try:
            with self.control.repository.writer(f"another try to load {served}"):
                if self.control.repository.journal.state().aliases.get(key) == state:
                    load_alias(self.control, self.client, key, state, afresh=True)
                    del self.refused[key]
        except BusyError:
            return
        except PolicyctlError as error:
            self._say_once(f"{served} is still refused: {error.problem}")

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            self.control.say(words)

    def _reload(self, key: AliasKey, seen: AliasState, health: Health) -> None:
        served = served_name(*key)
        try:
            with self.control.repository.writer(f"reload of {served}"):
                state = self.control.repository.journal.state().aliases.get(key)
                if state is None:
                    return  # it was taken out of service since it was asked
                self.control.say(f"Reloading {served}.")
                health.reloads += 1
                load_alias(self.control, self.client, key, state, afresh=True)
        except BusyError:
            return
        except IntegrityError as error:
            # A damaged file or a revoked key: starting the server again would not help, and stop the other models.
            self.refused[key] = seen.placement
            self.control.say(f"REFUSED {served}: {error.problem}. {error.remedy}")
        except PolicyctlError as error:
            self.control.say(f"{served} could not be loaded again: {error.problem}")
