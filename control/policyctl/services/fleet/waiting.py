"""Wait until the nodes of a fleet are where a move wants them.

Whether a node lives is seen by its reports changing while we look: no clock of
any node is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from policyctl.adapters.fleet_store import FleetJournal, read_reports
from policyctl.domain.fleet import FleetMove, NodeReport
from policyctl.domain.fleet_moves import Waited, assess
from policyctl.domain.moves import MoveKind
from policyctl.errors import MoveError, ServerError

LOOK_S: Final = 0.1
"""How often the reports of the nodes are read while a command waits for them."""
SWITCH_S: Final = 60.0
"""For all nodes to serve what was committed. They go on after it; the command says who has not come so far."""


@dataclass(slots=True)
class Watch:
    """The nodes of one store, as one command sees them during one wait.

    Attributes:
        journal: Of the store.
        lease_s: After so long without a change of its report a node is cut off; a node may ask for longer.
        clock: Monotonic, in seconds.
        sleep: Waits so many seconds.
    """

    journal: FleetJournal
    lease_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _changes: dict[str, tuple[tuple[str, int], float]] = field(default_factory=dict)
    """Run and beat of each node's newest report, and when it was first read."""

    def until_prepared(self, move: FleetMove, *, within_s: float) -> Waited:
        """Wait until every node has certified the release, or one says that it cannot.

        Raises:
            MoveError: Somebody ended the move.
            ServerError: The store does not answer.
        """
        deadline = self.clock() + within_s
        while True:
            if not self.journal.read().is_open(move):
                raise MoveError(f"somebody ended the {move.words}", remedy="See who: policyctl history")
            waited = self._look(move, lambda node: move.id in node.prepared)
            if waited.is_over or self.clock() >= deadline:
                return waited
            self.sleep(LOOK_S)

    def until_reached(self, move: FleetMove, generation: int) -> Waited:
        """Wait until every node serves what was committed, or one says that it cannot.

        A store that does not answer is waited for as well: the nodes go on.

        Raises:
            ServerError: It answers nothing until the time is over.
        """
        deadline = self.clock() + SWITCH_S
        # What a node's clock says decides nothing here but how long the command waits for a node that may be gone.
        old = (datetime.now(UTC) - timedelta(seconds=2 * self.lease_s)).isoformat()
        while True:
            try:
                waited = self._look(
                    move,
                    lambda node: node.has_reached(move.key, generation),
                    is_gone=lambda node: move.kind is not MoveKind.PROMOTION and node.time < old,
                )
                if waited.is_over or self.clock() >= deadline:
                    return waited
            except ServerError as error:
                if self.clock() >= deadline:
                    raise ServerError(
                        f"the {move.words} is committed as generation {generation}, and the store does not say which"
                        f" nodes serve it: {error.problem}",
                        remedy="See: policyctl status. To take it back: policyctl rollback.",
                    ) from error
            self.sleep(LOOK_S)

    def _look(
        self,
        move: FleetMove,
        is_there: Callable[[NodeReport], bool],
        *,
        is_gone: Callable[[NodeReport], bool] = lambda _node: False,
    ) -> Waited:
        nodes, now = read_reports(self.journal.bucket), self.clock()
        for node in nodes:
            if self._changes.get(node.node, (None,))[0] != (node.run, node.beat):
                self._changes[node.node] = ((node.run, node.beat), now)
        silent = {
            node.node
            for node in nodes
            if is_gone(node) or now - self._changes[node.node][1] >= max(self.lease_s, node.lease_s)
        }
        return assess(nodes, move, is_there, silent=silent)
