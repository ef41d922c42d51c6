"""Look at the fleet that a repository follows, again and again: only what is new of its journal is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policyctl.domain.fleet import FleetStatus
from policyctl.services.control import Control
from policyctl.services.rollout.here import store_of

if TYPE_CHECKING:
    from policyctl.services.fleet.moves import Fleet


@dataclass(slots=True)
class FleetLooker:
    """Reads the store of a fleet, on one thread at a time.

    Attributes:
        control: Its settings, or those of its server, name the store.
    """

    control: Control
    _fleet: Fleet | None = None

    def look(self) -> FleetStatus | None:
        """What every alias names, and what each node says that it serves; None where no store is named.

        Raises:
            PolicyctlError: The store does not answer, or its journal was changed.
        """
        from policyctl.services.fleet.moves import Fleet  # late: few follow a store

        store = store_of(self.control)
        if not store:
            return None
        if self._fleet is None or self._fleet.bucket.url != store.rstrip("/"):
            settings = self.control.settings
            named = settings.fleet.model_copy(update={"store": store})
            self._fleet = Fleet(settings.model_copy(update={"fleet": named}), self.control.say, looks=True)
        return self._fleet.status(model=None)
