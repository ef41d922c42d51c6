"""The supervisor's part in bakes: those whose promoting process has gone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import lock
from policyctl.adapters.repository import Repository
from policyctl.domain.names import served_name
from policyctl.domain.probes import AliasKey
from policyctl.errors import PolicyctlError
from policyctl.services.bake.run import carry_out, lock_path
from policyctl.services.control import Control

RETRY_S: Final = (5.0, 15.0, 60.0)
"""How soon a rollback that failed is tried again."""
_JOIN_S: Final = 2.0


@dataclass(slots=True)
class BakeKeeper:
    """Carries out the bakes whose promoting process has gone; for the supervisor of the embedded server.

    It has a thread, and one more for each bake: a slow Prometheus must never
    keep the supervisor from its server.
    """

    control: Control
    stop: threading.Event
    clock: Callable[[], float] = time.monotonic
    _threads: dict[AliasKey, threading.Thread] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep bakes while the block runs; it sets `stop` at its end."""
        thread = threading.Thread(target=self._keep, name="bakes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            # What a thread has in hand now, the next supervisor takes up.
            deadline = time.monotonic() + _JOIN_S
            for each in (thread, *self._threads.values()):
                each.join(timeout=max(0.0, deadline - time.monotonic()))

    def _keep(self) -> None:
        while not self.stop.wait(1.0):
            with contextlib.suppress(PolicyctlError):
                self.look()

    def look(self) -> None:
        """Take up every open bake that nobody carries out."""
        repository = self.control.repository
        if endpoints.read(repository) is None:
            return  # there is nothing to ask yet
        for key, found in repository.journal.state().bakes.items():
            move_id = found.move.id
            busy = key in self._threads and self._threads[key].is_alive()
            if (
                busy
                or self.clock() < self._not_before.get(move_id, 0.0)
                or lock.is_held(lock_path(self.control, move_id))
            ):
                continue
            # A separate control plane: a repository's object knows one writer at a time.
            mine = replace(self.control, repository=Repository(repository.root))
            thread = threading.Thread(target=self._carry, args=(mine, key, move_id), daemon=True)
            self._threads[key] = thread
            thread.start()

    def _carry(self, control: Control, key: AliasKey, move_id: str) -> None:
        self.control.tell(f"Nobody carries out the bake of {served_name(*key)}; the server does.")
        try:
            carry_out(control, key, move_id, stop=self.stop)
        except PolicyctlError as error:
            failures = self._failures[move_id] = self._failures.get(move_id, 0) + 1
            pause_s = RETRY_S[min(failures, len(RETRY_S)) - 1]
            self._not_before[move_id] = self.clock() + pause_s
            self.control.tell(f"{error.problem}. The next try is in {pause_s:.0f} s.")
