"""End loads that nobody waits for any more, so that one that never ends blocks nothing.

Triton cannot give a load up. It answers an unload when the load has ended, and
has four threads for loads, so four that never end keep it from loading anything,
the release that a rollback goes back to included.

Every load is made under the writer lock. So what is loading while the lock is
ours was abandoned: by a move that waited long enough, or by one that was killed.
Its backend process is ended, and with it the load. A native backend has no
separate process: such a load is left alone while it costs a thread, and the
server is started again where it would cost a rollback.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from policyctl.adapters.triton import LOADING, Triton
from policyctl.domain.log_event import LogLevel
from policyctl.domain.names import CANDIDATE, split_served_name
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.moves.measurement_lock import is_measuring
from policyctl.services.moves.mover import withdraw_candidate
from policyctl.serving.stubs import end_stubs

LOAD_THREADS: Final = 4
"""How many loads Triton carries out at a time, by its own default."""
PATIENCE_S: Final = 5.0
"""A load goes on so long at most once its backend process was ended."""
_LOGGER: Final = "policyctl.loads"


@dataclass(slots=True)
class StuckLoads:
    """Looks after the loads of one server.

    Attributes:
        control: The control plane.
        client: The server.
        clock: Seconds, monotonic.
    """

    control: Control
    client: Triton
    clock: Callable[[], float] = time.monotonic
    _since: dict[tuple[str, int], float] = field(default_factory=dict)

    def look(self) -> str:
        """End abandoned loads, and remove what is left of those that have ended.

        Returns:
            Why the server has to be started again; empty where it need not be.
        """
        try:
            if not self._since and not self._loading():
                return ""
            with self.control.repository.writer("end of abandoned loads"):
                return self._end(self._loading())
        except PolicyctlError:
            return ""  # another writer may have begun the load; a silent server is the prober's to judge

    def _loading(self) -> set[tuple[str, int]]:
        return {(served.name, served.slot) for served in self.client.index() if served.state == LOADING}

    def _end(self, loading: set[tuple[str, int]]) -> str:
        for name, slot in [key for key in self._since if key not in loading]:
            del self._since[name, slot]
            self._remove(name)
        stuck = []
        for name, slot in sorted(loading):
            if (name, slot) not in self._since:
                self._since[name, slot] = self.clock()
                self._give_up(name, slot)
            elif self.clock() - self._since[name, slot] > PATIENCE_S:
                stuck.append(name)
        return self._verdict(stuck)

    def _remove(self, name: str) -> None:
        """Remove a candidate whose load has ended; one that is measured was loaded since."""
        if split_served_name(name)[1] == CANDIDATE and not is_measuring(self.control):
            withdraw_candidate(self.control, self.client, name)

    def _give_up(self, name: str, slot: int) -> None:
        pid = self.client.endpoint.pid
        ended = end_stubs(pid, name, slot) if pid else 0
        how = "its backend process was ended" if ended else "it has no separate process that could be ended"
        words = f"Nobody waits for the load of {name} (slot {slot}) any more: {how}."
        self.control.tell(words, level=LogLevel.WARNING, logger=_LOGGER, served=name, slot=slot)

    def _verdict(self, stuck: list[str]) -> str:
        moving = {each.move.served for each in self.control.repository.journal.state().unfinished.values()}
        mine = [name for name in stuck if name in moving or split_served_name(name)[1] == CANDIDATE]
        if moved := moving.intersection(mine):
            return f"A load of {', '.join(sorted(moved))} never ends, so its move cannot be taken back"
        if len(mine) >= LOAD_THREADS - 1:
            return f"Loads of {', '.join(sorted(mine))} never end, and one more would block every rollback"
        return ""
