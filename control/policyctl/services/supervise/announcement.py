"""Tell commands, and people, where the server is; again and again where the disk does not take it.

What serves, serves on: a disk that is full keeps no server from its clients,
only commands on this machine from their server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.log_event import LogLevel
from policyctl.domain.state import State
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.observed import Observed, Unwritten

AGAIN_S: Final = 5.0
_LOGGER: Final = "policyctl.serve"
_SHOWN: Final = 5


@dataclass(slots=True)
class Announcement:
    """Where one run of a server answers.

    Attributes:
        observed: Where it is counted what the disk did not take.
    """

    control: Control
    observed: Observed
    endpoint: Endpoint
    _made: bool = False
    _next_try: float = 0.0
    _said: bool = False

    def make(self) -> None:
        """Write it down for commands; where the disk refuses, `repeat` tries again."""
        try:
            endpoints.write(self.control.repository, self.endpoint)
        except PolicyctlError as error:
            self.observed.not_written(Unwritten.ANNOUNCEMENT)
            self._next_try = time.monotonic() + AGAIN_S
            if not self._said:
                words = f"Commands on this machine do not find the server: {error.problem}. {error.remedy}"
                self._tell(f"{words} It serves on, and this is tried again every {AGAIN_S:.0f} s.", LogLevel.ERROR)
            self._said = True
            return
        self._made = True
        if self._said:
            self._tell("Commands on this machine find the server again.", LogLevel.INFO)

    def repeat(self) -> None:
        """Try again, where it was refused some seconds ago."""
        if not self._made and time.monotonic() >= self._next_try:
            self.make()

    def withdraw(self) -> None:
        """The server is gone."""
        endpoints.clear(self.control.repository)

    def say(self, state: State) -> None:
        """Tell people what is served and where; where nothing is, what is published and what to type."""
        endpoint, refused = self.endpoint, len(self.observed.refused)
        self._tell(
            f"Ready: {len(state.aliases) - refused} served, {refused} refused."
            f" HTTP {endpoint.http or 'off'}, gRPC {endpoint.grpc}, metrics {endpoint.metrics} (Triton)"
            f" and {endpoint.control_metrics} (policyctl). Ctrl-C stops.",
            LogLevel.INFO,
            server=endpoint.server_id,
        )
        if not state.aliases:
            self._tell(f"Nothing is served: {_nothing(state, self.control.repository.root)}", LogLevel.WARNING)

    def _tell(self, words: str, level: LogLevel, **fields: str) -> None:
        self.control.tell(words, level=level, logger=_LOGGER, **fields)


def _nothing(state: State, root: Path) -> str:
    published = sorted((r for r in state.releases.values() if not r.collected), key=lambda r: (r.model, r.slot))
    if not published:
        return f"nothing is published in {root}. Next: policyctl publish DIR --model NAME --release 1.0.0"
    shown = ", ".join(f"{each.model} {each.release}" for each in published[-_SHOWN:])
    more = f" and {len(published) - _SHOWN} more" if len(published) > _SHOWN else ""
    last = published[-1]
    return (
        f"no alias names what is published in {root} ({shown}{more})."
        f" Next: policyctl promote {last.model} {last.release}"
    )
