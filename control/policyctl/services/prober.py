"""Ask every alias for an action, again and again, and load anew what does not answer.

A ready flag is hearsay: a backend whose process died stays ready for ever.
Probing shares the writer lock with promotions and never waits for it: whoever
moves an alias certifies it as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from policyctl.adapters.triton import Triton
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.state import AliasState
from policyctl.errors import BusyError, IntegrityError, PolicyctlError, ServerError
from policyctl.services.aliases import AliasKey, load_alias
from policyctl.services.control import Control, open_release

FAILURES_BEFORE_RELOAD: Final = 2
RELOADS_BEFORE_RESTART: Final = 2


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
        refused: Aliases that were not loaded, and are not asked as long as they name the same.
    """

    control: Control
    client: Triton
    refused: Mapping[AliasKey, Placement]
    _health: dict[AliasKey, Health] = field(default_factory=dict)
    _questions: dict[str, Question | None] = field(default_factory=dict)

    def probe(self) -> bool:
        """Ask every alias once.

        Returns:
            False where only starting the server again can help.
        """
        for key, state in self.control.repository.journal.state().aliases.items():
            if self.refused.get(key) == state.placement:
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
            self._reload(key, health)
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
        digest = state.placement.manifest_digest
        if digest not in self._questions:
            repository = self.control.repository
            try:
                opened = open_release(repository, repository.journal.state().release(key[0], state.placement.release))
            except IntegrityError as error:
                # What the server holds in memory was verified when it was loaded, and serves on.
                self.control.say(f"{served_name(*key)} is not intact on disk any more: {error.problem}")
                self._questions[digest] = None
            else:
                first = {name: array[:1] for name, array in opened.golden.observations.items()}
                self._questions[digest] = Question(first, (opened.contract.action.name,))
        return self._questions[digest]

    def _reload(self, key: AliasKey, health: Health) -> None:
        served = served_name(*key)
        try:
            with self.control.repository.writer(f"reload of {served}"):
                state = self.control.repository.journal.state().aliases[key]
                self.control.say(f"Reloading {served}.")
                health.reloads += 1
                # A fresh configuration file makes Triton load anew beside the dead process, which an
                # unload would wait for in vain.
                self.control.repository.configure(served, state.placement.config)
                load_alias(self.control, self.client, key, state)
        except BusyError:
            return
        except PolicyctlError as error:
            self.control.say(f"{served} could not be loaded again: {error.problem}")
